"""Reports of synthetic run folders: the figures are the files', and nothing is left out without a word."""

import csv
import itertools
import json
import math
import os
import shutil
import stat
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from lines import refuses
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from run_folders import accuracies, change_settings, costs, write_features, write_run

from gendd.checkpoint import save_tensors
from gendd.metrics import MetricsWriter, read_metrics
from gendd.reporting.comparison import comparison
from gendd.reporting.curves import curves
from gendd.reporting.features import neighbors, principal_plane
from gendd.reporting.finished import finished_runs
from gendd.reporting.groups import Group, grouped
from gendd.reporting.pictures import log_axis, percent_limits, spread
from gendd.reporting.published import PUBLISHED
from gendd.reporting.report import report as program
from gendd_cifar.tree import TREE

main = partial(program, TREE)


def report(output: Path, *runs: Path) -> str:
    main([*map(str, runs), "--output", str(output)])
    return (output / "report.md").read_text()


def csv_rows(output: Path) -> list[dict[str, str]]:
    with open(output / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def file_numbers(folder: Path) -> dict[str, int]:
    """By name, what tells a file of the folder from one that takes its place."""
    return {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}


def test_the_table_holds_the_files_figures(tmp_path):
    gendd = write_run(
        tmp_path / "gendd", "gendd", {"head": (71.239, 92.5), "probe": (70.0, 91.0)}, name="mine", unlabeled=True
    )
    alone = write_run(tmp_path / "alone", "classification", {"classifier": (65.5, 88.0)}, seed=4)
    text = report(tmp_path / "out", gendd, alone)
    (rows,), (prices,) = accuracies(text), costs(text)
    assert [(row["Method"], row["n (seeds)"], row["Read-out"]) for row in rows] == [
        ("classification", "1 (4)", "classifier"),
        ("mine", "1 (0)", "head"),
        ("mine", "1 (0)", "probe"),
    ]
    assert rows[1] == {
        "Method": "mine",
        "Read-out": "head",
        "Top-1, %": "71.24",
        "Top-5, %": "92.50",
        "Teacher (top-1, %)": "large (91.23)",
        "Student": "small",
        "Labels used": "no",
        "Epochs": "5 + 3",
        "n (seeds)": "1 (0)",
        "Best top-1, %": "72.24 (epoch 2, on 100 test images)",
    }
    assert list(rows[1])[2] == "Top-1, %"
    assert rows[0]["Teacher (top-1, %)"] == "none"
    assert rows[0]["Labels used"] == "yes"
    assert rows[0]["Epochs"] == "3"
    assert rows[2]["Best top-1, %"] == "–"
    assert prices[-1] == {
        "Method": "mine",
        "Read-out": "head",
        "Top-1, %": "71.24",
        "Student": "small",
        "Parameters, M": "9.87",
        "MFLOPs per image": "65.4",
        "Images/s": "4000 (3000-5000)",
        "Training images/s": "321",
        "Training time, s": "79",
        "Hardware, precision": "2 x some GPU, bf16",
        "FLOPs, times the head's": "1.00",
    }
    assert (prices[1]["Parameters, M"], prices[1]["MFLOPs per image"]) == ("1.23", "45.6")


def seeds_of(tmp_path: Path, top1s: list[float], **config) -> list[Path]:
    """A kd run a seed, with these top-1."""
    return [
        write_run(tmp_path / f"kd{seed}", "kd", {"classifier": (top1, 90.0)}, seed=seed, **config)
        for seed, top1 in enumerate(top1s)
    ]


def test_seeds_share_a_mean(tmp_path):
    top1s = [70.5, 71.25, 72.9]
    runs = seeds_of(tmp_path, top1s)
    (rows,) = accuracies(report(tmp_path / "out", *reversed(runs), runs[0]))
    mean = sum(top1s) / 3
    deviation = math.sqrt(sum((top1 - mean) ** 2 for top1 in top1s) / 2)
    (row,) = rows
    assert row["n (seeds)"] == "3 (0, 1, 2)"
    assert row["Top-1, %"] == f"{mean:.2f} ± {deviation:.2f}"
    assert row["Best top-1, %"] == f"{mean + 1:.2f} ± {deviation:.2f} (epochs 2, 2, 2, on 100 test images)"
    (values,) = csv_rows(tmp_path / "out")
    assert (values["n"], values["seeds"]) == ("3", "0 1 2")
    assert float(values["top1"]) == pytest.approx(mean) and float(values["top1_sd"]) == pytest.approx(deviation)
    assert float(values["flops"]) == 45_600_000 and values["best_epochs"] == "2 2 2"
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"epochs": 4}, ""),
        ({"result": {"earlier_epochs": 5}}, ""),
        ({"result": {"precision": "fp32"}}, ""),
        ({"result": {"processes": 1}}, ""),
        ({"batch_size": 128}, "batch size"),
        ({"teacher_weights": "elsewhere", "temperature": 2.0}, "temperature"),
        ({"student_weights": "some.pth"}, "student weights"),
    ],
)
def test_what_differs_by_more_than_the_seed_shares_no_mean(tmp_path, other, told):
    runs = seeds_of(tmp_path, [70.0, 72.0])
    third = write_run(tmp_path / "other", "kd", {"classifier": (80.0, 90.0)}, seed=2, **other)
    (rows,) = accuracies(report(tmp_path / "out", *runs, third))
    assert sorted((row["Top-1, %"], row["n (seeds)"]) for row in rows) == [
        ("71.00 ± 1.41", "2 (0, 1)"),
        ("80.00", "1 (2)"),
    ]
    assert all(told in row.get("Settings that differ", "") for row in rows)
    assert bool(told) == ("Settings that differ" in rows[0])


def test_only_runs_of_the_same_teacher_share_a_mean(tmp_path):
    first, second = seeds_of(tmp_path, [70.0, 72.0])
    change_settings(second, teacher_weights="moved")
    ((row,),) = accuracies(report(tmp_path / "one", first, second))
    assert row["n (seeds)"] == "2 (0, 1)"
    environment = json.loads((second / "environment.json").read_text())
    environment["teacher"]["sha256"] = "cd34"
    (second / "environment.json").write_text(json.dumps(environment))
    (rows,) = accuracies(report(tmp_path / "two", first, second))
    assert [row["Settings that differ"] for row in rows] == ["teacher sha256 ab12", "teacher sha256 cd34"]


@pytest.mark.parametrize(
    ("sums", "rows"), [([None, None], 1), (["aa", "aa"], 1), (["aa", "bb"], 2)], ids=["old", "same", "other"]
)
def test_teachers_without_a_file_are_told_by_their_tensors(tmp_path, sums, rows):
    runs = seeds_of(tmp_path, [50.0, 60.0])
    for run, tensors in zip(runs, sums, strict=True):
        environment = json.loads((run / "environment.json").read_text())
        environment["teacher"] |= {"sha256": None} | ({"tensors_sha256": tensors} if tensors else {})
        (run / "environment.json").write_text(json.dumps(environment))
    assert len(grouped(finished_runs([str(run) for run in runs])[0])) == rows


def test_another_stage_1_shares_no_mean(tmp_path):
    """Though its name and its epochs are the same."""
    runs = []
    for seed, rate in enumerate((1e-3, 1e-3, 5e-3)):
        write_run(tmp_path / "pretrain" / str(seed), "pretrain", {"classifier": (60.0, 90.0)}, seed=seed, lr=rate)
        folder = tmp_path / "gendd" / str(seed)
        runs.append(write_run(folder, "gendd", {"head": (70.0 + seed, 90.0)}, seed=seed, pretrain_epochs=5))
    (rows,) = accuracies(report(tmp_path / "out", *runs))
    assert [(row["Settings that differ"], row["n (seeds)"]) for row in rows] == [
        ("earlier lr 0.001", "2 (0, 1)"),
        ("earlier lr 0.005", "1 (2)"),
    ]


def test_older_run_gets_default_flags_and_dashes(tmp_path):
    first, second = seeds_of(tmp_path, [70.0, 72.0])
    change_settings(second, temperature=4.0, milestones=[150, 180, 210])
    result = json.loads((second / "result.json").read_text())
    del result["read_outs"]
    (second / "result.json").write_text(json.dumps(result))
    text = report(tmp_path / "out", first, second)
    ((row,),), ((price,),) = accuracies(text), costs(text)
    assert row["n (seeds)"] == "2 (0, 1)"
    assert [price[name] for name in ("Parameters, M", "MFLOPs per image", "Images/s")] == ["–"] * 3


def test_speeds_of_different_hardware_are_not_mixed(tmp_path):
    first, second = seeds_of(tmp_path, [70.0, 72.0])
    result = json.loads((second / "result.json").read_text())
    (second / "result.json").write_text(json.dumps({**result, "hardware": "another GPU"}))
    ((row,),) = costs(report(tmp_path / "out", first, second))
    assert row["Top-1, %"] == "71.00 ± 1.41"
    assert [row[name] for name in ("Images/s", "Training images/s", "Training time, s")] == ["–"] * 3
    assert row["Hardware, precision"] == "2 x another GPU; some GPU, bf16"
    assert row["Parameters, M"] == "1.23"


def test_the_same_seed_twice_is_refused(tmp_path):
    runs = [write_run(tmp_path / name, "kd", {"classifier": (70.0, 90.0)}) for name in ("one", "two")]
    with refuses("same seed 0"):
        report(tmp_path / "out", *runs)


def test_groups_of_classes_have_columns(tmp_path):
    tail = write_run(tmp_path / "tail", "kd", {"classifier": (50.0, 80.0, 65.5, 12.25)})
    plain = write_run(tmp_path / "plain", "classification", {"classifier": (51.0, 81.0)})
    (rows,) = accuracies(report(tmp_path / "out", tail, plain))
    assert [(row["Many, %"], row["Few, %"]) for row in rows] == [("–", "–"), ("65.50", "12.25")]
    assert [row["few"] for row in csv_rows(tmp_path / "out")] == ["", "12.25"]


def test_published_figures_stand_apart(tmp_path):
    pair = {"dataset": "cifar100", "student": "resnet20"}
    distilled = {**pair, "teacher": "resnet56"}
    runs = [
        write_run(tmp_path / "alone", "classification", {"classifier": (60.0, 88.0)}, **pair),
        write_run(tmp_path / "kd", "kd", {"classifier": (62.0, 88.0)}, **distilled),
        write_run(tmp_path / "kd1", "kd", {"classifier": (63.0, 88.0)}, seed=1, **distilled),
        write_run(tmp_path / "gendd", "gendd", {"head": (61.0, 88.0), "probe": (60.0, 88.0)}, **distilled),
        write_run(tmp_path / "tail", "kd", {"classifier": (40.0, 70.0)}, **distilled, name="tail", imbalance=0.01),
    ]
    text = report(tmp_path / "out", *runs)
    rows, tail = accuracies(text)
    published = "Published top-1, % (quoted)"
    assert [(row["Method"], row["Top-1, %"], row[published]) for row in rows] == [
        ("classification", "60.00", "*69.06*"),
        ("kd", "62.50 ± 0.71", "*70.66*"),
        ("gendd", "61.00", "–"),
        ("gendd", "60.00", "–"),
    ]
    assert [(row["Method"], row.get(published, "–")) for row in tail] == [("tail", "–")]
    assert "cifar100-lt0.01, 32x32 pixels" in text
    assert rows[1]["Published in (quoted)"].startswith("*240 epochs, ")
    assert "of resnet56 > resnet20: teacher *72.34*" in text and "ikl *71.44*" in text
    assert [row["quoted_top1"] for row in csv_rows(tmp_path / "out")] == ["69.06", "70.66", "", "", ""]


def test_published_figures_are_of_the_run_s_own_budget_and_data(tmp_path):
    pair = {"dataset": "data/imagenet", "teacher": "beitv2_large", "student": "resnet50"}
    heads = {"head": (1.0, 5.0)}
    shards = "data/cc3m/cc3m-train-{0000..0575}.tar"
    mobile = {"teacher": "resnet50", "student": "mobilenetv1"}
    runs = [
        write_run(tmp_path / "a2", "gendd", heads, **pair, epochs=300),
        write_run(tmp_path / "a1", "gendd", heads, **pair, epochs=600),
        write_run(tmp_path / "cc3m", "gendd", heads, **mobile, dataset=shards, unlabeled=True),
        write_run(tmp_path / "seen", "gendd", heads, **mobile, dataset="imagenet", unlabeled=True, name="seen"),
    ]
    quoted = {}
    report(tmp_path / "out", *runs)
    for row in csv_rows(tmp_path / "out"):
        quoted[row["name"], row["data"].split(",")[0], row["epochs"]] = row["quoted_top1"]
    assert quoted == {
        ("gendd", "imagenet", "300"): "81.64",
        ("gendd", "imagenet", "600"): "82.28",
        ("gendd", "cc3m", "3"): "67.89",
        ("seen", "imagenet", "3"): "",
    }


def test_published_figures_are_named_once():
    keys = [(q.data, q.teacher, q.student, q.method, q.read_out, q.epochs, q.source) for q in PUBLISHED]
    assert len(set(keys)) == len(keys)


def test_a_table_for_each_data_set(tmp_path):
    runs = [
        write_run(tmp_path / "a", "kd", {"classifier": (1.0, 5.0)}),
        write_run(tmp_path / "b", "kd", {"classifier": (2.0, 6.0)}, dataset="/somewhere/flowers"),
    ]
    for run in runs:
        (run / "tensorboard").mkdir()
    text = report(tmp_path / "out", *runs)
    assert [[row["Top-1, %"] for row in rows] for rows in accuracies(text)] == [["1.00"], ["2.00"]]
    assert "## digits, 32x32 pixels, 500 test images" in text
    assert "## flowers, 32x32 pixels, 500 test images" in text
    assert f"tensorboard --logdir {tmp_path}" in text


def test_incomplete_runs_are_named_and_left_out(tmp_path, capsys):
    whole = write_run(tmp_path / "whole", "kd", {"classifier": (1.0, 5.0)})
    cut = write_run(tmp_path / "cut", "kd", {"classifier": (9.0, 9.0)}, complete=False)
    (rows,) = accuracies(report(tmp_path / "out", cut, whole))
    assert [row["Top-1, %"] for row in rows] == ["1.00"]
    assert f"not complete, left out: {cut}\n" in capsys.readouterr().out


def test_without_a_complete_run_the_user_is_told(tmp_path):
    cut = write_run(tmp_path / "cut", "kd", {"classifier": (9.0, 9.0)}, complete=False)
    with refuses("no complete run"):
        report(tmp_path / "out", cut)
    with refuses("no run folder"):
        report(tmp_path / "out", tmp_path)
    with refuses("RUN is missing"):
        report(tmp_path / "out")


def test_an_output_that_cannot_be_written_is_a_user_error(tmp_path):
    run = write_run(tmp_path / "run", "kd", {"classifier": (1.0, 5.0)})
    with refuses("--output"):
        report(run / "config.json", run)


def test_a_report_is_at_any_time_a_whole_one(tmp_path):
    run = write_run(tmp_path / "run", "gendd", {"head": (2.0, 6.0), "probe": (1.0, 5.0)})
    write_features(run)
    report(tmp_path / "out", run)
    before = file_numbers(tmp_path / "out")
    report(tmp_path / "out", run)
    after = file_numbers(tmp_path / "out")
    # Another file in place of the old one, not the same one written anew.
    assert set(after) == set(before) and len(after) == 6
    assert all(after[name] != number for name, number in before.items())


def test_features_are_pictured_for_gendd_runs_only(tmp_path):
    plain = write_run(tmp_path / "plain", "kd", {"classifier": (1.0, 5.0)})
    generative = write_run(tmp_path / "generative", "gendd", {"head": (2.0, 6.0), "probe": (1.0, 5.0)})
    write_features(generative)
    assert "features.png" not in report(tmp_path / "without", plain)
    assert not (tmp_path / "without" / "features.png").exists()
    assert "](features.png)" in report(tmp_path / "with", plain, generative)
    for picture in ("comparison.png", "curves.png", "features.png"):
        assert (tmp_path / "with" / picture).read_bytes().startswith(b"\x89PNG")


def groups_of(folders: list[Path]) -> list[Group]:
    return grouped(finished_runs(list(map(str, folders)))[0])


def overlaps(texts: list[Text]) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    pairs = itertools.combinations(boxes, 2)
    return [(one[0], other[0]) for one, other in pairs if Bbox.intersection(one[1], other[1]) is not None]


def test_comparison_has_one_panel_per_data_set(tmp_path):
    """Its groups stand under headings; teachers and networks without one are lines over their group alone."""
    runs = [
        write_run(tmp_path / "alone", "classification", {"classifier": (65.5, 88.0)}, optimizer="sgd"),
        write_run(
            tmp_path / "teacher", "classification", {"classifier": (91.234, 99.0)}, student="large", optimizer="sgd"
        ),
        write_run(tmp_path / "kd", "kd", {"classifier": (70.0, 90.0)}, optimizer="sgd"),
        write_run(tmp_path / "without", "kd", {"classifier": (60.0, 90.0)}, unlabeled=True, optimizer="muon"),
        write_run(tmp_path / "other", "kd", {"classifier": (40.0, 90.0)}, dataset="flowers"),
    ]
    figure = comparison(groups_of(runs))
    figure.draw_without_rendering()
    digits, flowers = figure.findobj(Axes)
    assert digits.get_title(loc="left") == "digits, 32x32 pixels, 500 test images"
    assert [text.get_text() for text in digits.texts if ":" in text.get_text()] == [
        "large alone: sgd, with labels",
        "small from large (91.23): sgd, with labels",
        "small from large (91.23): muon, without labels",
    ]
    lines = [line.get_xdata()[0] for line in digits.lines if line.get_linestyle() in (":", "--")]
    assert sorted(lines) == [65.5, 91.234, 91.234]
    assert not overlaps([*digits.texts, *digits.get_yticklabels()])


def test_axes_of_percentages_end_at_100(tmp_path):
    runs = [write_run(tmp_path / "kd", "kd", {"classifier": (100.0, 100.0)}, teacher="large")]
    for figure in (comparison(groups_of(runs)), curves([group.first for group in groups_of(runs)])):
        assert max(limit for axes in figure.findobj(Axes)[:1] for limit in axes.get_xlim() + axes.get_ylim()) <= 100
    assert percent_limits([90.0, 99.9])[1] == 100 and percent_limits([0.1, 5.0])[0] == 0
    assert percent_limits([-3.0])[0] < -3


def test_numbers_of_logarithmic_axes_are_few():
    for high in (1.5, 8.0, 90.0, 3e4, 1e9):
        axes = Figure().subplots()
        log_axis(axes.yaxis, [1.2, high])
        axes.plot([0, 1], [1.2, high])
        assert len(axes.get_yticks()) <= 5


def write_images(folder: Path, count: int) -> None:
    """Features and thumbnails of images; the student finds the teacher's neighbors but for the last image."""
    teacher = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    student = teacher.clone()
    student[-1] = -student[0]
    tensors = {"teacher": teacher, "target": 2 * teacher, "generated": student, "labels": torch.full((count,), -1)}
    thumbnails = torch.randint(256, (count, 3, 48, 48), dtype=torch.uint8)
    save_tensors(folder / "features.safetensors", {**tensors, "thumbnails": thumbnails})


def run_without_classes(folder: Path, images: int = 30) -> Path:
    """A run of images alone: judged by its features."""
    scores = {"cosine": 91.0, "r2": 83.0, "neighbors": 60.0}
    best = {"epoch": 2, "read_out": "head", **scores, "split": "validation", "images": 30}
    result = {"last": {"head": scores}, "best": best, "split": "validation"}
    run = write_run(folder, "gendd", {"head": (1.0, 5.0)}, unlabeled=True, result=result)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    changed = [{**record, "head": scores} if record["kind"] == "eval" else record for record in records]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in changed))
    write_images(run, images)
    return run


def test_neighbors_come_first_without_labels(tmp_path):
    text = report(tmp_path / "out", run_without_classes(tmp_path / "run"))
    headings = [line for line in text.splitlines() if line.startswith("##")]
    assert headings[0] == "## Neighbors" and headings[-1] == "## How to read"
    ((row,),) = accuracies(text)
    assert list(row)[2] == "Cosine, %" and row["Neighbors (chance 2.0 %), %"] == "60.00"


@pytest.mark.parametrize("images", [30, 4])
def test_neighbors_have_cosines_and_common_ones_a_frame(tmp_path, images):
    run = run_without_classes(tmp_path / "run", images)
    figure = neighbors(finished_runs([str(run)])[0][0])
    tensors = safetensors.torch.load_file(run / "features.safetensors")
    sides = []
    for name in ("teacher", "generated"):
        unit = torch.nn.functional.normalize(tensors[name], dim=-1)
        cosines = unit @ unit.T - 2 * torch.eye(images)
        sides.append(cosines.topk(min(5, images - 1)))
    rows = min(6, images)
    pictures = [axes for part in figure.subfigs[1:] for axes in part.axes]
    told = [float(axes.get_xlabel()) for axes in pictures]
    assert told == pytest.approx(
        [cosine for side in sides for cosine in side.values[:rows].flatten().tolist()], abs=0.006
    )
    framed = sum(axes.spines["left"].get_visible() for axes in pictures)
    common = sum(
        len(set(one) & set(other)) for one, other in zip(*(side.indices[:rows].tolist() for side in sides), strict=True)
    )
    assert framed == 2 * common > 0
    assert f"of {images - 1} other validation images" in figure.get_suptitle()


@pytest.mark.filterwarnings("error")
def test_curves_name_predictions_and_start_after_earlier_runs(tmp_path):
    names = [f"gendd-variant-{number}" for number in range(12)]
    two = {"head": (70.0, 90.0), "probe": (60.0, 80.0)}
    folders = [write_run(tmp_path / name, "gendd", two, name=name) for name in names]
    alone = write_run(tmp_path / "alone", "classification", {"classifier": (50.0, 70.0)})
    figure = curves(finished_runs([*map(str, folders), str(alone)])[0])
    figure.draw_without_rendering()
    accuracies_by_epoch, *losses = figure.findobj(Axes)
    ends = {text.get_text(): text for text in accuracies_by_epoch.texts}
    told = {f"{name}, {read_out}" for name in names for read_out in two}
    assert set(ends) == told | {"classification, classifier", "teacher large"}
    width, height = figure.get_size_inches() * figure.dpi
    assert height < 1800 and not overlaps(list(ends.values()))
    assert all(axes.get_legend() is None for axes in (accuracies_by_epoch, *losses))
    assert all(accuracies_by_epoch.bbox.x1 <= text.get_window_extent().x0 < width for text in ends.values())
    # The student alone comes first; GenDD's began after a stage 1 of 5 epochs.
    starts = [axes.lines[0].get_xdata().tolist() for axes in losses]
    assert starts == [[1, 2, 3], *[[6, 7, 8]] * len(names)]
    assert {tuple(line.get_xdata()) for line in accuracies_by_epoch.lines} >= {(1, 2, 3), (6, 7, 8)}


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


def test_metrics_survive_a_kill_at_the_moment_of_going_on(tmp_path, monkeypatch):
    MetricsWriter(tmp_path, 0).write("train", 1, 10, {"loss": 1.0})
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        MetricsWriter(tmp_path, 0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    number = file_numbers(tmp_path)["metrics.jsonl"]
    MetricsWriter(tmp_path, 10)
    assert file_numbers(tmp_path)["metrics.jsonl"] != number
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


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
    # Killed after the last measurement, which then is made again.
    resumed.write("final", 3, 30, {"loss": 0.25})
    MetricsWriter(tmp_path, 30)
    assert [record["kind"] for record in read_metrics(tmp_path)] == ["train"] * 3


def packed_runs(tmp_path: Path) -> list[Path]:
    """Two complete run folders and one that is not, in tmp_path/runs."""
    runs = [
        write_run(tmp_path / "runs" / str(seed), "kd", {"classifier": (60.0 + seed, 90.0)}, seed=seed)
        for seed in (0, 1)
    ]
    write_run(tmp_path / "runs" / "2", "kd", {"classifier": (50.0, 80.0)}, complete=False, seed=2)
    return runs


@pytest.mark.parametrize("kind", ["tar", "gztar", "bztar", "xztar", "zip"])
def test_archive_of_runs_gives_report_of_its_folders(tmp_path, kind):
    runs = packed_runs(tmp_path)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, "runs"))
    assert report(tmp_path / "out", archive) == report(tmp_path / "plain", *runs)
    assert csv_rows(tmp_path / "out") == csv_rows(tmp_path / "plain")


def test_archives_that_hold_no_runs_are_refused(tmp_path):
    (tmp_path / "damaged.tar.xz").write_bytes(b"no archive")
    with tarfile.open(tmp_path / "empty.tar", "w") as archive:
        archive.add(__file__, "file.py")
    with tarfile.open(tmp_path / "outside.tar", "w") as archive:
        archive.add(__file__, "../file.py")
    with zipfile.ZipFile(tmp_path / "outside.zip", "w") as archive:
        archive.write(__file__, "../file.py")
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("runs")
        link.external_attr = stat.S_IFLNK << 16
        archive.writestr(link, "/etc")
    for name, reason in (
        ("damaged.tar.xz", "cannot be read"),
        ("absent.tar.xz", "cannot be read"),
        ("empty.tar", "no complete run"),
        ("outside.tar", "cannot"),
        ("outside.zip", "leads outside"),
        ("link.zip", "not a plain file"),
    ):
        with refuses(f"^RUN .*{name}: .*{reason}"):
            report(tmp_path / "out", tmp_path / name)
    assert not (tmp_path.parent / "file.py").exists()


@pytest.mark.parametrize("kind", ["tar", "gztar", "bztar", "xztar", "zip"])
@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, "headers"])
def test_damaged_archives_are_refused(tmp_path, kind, share):
    """Wherever it is cut, and with the header of a later file broken: no report on a part of the runs."""
    packed_runs(tmp_path)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, "runs"))
    whole = archive.read_bytes()
    if share == "headers":
        at = whole.rindex(b"runs/") if kind in ("tar", "zip") else len(whole) // 2
        archive.write_bytes(whole[:at] + b"\xff" * 64 + whole[at + 64 :])
    else:
        # Where a file begins too, where nothing but the missing end shows it.
        archive.write_bytes(whole[: int(share * len(whole)) // 512 * 512 if kind == "tar" else int(share * len(whole))])
    with refuses("^RUN .*damaged"):
        report(tmp_path / "out", archive)


def test_a_file_that_is_no_archive_is_refused_in_a_line(tmp_path):
    for name in ("result.json", "runs.tar.xz"):
        (tmp_path / name).write_text("{}")
        with refuses(f"^RUN .*{name}: .*name run folders") as refused:
            report(tmp_path / "out", tmp_path / name)
        assert "method gz" not in str(refused.value)
