"""The table of a report, compared with the values in the files."""

import json
import math
from pathlib import Path

import pytest
from lines import refuses
from run_folders import accuracies, change_settings, costs, csv_rows, file_numbers, report, write_features, write_run

from gendd.reporting.escape import escaped
from gendd.reporting.finished import finished_runs
from gendd.reporting.groups import grouped
from gendd.reporting.published import PUBLISHED
from gendd.runs.lock import sole_writer


def test_table_has_the_values_of_the_files(tmp_path):
    gendd = write_run(
        tmp_path / "gendd", "gendd", {"head": (71.239, 92.5), "probe": (70.0, 91.0)}, name="mine", unlabeled=True
    )
    alone = write_run(tmp_path / "alone", "classification", {"classifier": (65.5, 88.0)}, seed=4)
    text = report(tmp_path / "out", gendd, alone)
    (rows,), (prices,) = accuracies(text), costs(text)
    assert [(row["Method"], row["n (seeds)"], row["Output"]) for row in rows] == [
        ("classification", "1 (4)", "classifier"),
        ("mine", "1 (0)", "head"),
        ("mine", "1 (0)", "probe"),
    ]
    assert rows[1] == {
        "Method": "mine",
        "Output": "head",
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
        "Output": "head",
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
    """Write one kd run per seed, with these top-1 scores."""
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
def test_runs_that_differ_beyond_the_seed_share_no_mean(tmp_path, other, told):
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
def test_teachers_without_a_file_are_compared_by_tensors(tmp_path, sums, rows):
    runs = seeds_of(tmp_path, [50.0, 60.0])
    for run, tensors in zip(runs, sums, strict=True):
        environment = json.loads((run / "environment.json").read_text())
        environment["teacher"] |= {"sha256": None} | ({"tensors_sha256": tensors} if tensors else {})
        (run / "environment.json").write_text(json.dumps(environment))
    assert len(grouped(finished_runs([str(run) for run in runs])[0])) == rows


def test_runs_of_different_stage_1_share_no_mean(tmp_path):
    """The two stage 1 runs have the same name and number of epochs."""
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


@pytest.mark.parametrize(
    ("grid", "told"), [(4, {"kd": "dense grid 0", "gendd": "dense grid 4", "feature": ""}), (0, {})]
)
def test_dense_term_is_named_between_methods(tmp_path, grid, told):
    methods = {"kd": {"dense_grid": 0}, "gendd": {"dense_grid": grid}, "feature": {}}
    runs = [str(write_run(tmp_path / name, name, {"head": (70.0, 90.0)}, **flags)) for name, flags in methods.items()]
    groups = grouped(finished_runs(runs)[0])
    assert {group.first.name: group.differing for group in groups} == (told or dict.fromkeys(methods, ""))


def test_probe_gradient_is_named_beside_methods_without_it(tmp_path):
    methods = {"kd": {}, "gendd": {"probe_gradient": 0.05}}
    runs = [str(write_run(tmp_path / name, name, {"head": (70.0, 90.0)}, **flags)) for name, flags in methods.items()]
    groups = grouped(finished_runs(runs)[0])
    assert {group.first.name: group.differing for group in groups} == {"kd": "", "gendd": "probe gradient 0.05"}


def test_older_run_gets_default_flags_and_dashes(tmp_path):
    first, second = seeds_of(tmp_path, [70.0, 72.0])
    change_settings(second, temperature=4.0, milestones=[150, 180, 210])
    result = json.loads((second / "result.json").read_text())
    del result["outputs"]
    (second / "result.json").write_text(json.dumps(result))
    text = report(tmp_path / "out", first, second)
    ((row,),), ((price,),) = accuracies(text), costs(text)
    assert row["n (seeds)"] == "2 (0, 1)"
    assert [price[name] for name in ("Parameters, M", "MFLOPs per image", "Images/s")] == ["–"] * 3


def test_result_of_an_older_run_has_other_names(tmp_path):
    run = write_run(tmp_path / "run", "kd", {"classifier": (70.0, 90.0)})
    expected, file = report(tmp_path / "out", run), run / "result.json"
    older = file.read_text().replace('"outputs"', '"read_outs"').replace('"output"', '"read_out"')
    assert older.count("read_out") == 2
    file.write_text(older)
    assert report(tmp_path / "again", run) == expected


def test_speeds_and_times_are_medians_over_seeds(tmp_path):
    runs = []
    for seed, (seconds, trained, rate) in enumerate(
        ((10.0, 320.0, 900.0), (90.0, 100.0, 1000.0), (20.0, 300.0, 200.0))
    ):
        cost = {"images_per_second": {"median": rate, "min": rate - 9, "max": rate + 9, "batches": 8}}
        result = {"seconds": seconds, "train_images_per_second": trained, "outputs": {"classifier": cost}}
        runs.append(write_run(tmp_path / f"{seed}", "kd", {"classifier": (70.0, 90.0)}, seed=seed, result=result))
    ((row,),) = costs(report(tmp_path / "out", *runs))
    assert row["Images/s"] == "900 (191-1009)" and row["Training images/s"] == "300 (100-320)"
    assert row["Training time, s"] == "20"


def test_speeds_of_different_hardware_are_not_mixed(tmp_path):
    first, second = seeds_of(tmp_path, [70.0, 72.0])
    result = json.loads((second / "result.json").read_text())
    (second / "result.json").write_text(json.dumps({**result, "hardware": "another GPU"}))
    ((row,),) = costs(report(tmp_path / "out", first, second))
    assert row["Top-1, %"] == "71.00 ± 1.41"
    assert [row[name] for name in ("Images/s", "Training images/s", "Training time, s")] == ["–"] * 3
    assert row["Hardware, precision"] == "2 x another GPU; some GPU, bf16"
    assert row["Parameters, M"] == "1.23"


def test_same_seed_twice_is_refused(tmp_path):
    runs = [write_run(tmp_path / name, "kd", {"classifier": (70.0, 90.0)}) for name in ("one", "two")]
    with refuses("same seed 0"):
        report(tmp_path / "out", *runs)


def test_groups_of_classes_have_columns(tmp_path):
    tail = write_run(tmp_path / "tail", "kd", {"classifier": (50.0, 80.0, 65.5, 12.25)})
    plain = write_run(tmp_path / "plain", "classification", {"classifier": (51.0, 81.0)})
    (rows,) = accuracies(report(tmp_path / "out", tail, plain))
    assert [(row["Many, %"], row["Few, %"]) for row in rows] == [("–", "–"), ("65.50", "12.25")]
    assert [row["few"] for row in csv_rows(tmp_path / "out")] == ["", "12.25"]


def test_report_refuses_a_run_with_a_damaged_result(tmp_path):
    run = write_run(tmp_path / "run", "kd", {"classifier": (60.0, 90.0)})
    (run / "result.json").write_text("{}")
    with refuses("RUN .*run: its result.json is incomplete; delete it"):
        report(tmp_path / "out", run)


def test_published_scores_have_a_separate_column(tmp_path):
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
    assert "for resnet56 > resnet20: teacher *72.34*" in text and "ikl *71.44*" in text
    assert [row["quoted_top1"] for row in csv_rows(tmp_path / "out")] == ["69.06", "70.66", "", "", ""]


def test_published_scores_match_the_runs_budget_and_data(tmp_path):
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


def test_published_scores_are_listed_once():
    keys = [(q.data, q.teacher, q.student, q.method, q.output, q.epochs, q.source) for q in PUBLISHED]
    assert len(set(keys)) == len(keys)


def test_report_has_one_table_per_data_set(tmp_path):
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


def test_incomplete_runs_are_named_and_omitted(tmp_path, capsys):
    whole = write_run(tmp_path / "whole", "kd", {"classifier": (1.0, 5.0)})
    cut = write_run(tmp_path / "cut", "kd", {"classifier": (9.0, 9.0)}, complete=False)
    (rows,) = accuracies(report(tmp_path / "out", cut, whole))
    assert [row["Top-1, %"] for row in rows] == ["1.00"]
    assert f"not complete, left out: {cut}\n" in capsys.readouterr().out


def test_ratio_of_costs_is_explained_only_with_a_gendd_head(tmp_path):
    kd = write_run(tmp_path / "kd", "kd", {"classifier": (1.0, 5.0)})
    gendd = write_run(tmp_path / "gendd", "gendd", {"head": (2.0, 6.0), "probe": (1.0, 5.0)})
    for runs, shown in (((kd,), False), ((kd, gendd), True)):
        assert ("The last column is" in report(tmp_path / str(shown), *runs)) == shown


def test_report_without_a_complete_run_is_refused(tmp_path):
    cut = write_run(tmp_path / "cut", "kd", {"classifier": (9.0, 9.0)}, complete=False)
    with refuses("no complete run"):
        report(tmp_path / "out", cut)
    with refuses("not a run folder"):
        report(tmp_path / "out", tmp_path)
    with refuses("RUN is missing"):
        report(tmp_path / "out")


def test_unwritable_output_is_a_user_error(tmp_path):
    run = write_run(tmp_path / "run", "kd", {"classifier": (1.0, 5.0)})
    with refuses("--output"):
        report(run / "config.json", run)


def test_report_refuses_a_folder_with_another_writer(tmp_path):
    write_run(tmp_path / "run", "kd", {"classifier": (60.0,)})
    with sole_writer(tmp_path / "report"), refuses("is writing there; wait until it ends"):
        report(tmp_path / "report", tmp_path / "run")
    assert not (tmp_path / "report").exists()


def test_report_replaces_files_atomically(tmp_path):
    run = write_run(tmp_path / "run", "gendd", {"head": (2.0, 6.0), "probe": (1.0, 5.0)})
    write_features(run)
    report(tmp_path / "out", run)
    before = file_numbers(tmp_path / "out")
    report(tmp_path / "out", run)
    after = file_numbers(tmp_path / "out")
    # New files replace the old ones, which are not rewritten in place.
    assert set(after) == set(before) and len(after) == 6
    assert all(after[name] != number for name, number in before.items())


def test_names_of_runs_are_escaped_in_the_report(tmp_path):
    """Names from a stranger's run contain no HTML, no link, no cell, no control character."""
    hostile = "<img src=x onerror=alert(1)> [a](http://evil) |*b* `c` $d$ &lt; \x1b[2J _e_"
    run = write_run(tmp_path / "a", "kd", {"classifier": (60.0, 90.0)}, name=hostile, student="s|<b>", teacher="t\n# x")
    change_settings(run, dataset=f"photos{hostile}".replace("/", ""))
    text = report(tmp_path / "out", run)
    for markup in ("<img", "<b>", "](http", "*b*", "`c`", "$d$", "\x1b", "&lt;", "_e_", "\n# x"):
        assert markup not in text
    assert "&#60;img src=x onerror=alert(1)> &#91;a&#93;(http://evil) &#124;&#42;b&#42;" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count(" | ") for line in rows[:2]} == {rows[0].count(" | ")} and "&#92;x1b&#91;2J" in text


def test_usual_names_are_not_changed_in_markdown():
    for name in ("wrn_16_2", "hf-hub:OWNER/my_net", "timm/vit_small_patch14_dinov2.lvd142m", "a > b, 50 %"):
        assert escaped(name) == name
