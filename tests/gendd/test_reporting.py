"""Reports of synthetic run folders: the figures are the files', and nothing is left out without a word."""

import json
from pathlib import Path

import pytest
import torch

from gendd.checkpoint import save_tensors
from gendd.errors import UserError
from gendd.reporting.__main__ import main
from gendd.reporting.metrics import MetricsWriter, read_metrics
from gendd.reporting.pictures import principal_plane, spread

EPOCHS = 3


def write_run(
    folder: Path, method: str, read_outs: dict[str, tuple[float, float]], complete: bool = True, **config
) -> Path:
    """A run folder such as a training leaves, with the top-1 and top-5 given."""
    folder.mkdir(parents=True)
    taught = method != "classification"
    config = {
        "dataset": "digits", "image_size": 32, "method": method, "name": None, "student": "small", "seed": 0,
        "teacher": "large" if taught else None, "unlabeled": False, **config,
    }  # fmt: skip
    teacher = {"teacher": {"top1": 91.234, "top5": 99.0}} if taught else {}
    environment = {"versions": {"torch": "2.13.0"}, "git_commit": None, **teacher}
    last = {name: {"top1": top1, "top5": top5} for name, (top1, top5) in read_outs.items()}
    first = next(iter(last))
    records = [{"kind": "final", "epoch": EPOCHS, "step": EPOCHS, "images": 500, "split": "test", **last}]
    for epoch in range(1, EPOCHS + 1):
        records.append({"kind": "train", "epoch": epoch, "step": epoch, "loss": 2 / epoch, "lr": 1e-3})
        records.append({"kind": "eval", "epoch": epoch, "step": epoch, "images": 100, "split": "test", **last})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = {
        "epochs": EPOCHS, "earlier_epochs": 5 if method == "gendd" else 0,
        "split": "test", "images": 500, "last": last,
        "best": {"epoch": 2, "read_out": first, "top1": last[first]["top1"] + 1, "split": "test", "images": 100},
        "student": {"parameters": 1_230_000, "flops": 45_600_000}, "seconds": 78.9, "train_images_per_second": 321.4,
        "processes": 2, "hardware": "some GPU", "precision": "bf16",
    }  # fmt: skip
    if complete:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_features(folder: Path) -> None:
    random = torch.Generator().manual_seed(0)
    teacher = torch.randn(60, 8, generator=random)
    labels = torch.arange(60) % 12
    save_tensors(
        folder / "features.safetensors",
        {"teacher": teacher, "target": 0.5 * teacher, "generated": 50 * teacher, "labels": labels},
    )


def report(output: Path, *runs: Path) -> str:
    main([*map(str, runs), "--output", str(output)])
    return (output / "report.md").read_text()


def tables(text: str) -> list[list[dict[str, str]]]:
    """Rows of every Markdown table, by column name."""
    found = []
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        if block.startswith("|"):
            found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def test_the_table_holds_the_files_figures(tmp_path):
    gendd = write_run(
        tmp_path / "gendd", "gendd", {"head": (71.239, 92.5), "probe": (70.0, 91.0)}, name="mine", unlabeled=True
    )
    alone = write_run(tmp_path / "alone", "classification", {"classifier": (65.5, 88.0)}, seed=4)
    (rows,) = tables(report(tmp_path / "out", gendd, alone))
    assert [(row["Method"], row["Seed"], row["Read-out"]) for row in rows] == [
        ("classification", "4", "classifier"),
        ("mine", "0", "head"),
        ("mine", "0", "probe"),
    ]
    assert rows[1] == {
        "Method": "mine",
        "Seed": "0",
        "Teacher (top-1, %)": "large (91.23)",
        "Student": "small",
        "Read-out": "head",
        "Labels used": "no",
        "Epochs": "5 + 3",
        "Top-1, %": "71.24",
        "Top-5, %": "92.50",
        "Best top-1, %": "72.24 (epoch 2, on 100 test images)",
        "Student's parameters, M": "1.23",
        "Student's MFLOPs an image": "45.6",
        "Training images/s": "321",
        "Training time, s": "79",
        "Hardware, precision": "2 x some GPU, bf16",
    }
    assert rows[0]["Teacher (top-1, %)"] == "none"
    assert rows[0]["Labels used"] == "yes"
    assert rows[0]["Epochs"] == "3"
    assert rows[2]["Best top-1, %"] == "–"


def test_a_table_for_each_data_set(tmp_path):
    runs = [
        write_run(tmp_path / "a", "kd", {"classifier": (1.0, 5.0)}),
        write_run(tmp_path / "b", "kd", {"classifier": (2.0, 6.0)}, dataset="/somewhere/flowers"),
    ]
    text = report(tmp_path / "out", *runs)
    assert [[row["Top-1, %"] for row in rows] for rows in tables(text)] == [["1.00"], ["2.00"]]
    assert "## digits, 32x32 pixels, 500 test images" in text
    assert "## flowers, 32x32 pixels, 500 test images" in text
    assert f"tensorboard --logdir {tmp_path}" in text


def test_incomplete_runs_are_named_and_left_out(tmp_path, capsys):
    whole = write_run(tmp_path / "whole", "kd", {"classifier": (1.0, 5.0)})
    cut = write_run(tmp_path / "cut", "kd", {"classifier": (9.0, 9.0)}, complete=False)
    (rows,) = tables(report(tmp_path / "out", cut, whole))
    assert [row["Top-1, %"] for row in rows] == ["1.00"]
    assert f"not complete, left out: {cut}\n" in capsys.readouterr().out


def test_without_a_complete_run_the_user_is_told(tmp_path):
    cut = write_run(tmp_path / "cut", "kd", {"classifier": (9.0, 9.0)}, complete=False)
    with pytest.raises(UserError, match="no complete run"):
        report(tmp_path / "out", cut)
    with pytest.raises(UserError, match="no run folder"):
        report(tmp_path / "out", tmp_path)
    with pytest.raises(UserError, match="none given"):
        report(tmp_path / "out")


def test_an_output_that_cannot_be_written_is_a_user_error(tmp_path):
    run = write_run(tmp_path / "run", "kd", {"classifier": (1.0, 5.0)})
    with pytest.raises(UserError, match="--output"):
        report(run / "config.json", run)


def test_features_are_pictured_for_gendd_runs_only(tmp_path):
    plain = write_run(tmp_path / "plain", "kd", {"classifier": (1.0, 5.0)})
    generative = write_run(tmp_path / "generative", "gendd", {"head": (2.0, 6.0), "probe": (1.0, 5.0)})
    write_features(generative)
    assert "features.png" not in report(tmp_path / "without", plain)
    assert not (tmp_path / "without" / "features.png").exists()
    assert "](features.png)" in report(tmp_path / "with", plain, generative)
    for picture in ("curves.png", "features.png"):
        assert (tmp_path / "with" / picture).read_bytes().startswith(b"\x89PNG")


def test_principal_plane_has_one_orientation():
    random = torch.Generator().manual_seed(1)
    features = torch.randn(200, 6, generator=random) * torch.tensor([5.0, 3, 1, 1, 1, 1]) + 7
    mean, directions, shares = principal_plane(features)
    torch.testing.assert_close(mean, features.mean(0))
    torch.testing.assert_close(directions.T @ directions, torch.eye(2))
    assert directions[:, 0].argmax() == 0 and directions[:, 1].argmax() == 1
    assert (directions.amax(0) == directions.abs().amax(0)).all()
    variances = torch.linalg.eigvalsh(features.T.cov()).flip(0)
    torch.testing.assert_close(shares, variances[:2] / variances.sum())
    # Mirrored data only mirrors the picture's data, not its axes.
    torch.testing.assert_close(principal_plane(-features)[1], directions)


def test_labels_are_spread_without_leaving_the_panel():
    assert spread([0.1, 0.5], 0.1) == [0.1, 0.5]
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.5, 0.6, 0.7])
    assert spread([0.2, 0.99, 1.0], 0.1) == pytest.approx([0.2, 0.9, 1.0])


def test_metrics_survive_a_cut_line_and_a_step_back(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for epoch in (1, 2, 3):
        writer.write("train", epoch, 10 * epoch, {"loss": 1.0 / epoch})
    with open(writer.path, "a") as file:
        file.write('{"kind": "eval", "epo')
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20, 30]
    resumed = MetricsWriter(tmp_path, 20)
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]
    resumed.write("train", 3, 30, {"loss": 0.25})
    assert [record["loss"] for record in read_metrics(tmp_path)] == [1.0, 0.5, 0.25]
