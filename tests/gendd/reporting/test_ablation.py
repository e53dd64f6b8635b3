"""Ablation tables and inference costs of synthetic run folders."""

import csv
import statistics
from functools import partial
from pathlib import Path

import pytest
from lines import refuses
from run_folders import costs as cost_tables
from run_folders import tables, write_contents, write_run

from gendd.programs.command_line import parse
from gendd.programs.report import report
from gendd.reporting.ablate import AblateConfig, draw
from gendd_cifar.family import FAMILY

COST = {"head": {"parameters": 2_000_000, "loss_flops": 3_000_000}}

main = partial(report, FAMILY)


def ablate(words: list[str]) -> None:
    draw(parse(AblateConfig, "ablate", words))


def gendd_run(folder: Path, head: float, probe: float, result: dict | None = None, **config) -> str:
    return str(write_run(folder, "gendd", {"head": (head, 90.0), "probe": (probe, 90.0)}, result=result, **config))


def ablation_rows(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_ablation_has_one_row_per_value_with_seeds_and_cost(tmp_path):
    runs = [
        gendd_run(tmp_path / "a", 60.0, 50.0, COST, contraction=0.5, seed=0, name="gendd-contraction-0.5"),
        gendd_run(tmp_path / "b", 63.0, 51.0, COST, contraction=0.5, seed=1, name="gendd-contraction-0.5"),
        gendd_run(tmp_path / "c", 40.0, 45.0, COST, contraction=0.25, name="gendd-contraction-0.25"),
    ]
    ablate(["contraction", *runs, "--output", str(tmp_path / "out")])
    found = ablation_rows(tmp_path / "out", "contraction")
    assert [(row["contraction"], row["output"]) for row in found] == [
        ("0.25", "head"), ("0.25", "probe"), ("0.5", "head"), ("0.5", "probe"),
    ]  # fmt: skip
    assert [float(row["top-1 %"]) for row in found] == [40, 45, 61.5, 50.5]
    assert [row["sd"] for row in found[:2]] == ["", ""]
    assert float(found[2]["sd"]) == pytest.approx(statistics.stdev([60, 63]))
    assert {row["MFLOPs per image of the head's loss"] for row in found} == {"3.0"}
    before = [path.stat().st_ino for path in sorted((tmp_path / "out").iterdir())]
    ablate(["contraction", *runs, "--output", str(tmp_path / "out")])
    after = [path.stat().st_ino for path in sorted((tmp_path / "out").iterdir())]
    # Files are replaced, not rewritten, so that a reader never finds a part of one.
    assert len(after) == 3 and all(one != other for one, other in zip(before, after, strict=True))
    (table,) = tables((tmp_path / "out" / "contraction.md").read_text())
    assert [row["seeds"] for row in table] == ["1", "1", "2", "2"]
    assert (tmp_path / "out" / "contraction.png").read_bytes().startswith(b"\x89PNG")


def test_timestep_schemes_get_curves_and_old_runs_no_cost(tmp_path):
    runs = [
        gendd_run(tmp_path / f"{k}{scheme}", k, 1.0, repeats=k, draw_scheme=scheme, name=f"{k}-{scheme}")
        for k in (4, 30)
        for scheme in ("independent", "shared")
    ]
    ablate(["repeats", *runs, "--output", str(tmp_path / "out")])
    heads = [row for row in ablation_rows(tmp_path / "out", "repeats") if row["output"].startswith("head")]
    assert [(row["output"], row["repeats"]) for row in heads] == [
        ("head, independent", "4"), ("head, shared", "4"), ("head, independent", "30"), ("head, shared", "30"),
    ]  # fmt: skip
    assert {row["MFLOPs per image of the head's loss"] for row in heads} == {""}


def test_ablation_prints_table_if_folder_is_not_writable(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    run = gendd_run(tmp_path / "a", 60.0, 50.0, COST)
    with refuses("--output .*file/out: cannot be written"):
        ablate(["contraction", run, "--output", str(tmp_path / "file" / "out")])
    assert "| head |" in capsys.readouterr().out


@pytest.mark.parametrize(("weights", "reported"), [("ema", ("ema_probe", "ema_head")), ("trained", ("probe", "head"))])
def test_ablation_gives_cost_of_the_reported_weights(tmp_path, weights, reported):
    accuracies = dict.fromkeys(("ema_head", "ema_probe", "head", "probe"), (50.0, 90.0))
    run = write_run(tmp_path / "run", "gendd", accuracies, ema_decay=0.9, eval_weights=weights)
    main([str(run), "--output", str(tmp_path / "out")])
    (table,) = cost_tables((tmp_path / "out" / "report.md").read_text())
    assert [row["Output"] for row in table] == [name.replace("_", " ") for name in reported]
    assert table[-1]["FLOPs, times the head's"] == "1.00"


@pytest.mark.parametrize("other", [{"lr": 0.5}, {"draw_scheme": "antithetic"}, {"result": {"earlier_epochs": 7}}])
def test_runs_that_differ_in_other_settings_are_refused(tmp_path, other):
    runs = [
        gendd_run(tmp_path / "a", 1.0, 1.0, feature_mixup=0.0),
        gendd_run(tmp_path / "b", 1.0, 1.0, feature_mixup=1.0, **other),
    ]
    with refuses("more than the setting") as error:
        ablate(["feature-mixup", *runs, "--output", str(tmp_path / "out")])
    assert next(iter(other.get("result", other))).replace("_", " ") in str(error.value).replace("_", " ")


def test_costs_are_sorted_and_relative_to_the_best_head(tmp_path):
    costs = {"classifier": {"parameters": 1, "flops": 130_800_000}}
    runs = [
        gendd_run(tmp_path / "worse", 60.0, 50.0, name="worse"),
        gendd_run(tmp_path / "better", 61.0, 50.0, {"outputs": {
            "head": {"parameters": 1, "flops": 100_000_000}, "probe": {"parameters": 1, "flops": 45_600_000},
        }}, name="better"),
        str(write_run(tmp_path / "kd", "kd", {"classifier": (62.0, 90.0)}, result={"outputs": costs}, student="big")),
        str(write_run(tmp_path / "old", "kd", {"classifier": (9.0, 9.0)}, result={"outputs": {}}, name="old")),
        # A better head, but of another method than GenDD.
        str(write_run(tmp_path / "control", "regression", {"head": (70.0, 90.0)})),
    ]  # fmt: skip
    main([*runs, "--output", str(tmp_path / "out")])
    (table,) = cost_tables((tmp_path / "out" / "report.md").read_text())
    *table, unknown = table
    assert (unknown["Method"], unknown["FLOPs, times the head's"]) == ("old", "–")
    ratios = [float(row["FLOPs, times the head's"]) for row in table]
    assert ratios == sorted(ratios) and ratios[-2:] == [1.0, 1.31]
    assert {row["Method"] for row in table} == {"worse", "better", "kd", "regression"}
    assert table[-1]["Student"] == "big" and table[-2]["Output"] == "head"
    assert (tmp_path / "out" / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_report_without_costs_omits_the_cost_picture(tmp_path):
    run = write_run(tmp_path / "old", "kd", {"classifier": (9.0, 9.0)}, result={"outputs": {}})
    main([str(run), "--output", str(tmp_path / "out")])
    assert "cost.png" not in (tmp_path / "out" / "report.md").read_text()


def test_ablation_refuses_runs_of_other_images(tmp_path):
    runs = [gendd_run(tmp_path / f"{share}", 60.0, 50.0, COST, contraction=share) for share in (0.25, 0.5)]
    write_contents(Path(runs[0]), "ab")
    ablate(["contraction", *runs, "--output", str(tmp_path / "out")])
    write_contents(Path(runs[1]), "cd")
    with refuses("differ in more than the setting and the seed .training contents ab and cd"):
        ablate(["contraction", *runs, "--output", str(tmp_path / "out")])
