"""The evaluate program: runs, plain files and published checkpoints."""

import argparse
import contextlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from lines import refuses
from programs import evaluate_cifar as main
from programs import sampling_cifar as sample
from programs import train_cifar as train
from run_folders import change_settings
from small_images import write_folder

from gendd.core import files
from gendd.methods.options import SamplingOptions
from gendd.networks.checkpoint import backbone_weights, read, read_weights
from gendd.programs import evaluate as program
from gendd.programs import figures, sampling
from gendd.runs.folder import RunFolder
from gendd.runs.metrics import read_metrics

HEAD = [
    "--token-dim",
    "32",
    "--width",
    "16",
    "--depth",
    "2",
    "--trunk-depth",
    "1",
    "--repeats",
    "2",
    "--draw-scheme",
    "shared",
]
COMMON = ["--dataset", "digits", "--epochs", "1", "--hflip", "0", "--precision", "fp32"]
PAPER = ["--trunk-depth", "0", "--prediction", "noise", "--timestep-density", "uniform", "--condition-dropout", "0.2",
         "--sampling-steps", "4", "--guidance", "2", "--sampling-start", "800"]  # fmt: skip
NETWORKS = ["--dataset", "digits", "--student", "toy:network", "--teacher", "resnet8", "--precision", "fp32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Train a teacher, and GenDD students with the default objective and the paper's, for one epoch each."""
    root = tmp_path_factory.mktemp("runs")
    teacher = root / "digits" / "resnet8" / "classification" / "0"
    train(["classification", *COMMON, "--student", "resnet8", "--runs", str(root)])
    train(["gendd", *COMMON, *HEAD, "--student", "toy:network", "--teacher", "resnet8",
           "--teacher-weights", str(teacher), "--runs", str(root)])  # fmt: skip
    train(["gendd", *COMMON, *HEAD, "--student", "toy:network", "--teacher", "resnet8",
           "--teacher-weights", str(teacher), "--runs", str(root), "--name", "paper", *PAPER])  # fmt: skip
    students = {name: root / "digits" / "resnet8_toy.network" / name / "0" for name in ("gendd", "paper")}
    return {"teacher": teacher, **students}


def evaluated(tmp_path: Path, *arguments) -> dict[str, dict]:
    """Evaluate; return the rows by name of the prediction."""
    file = tmp_path / "figures.json"
    main([*map(str, arguments), "--json", str(file)])
    return {row["output"]: row for row in json.loads(file.read_text())["outputs"]}


def accuracies(rows: dict[str, dict]) -> dict[str, tuple]:
    return {name: (row["top1"], row["top5"]) for name, row in rows.items()}


def test_figures_of_some_images_leave_the_whole_set_s_file(runs):
    main([str(runs["teacher"])])
    whole = (runs["teacher"] / "evaluation.json").read_text()
    main([str(runs["teacher"]), "--eval-images", "20"])
    assert (runs["teacher"] / "evaluation.json").read_text() == whole
    assert json.loads((runs["teacher"] / "evaluation-20-images.json").read_text())["images"] == 20


def test_figures_of_other_weights_and_sampling_have_other_files(runs, tmp_path):
    run = shutil.copytree(runs["gendd"], tmp_path / "run")
    main([str(run)])
    whole = (run / "evaluation.json").read_text()
    main([str(run), "--best", "--sampling-steps", "3"])
    assert json.loads((run / "evaluation-best-other-sampling.json").read_text())["sampling"]["steps"] == 3
    assert (run / "evaluation.json").read_text() == whole


def test_figures_of_another_image_size_have_another_file(runs, tmp_path):
    run = shutil.copytree(runs["gendd"], tmp_path / "run")
    main([str(run), "--image-size", "28"])
    assert (run / "evaluation-28-pixels.json").exists() and not (run / "evaluation.json").exists()


def test_best_of_a_file_is_refused(runs):
    file = runs["gendd"] / "checkpoints" / "last.pt"
    with refuses(f"^--best: {file} is a file; name its run folder, or leave it out$"):
        main([str(file), "--best"])


def test_guidance_without_condition_dropout_is_refused(runs):
    sampler = "--sampler ancestral --sampling-steps 100 --num-samples 5"
    paper = f"give the rest of the paper's sampler in place of --paper: {sampler}$"
    for flags, remedy in ((["--guidance", "2"], "--guidance 1$"), (["--paper"], paper)):
        with refuses(f"--guidance 2: needs a head that is trained with condition dropout; .* or {remedy}"):
            main([str(runs["gendd"]), *flags, "--dry-run"])


def test_evaluate_gives_the_accuracy_of_training(runs, tmp_path):
    rows = evaluated(tmp_path, runs["gendd"], "--precision", "fp32")
    result = json.loads((runs["gendd"] / "result.json").read_text())["last"]
    teacher = json.loads((runs["teacher"] / "result.json").read_text())["last"]["classifier"]
    expected = {"teacher": teacher, "head": result["head"], "probe": result["probe"]}
    for name, row in rows.items():
        # Another batch size may change the class of an image near a decision boundary.
        assert row["top1"] == pytest.approx(expected[name]["top1"], abs=0.35), name
    assert rows["head"]["flops"] > rows["probe"]["flops"] > 0
    assert rows["head"]["parameters"] > rows["probe"]["parameters"]
    assert rows["head"]["images_per_second"]["median"] > 0


def test_teacher_that_a_function_loads_is_evaluated(tmp_path):
    train(["kd", *COMMON, "--student", "toy:network", "--teacher", "toy:own", "--runs", str(tmp_path)])
    run = tmp_path / "digits" / "toy.own_toy.network" / "kd" / "0"
    expected = json.loads((run / "environment.json").read_text())["teacher"]["top1"]
    assert evaluated(tmp_path, run)["teacher"]["top1"] == expected
    assert "teacher" not in evaluated(tmp_path, run, "--teacher-weights", "random")


def test_sampling_flags_override_the_runs(runs, tmp_path):
    quick = evaluated(tmp_path, runs["paper"], "--sampling-steps", "1", "--guidance", "1")["head"]["flops"]
    guided = evaluated(tmp_path, runs["paper"], "--sampling-steps", "1", "--guidance", "2")["head"]["flops"]
    noisy = evaluated(
        tmp_path,
        runs["gendd"],
        "--sampler",
        "ancestral",
        "--sampling-steps",
        "10",
        "--num-samples",
        "3",
        "--eval-images",
        "20",
    )["head"]["flops"]
    assert quick < guided < noisy


def test_same_seed_gives_the_same_samples(runs, tmp_path):
    flags = ("--sampler", "ancestral", "--sampling-steps", "5", "--num-samples", "2", "--eval-images", "100")
    first, again = (accuracies(evaluated(tmp_path, runs["gendd"], *flags)) for _ in range(2))
    assert first == again


def test_evaluate_uses_the_runs_settings(runs, tmp_path, capsys):
    """Sampling, seed and precision come from the run."""
    own = ["--sampler", "ancestral", "--sampling-steps", "5", "--num-samples", "2", "--guidance", "1", "--seed", "3"]
    train(["gendd", *COMMON, *HEAD, "--student", "toy:network", "--teacher", "resnet8",
           "--teacher-weights", str(runs["teacher"]), "--runs", str(tmp_path), *own])  # fmt: skip
    run = tmp_path / "digits" / "resnet8_toy.network" / "gendd" / "3"
    expected = json.loads((run / "result.json").read_text())["last"]["head"]["top1"]
    capsys.readouterr()
    assert evaluated(tmp_path, run)["head"]["top1"] == pytest.approx(expected, abs=0.35)
    content = json.loads((tmp_path / "figures.json").read_text())
    assert (content["sampling"]["steps"], content["seed"], content["precision"]) == (5, 3, "fp32")
    assert "steps 5 (the paper: 100), num samples 2 (the paper: 5), guidance 1.0 (" in capsys.readouterr().out
    evaluated(tmp_path, run, "--seed", "4", "--sampling-steps", "6", "--eval-images", "20")
    content = json.loads((tmp_path / "figures.json").read_text())
    assert (content["sampling"]["steps"], content["sampling"]["num_samples"], content["seed"]) == (6, 2, 4)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory) -> dict[str, Path]:
    """Train a teacher that exports EMA weights, and students that export EMA or trained weights."""
    root = tmp_path_factory.mktemp("averaged")
    flags = [*COMMON, "--lr", "0.01", "--ema-decay", "0.99", "--epochs", "2", "--eval-every", "1", "--runs", str(root)]
    train(["classification", *flags, "--student", "toy:network", "--eval-weights", "ema"])
    runs = {"teacher": root / "digits" / "toy.network" / "classification" / "0"}
    for weights in ("ema", "trained"):
        train(["gendd", *flags, *HEAD, "--student", "toy:network", "--teacher", "toy:network",
               "--teacher-weights", str(runs["teacher"]), "--eval-weights", weights, "--name", weights])  # fmt: skip
        runs[weights] = root / "digits" / "toy.network_toy.network" / weights / "0"
    return runs


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def test_run_reports_its_ema_weights_everywhere(averaged):
    run, other = averaged["ema"], averaged["trained"]
    last, best = (torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True) for name in ("last", "best"))
    assert list(result_of(run)["last"]) == ["ema_head", "ema_probe", "head", "probe"]
    assert list(result_of(other)["last"]) == ["head", "probe", "ema_head", "ema_probe"]
    top1 = {record["epoch"]: record["ema_head"]["top1"] for record in read_metrics(run) if record["kind"] == "eval"}
    assert result_of(run)["best"]["output"] == "ema_head"
    assert result_of(run)["best"]["top1"] == max(top1.values()) == top1[best["epoch"]]
    assert (
        RunFolder(run)
        .headline()
        .split(": ")[1]
        .startswith(f"ema_head {result_of(run)['last']['ema_head']['top1']:.2f}")
    )
    assert {"model", "ema"} <= best.keys() and not torch.equal(best["model"]["norm.bias"], best["ema"]["norm.bias"])
    # Both runs train identically and differ in the reported weights.
    unlike = torch.load(other / "checkpoints" / "last.pt", weights_only=True)
    for name in ("model", "ema"):
        assert all(torch.equal(value, unlike[name][key]) for key, value in last[name].items())
    for folder, name in ((run, "ema"), (other, "model")):
        plain = backbone_weights(last[name])
        student = read_weights(folder / "student.safetensors")
        assert all(torch.equal(value, student[key]) for key, value in read_weights(folder / "student").items())
        assert student.keys() == plain.keys() and all(torch.equal(value, plain[key]) for key, value in student.items())
        assert all(torch.equal(value, last[name][key]) for key, value in read_weights(folder).items())
    generated = [read(folder / "features.safetensors")["generated"] for folder in (run, other)]
    assert not torch.equal(*generated)
    assert result_of(run)["features"] != result_of(other)["features"]


def test_eval_weights_selects_ema_or_trained_weights(averaged, tmp_path):
    last = result_of(averaged["ema"])["last"]
    assert last["head"] != last["ema_head"]
    networks = [word.replace("resnet8", "toy:network") for word in NETWORKS]
    for flags, prefix in (((), "ema_"), (("--eval-weights", "trained"), "")):
        for path in (averaged["ema"], averaged["ema"] / "checkpoints" / "last.pt"):
            rows = evaluated(tmp_path, path, *networks, *flags)
            for name in ("head", "probe"):
                assert rows[name]["top1"] == pytest.approx(last[prefix + name]["top1"], abs=0.35)
    best = result_of(averaged["trained"])["best"]
    rows = evaluated(tmp_path, averaged["trained"], "--best")
    assert rows["head"]["top1"] == pytest.approx(best["top1"], abs=0.35)


def test_student_learns_from_the_teachers_reported_weights(averaged):
    measured = json.loads((averaged["ema"] / "environment.json").read_text())["teacher"]["top1"]
    accuracies = {name: value["top1"] for name, value in result_of(averaged["teacher"])["last"].items()}
    assert measured == accuracies["ema_classifier"] != accuracies["classifier"]


def test_missing_ema_weights_are_refused(runs):
    for path in (runs["gendd"], runs["gendd"] / "student.safetensors"):
        with refuses("--eval-weights ema: .* holds no averaged weights") as refused:
            main([str(path), *NETWORKS, "--eval-weights", "ema"])
        assert len(str(refused.value).splitlines()) == 1


@pytest.fixture
def moved(runs, tmp_path) -> Path:
    """Copy the student's run and point it to a missing teacher file."""
    run = tmp_path / "moved"
    shutil.copytree(runs["gendd"], run)
    change_settings(run, teacher_weights=str(tmp_path / "gone"))
    return run


def test_run_without_its_teacher_file_is_evaluated(runs, moved, tmp_path, monkeypatch, capsys):
    expected = accuracies(evaluated(tmp_path, runs["gendd"]))
    capsys.readouterr()
    found = accuracies(evaluated(tmp_path, moved))
    assert found == {name: expected[name] for name in ("head", "probe")}
    teacher, gone = RunFolder(moved).read("config.json")["networks"]["teacher"], tmp_path / "gone"
    assert f"teacher     {teacher}: not evaluated, --teacher-weights {gone}: no such file" in capsys.readouterr().out
    monkeypatch.setattr(sampling, "grid", lambda what, settings: [SamplingOptions()])
    sample(["guidance", str(moved)])
    with refuses("--teacher-weights nowhere: no such file"):
        main([str(moved), "--teacher-weights", "nowhere"])
    change_settings(moved, teacher="resnet99")  # Nobody can build it.
    assert accuracies(evaluated(tmp_path, moved)) == found


@pytest.mark.parametrize("place", ["nope/x.json", "folder"])
def test_evaluate_refuses_unwritable_output_before_computing(runs, place, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(program, "evaluate_with_cost", lambda *arguments: pytest.fail("computed"))
    with refuses(f"cannot write {tmp_path / place}: [^[]*; name another place .*: --json FILE"):
        main([str(runs["gendd"]), "--json", str(tmp_path / place)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def test_evaluation_does_not_overwrite_a_device(runs, tmp_path):
    (tmp_path / "pipe").symlink_to("/dev/null")
    with refuses("pipe: it is not a plain file; name another place"):
        main([str(runs["gendd"]), "--json", str(tmp_path / "pipe")])


def test_two_evaluations_at_once_leave_a_complete_file(runs, tmp_path, monkeypatch):
    """The second evaluation writes between the first one's temporary file and its rename."""
    file, fsync, others = tmp_path / "figures.json", os.fsync, []

    def meanwhile(descriptor):
        fsync(descriptor)
        if not others:
            others.append(monkeypatch.setattr(os, "getpid", lambda: -1))
            main([str(runs["gendd"]), "--eval-images", "20", "--json", str(file)])

    monkeypatch.setattr(files.os, "fsync", meanwhile)
    main([str(runs["gendd"]), "--eval-images", "10", "--json", str(file)])
    assert json.loads(file.read_text())["images"] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_evaluate_checks_the_default_output_first(moved, monkeypatch):
    (moved / "evaluation.json").mkdir()
    monkeypatch.setattr(program, "evaluate_with_cost", lambda *arguments: pytest.fail("computed"))
    with refuses("evaluation.json: it is a folder"):
        main([str(moved)])


def test_evaluate_prints_its_table_if_saving_fails(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "check_writable", lambda *arguments: None)
    with refuses("cannot write .*; the figures are printed above"):
        main([str(runs["gendd"]), "--eval-images", "20", "--json", str(tmp_path / "nope" / "x.json")])
    assert "| head |" in capsys.readouterr().out


@pytest.mark.parametrize("container", ["model", "state_dict"])
def test_published_checkpoints_are_evaluated_unchanged(runs, tmp_path, container):
    ours = torch.load(runs["paper"] / "checkpoints" / "last.pt", weights_only=True)["model"]
    theirs = {"backbone.": "model.", "norm.": "cls_projector.0.", "head.net.": "diffloss.net."}
    tensors = {}
    for name, value in ours.items():
        prefix = next((prefix for prefix in theirs if name.startswith(prefix)), "")
        tensors[theirs.get(prefix, "") + name.removeprefix(prefix)] = value
    tensors |= {"cls_centers": torch.zeros(10, 64), "chunk_idx": torch.arange(2)[None]}
    if container == "state_dict":
        tensors = {f"module.{name}": value for name, value in tensors.items()}
    file = tmp_path / "published.pth"
    torch.save({container: tensors, "args": argparse.Namespace(lr=0.1)}, file)
    expected = accuracies(evaluated(tmp_path, runs["paper"], "--precision", "fp32"))
    del expected["teacher"]
    assert accuracies(evaluated(tmp_path, file, *NETWORKS)) == expected


@pytest.mark.parametrize(
    "flags",
    [["--prediction", "velocity", "--noise-path", "straight"], ["--prediction", "noise", "--sampling-start", "800"]],
)
def test_checkpoint_alone_is_evaluated_as_its_run(runs, tmp_path, flags):
    train(["gendd", *COMMON, *HEAD, *flags, "--student", "toy:network", "--teacher",
           "resnet8", "--teacher-weights", str(runs["teacher"]), "--runs", str(tmp_path)])  # fmt: skip
    run = tmp_path / "digits" / "resnet8_toy.network" / "gendd" / "0"
    flags = ["--sampling-steps", "2", "--sampling-start", "800", "--precision", "fp32"]
    expected = accuracies(evaluated(tmp_path, run, *flags))
    file = shutil.copy(run / "checkpoints" / "last.pt", tmp_path / "alone.pt")
    assert accuracies(evaluated(tmp_path, file, *flags)) == expected


def test_plain_student_of_a_run_is_its_probe(runs, tmp_path):
    rows = evaluated(tmp_path, runs["gendd"] / "student.safetensors", "--precision", "fp32")
    expected = evaluated(tmp_path, runs["gendd"], "--precision", "fp32")["probe"]
    assert accuracies(rows) == {"classifier": (expected["top1"], expected["top5"])}


def test_trained_teacher_scores_its_recorded_accuracy(shared, tmp_path):
    """Evaluate all 10,000 test images of CIFAR-100 from a folder, with weights from a file."""
    with tarfile.open(shared / "data" / "cifar100-png-test.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "train").symlink_to(tmp_path / "test")
    weights = shared / "pretrained" / "resnet56_cifar100.pth"
    recorded = torch.load(weights, weights_only=True)["accuracy"]
    row = evaluated(tmp_path, weights, "--student", "resnet56", "--dataset", tmp_path, "--precision", "fp32")
    assert row["classifier"]["top1"] == pytest.approx(recorded, abs=0.05)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "CHECKPOINT is missing"),
        (["nowhere"], "CHECKPOINT nowhere: no such file"),
        (["RUN", "--teacher", "resnet8x4"], "conv1.weight is (16, 3, 3, 3), not (32, 3, 3, 3)"),
        (["RUN", "--sampler", "ancestral", "--sampling-steps", "2000"], "--sampling-steps 2000"),
        (["RUN/config.json", *NETWORKS], "no checkpoint"),
    ],
)
def test_evaluate_refuses_invalid_commands(runs, arguments, message):
    with refuses() as error:
        main([argument.replace("RUN", str(runs["gendd"])) for argument in arguments])
    assert message in str(error.value)


def test_run_keeps_a_given_normalization(runs, tmp_path, capsys):
    """The given normalization calls the same images darker than they are."""
    values = ["--teacher-mean", "0.9", "0.9", "0.9", "--teacher-std", "0.1", "0.1", "0.1"]
    train(["gendd", *COMMON, *HEAD, "--student", "toy:network", "--teacher", "resnet8", "--teacher-weights",
           str(runs["teacher"]), "--runs", str(tmp_path), *values])  # fmt: skip
    run, told = tmp_path / "digits" / "resnet8_toy.network" / "gendd" / "0", "mean 0.9 0.9 0.9 and std 0.1 0.1 0.1"
    recorded = json.loads((run / "environment.json").read_text())["teacher"]["top1"]
    assert told in capsys.readouterr().out
    given = evaluated(tmp_path, run, "--precision", "fp32")["teacher"]["top1"]
    assert told in capsys.readouterr().out and given == pytest.approx(recorded, abs=0.35)
    own = evaluated(tmp_path, runs["gendd"], "--precision", "fp32")["teacher"]["top1"]
    assert own > given + 5
    assert evaluated(tmp_path, runs["gendd"], "--precision", "fp32", *values)["teacher"]["top1"] == given


def test_only_the_teachers_file_may_be_incomplete(runs, tmp_path, capsys):
    tensors = {name: read_weights(runs[name]) for name in ("teacher", "paper")}
    del tensors["teacher"]["bn1.weight"], tensors["paper"]["norm.weight"]
    for name, content in tensors.items():
        torch.save(dict(content), tmp_path / f"{name}.pt")
    teacher = ["--teacher-weights", tmp_path / "teacher.pt"]
    with refuses(r"1 missing \(bn1.weight, ...\); .*, or --allow-partial$"):
        main([*map(str, [runs["gendd"], *teacher])])
    evaluated(tmp_path, runs["gendd"], *teacher, "--allow-partial")
    count = len(read_weights(runs["teacher"]))
    assert f"{count - 1} of {count} tensors loaded" in capsys.readouterr().out
    with refuses(r"1 missing \(norm.weight") as error:
        main([*map(str, [tmp_path / "paper.pt", *NETWORKS])])
    assert "allow-partial" not in str(error.value)


def test_external_file_gives_ema_weights_by_default(runs, tmp_path, capsys):
    tensors = dict(read_weights(runs["teacher"]))
    torch.save({"state_dict": {name: 0 * value for name, value in tensors.items()}, "state_dict_ema": tensors},
               tmp_path / "last.pth.tar")  # fmt: skip
    flags = ("--student", "resnet8", "--dataset", "digits", "--precision", "fp32")
    rows = evaluated(tmp_path, tmp_path / "last.pth.tar", *flags)
    assert accuracies(rows) == accuracies(evaluated(tmp_path, runs["teacher"], "--precision", "fp32"))
    assert "tensors loaded, ema weights" in capsys.readouterr().out
    trained = evaluated(tmp_path, tmp_path / "last.pth.tar", *flags, "--eval-weights", "trained")
    assert trained["classifier"]["top1"] < 20


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    """Train on a folder with the classes a, b and c."""
    root = tmp_path_factory.mktemp("learned")
    data = write_folder(root / "set", "abc")
    train(["classification", *COMMON, "--batch-size", "8", "--dataset", str(data), "--student",
           "toy:network", "--runs", str(root)])  # fmt: skip
    return root / "set" / "toy.network" / "classification" / "0"


@pytest.mark.parametrize("checkpoint", [[], ["student.safetensors", "--student", "toy:network"]])
def test_evaluation_on_other_classes_is_refused(learned, tmp_path, checkpoint):
    file, *flags = checkpoint or [""]
    for name, classes in {"same": "abc", "numbers": "012", "renamed": "acd"}.items():
        write_folder(tmp_path / name, classes)
        command = [str(learned / file), *flags, "--dataset", str(tmp_path / name), "--json", str(tmp_path / "f.json")]
        if name == "renamed":
            with refuses("other classes .* only in one of them: b, d"):
                main(command)
        else:
            main(command)


@pytest.mark.parametrize("file", ["", "checkpoints/last.pt", "checkpoints/best.pt", "student.safetensors"])
def test_teacher_of_other_classes_is_refused(learned, tmp_path, file, capsys):
    weights = str(learned / file)
    flags = ["kd", "--teacher", "toy:network", "--teacher-weights", weights, "--student", "toy:network"]
    flags += [*COMMON, "--batch-size", "8", "--runs", str(tmp_path), "--dry-run"]
    for name, classes in {"same": "abc", "renamed": "acd"}.items():
        with refuses("listed above") if name == "renamed" else contextlib.nullcontext():
            train([*flags, "--dataset", str(write_folder(tmp_path / name, classes))])
        refusal = f"--teacher-weights {weights}: was trained on other classes than the evaluation images have; only"
        assert (refusal in capsys.readouterr().out) == (name == "renamed")
    with refuses("only in one of them: b, d; name a data set with the same class folders"):
        train([*flags[:-1], "--dataset", str(tmp_path / "renamed")])


@pytest.mark.parametrize("names", ["[1, 2, 3]", "[[], {}, 1]", '{"a": 1}', "a"])
def test_external_file_with_invalid_class_names_is_accepted(learned, tmp_path, names):
    tensors = safetensors.torch.load_file(learned / "student.safetensors")
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", {"class_names": names})
    write_folder(tmp_path / "set", "abc")
    evaluated(tmp_path, tmp_path / "a.safetensors", "--student", "toy:network", "--dataset", tmp_path / "set")


def test_evaluate_dry_run_finds_all_errors_in_the_data(runs, tmp_path, capsys):
    write_folder(tmp_path, classes=tuple("abcdefghij"), train=0)
    shutil.rmtree(tmp_path / "train")
    arguments = [str(runs["gendd"]), "--dataset", str(tmp_path)]
    main(arguments)
    assert "images      20 of the test split" in capsys.readouterr().out, "evaluation needs no training images"
    for image in (tmp_path / "test" / "c").iterdir():
        image.unlink()
    with refuses() as refused:
        main(arguments)
    with refuses("listed above"):
        main([*arguments, "--dry-run"])
    assert str(refused.value) in capsys.readouterr().out.partition("missing or wrong:")[2]


def test_evaluate_dry_run_names_missing_files(tmp_path, capsys):
    with refuses("listed above"):
        main(["path/to/student.pth", *NETWORKS, "--dry-run"])
    assert "path/to/student.pth: no such file" in capsys.readouterr().out
