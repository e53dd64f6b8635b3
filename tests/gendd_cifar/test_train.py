"""The train program on the built-in digits with toy networks: resume, labels, failures, processes."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
import toy
from PIL import Image
from programs import evaluate_cifar as evaluate
from programs import train_cifar as main
from programs import words_of
from run_folders import settings_of
from small_images import write_folder

from gendd import lock, split
from gendd.errors import UserError
from gendd.lock import sole_writer
from gendd.metrics import read_metrics
from gendd.teacher import FrozenTeacher
from gendd.training import Training
from gendd_cifar import data
from gendd_cifar.data import TrainingImages
from gendd_cifar.sources import Images

TOY = "toy:network"
TOYS = str(Path(__file__).parents[1] / "toys")
COMMON = ["--dataset", "digits", "--student", TOY, "--epochs", "3", "--schedule", "cosine",
 "--eval-every", "1",
          "--hflip", "0", "--crop-padding", "1", "--precision", "fp32"]  # fmt: skip
GENDD = [*COMMON, "--method", "gendd", "--teacher", TOY, "--token-dim", "32", "--width", "16", "--depth", "1",
         "--trunk-depth", "1", "--repeats", "2", "--timesteps", "shared", "--steps", "1"]  # fmt: skip


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("teacher")
    main([*COMMON, "--method", "classification", "--runs", str(runs), "--lr", "0.01"])
    return runs / "digits" / "toy.network" / "classification" / "0"


@pytest.fixture
def gendd(teacher, tmp_path):
    """Runs GenDD with further flags; the run's folder."""

    def run(*flags: str, runs: str = "runs", data: str = "digits") -> Path:
        main([*GENDD, "--teacher-weights", str(teacher), "--runs", str(tmp_path / runs), *flags])
        return folder(runs, data, flags[flags.index("--name") + 1] if "--name" in flags else "gendd")

    def folder(runs: str = "runs", data: str = "digits", name: str = "gendd") -> Path:
        return tmp_path / runs / data / "toy.network_toy.network" / name / "0"

    run.folder = folder
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]


def interrupt_after(method, epoch: int):
    """The method, which a Ctrl-C hits in this epoch."""

    def interrupted(self):
        if self.epoch == epoch:
            raise KeyboardInterrupt
        return method(self)

    return interrupted


def assert_same_weights(one: Path, other: Path, **tolerance) -> None:
    for (name, value), expected in zip(weights(one).items(), weights(other).values(), strict=True):
        torch.testing.assert_close(value, expected, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def timeless_metrics(run: Path) -> list[dict]:
    """What the run measured, but for its speed."""
    speed = {"images_per_second", "waiting_for_data"}
    return [{name: value for name, value in record.items() if name not in speed} for record in read_metrics(run)]


def test_teacher_learns(teacher):
    """The toy is weak, but far above chance."""
    assert json.loads((teacher / "result.json").read_text())["last"]["classifier"]["top1"] > 40


def test_run_folder_holds_everything(gendd, teacher):
    run = gendd()
    for name in ("config.json", "data.json", "environment.json", "metrics.jsonl", "result.json", "student.safetensors",
                 "features.safetensors", "checkpoints/last.pt", "checkpoints/best.pt"):  # fmt: skip
        assert (run / name).exists(), name
    assert list((run / "tensorboard").iterdir())
    environment = json.loads((run / "environment.json").read_text())
    measured = json.loads((teacher / "result.json").read_text())["last"]["classifier"]
    assert environment["teacher"]["top1"] == pytest.approx(measured["top1"], abs=1e-3)
    assert len(environment["teacher"]["sha256"]) == 64
    result = json.loads((run / "result.json").read_text())
    assert list(result["last"]) == ["head", "probe"]
    assert result["best"]["split"] == "test" and result["best"]["images"] == 599
    head, probe = result["read_outs"]["head"], result["read_outs"]["probe"]
    assert {name: probe[name] for name in ("parameters", "flops")} == result["student"]
    assert head["parameters"] > probe["parameters"] and head["flops"] > probe["flops"]
    for rate in (head["images_per_second"], probe["images_per_second"]):
        assert 0 < rate["min"] <= rate["median"] <= rate["max"] and rate["batches"] == 3
    kinds = [(record["kind"], record["epoch"]) for record in read_metrics(run)]
    assert kinds == [("train", 1), ("eval", 1), ("train", 2), ("eval", 2), ("train", 3), ("eval", 3), ("final", 3)]


def test_run_from_config_file_equals_its_run(gendd, tmp_path, capsys):
    run = gendd("--epochs", "1")
    file, moved = str(run / "config.json"), ["--runs", str(tmp_path / "again")]
    plans = []
    for command in (["--config", file], ["gendd", "--config", file]):
        capsys.readouterr()
        main([*command, "--dry-run"])
        plans.append(capsys.readouterr().out)
    gendd("--epochs", "1", "--dry-run")
    assert plans == [capsys.readouterr().out] * 2
    main(["--config", file, *moved])
    again = gendd.folder("again")
    changed = (run / "config.json").read_text().replace(str(tmp_path / "runs"), moved[1])
    assert (again / "config.json").read_text() == changed
    assert_same_weights(run, again, rtol=0, atol=0)
    assert timeless_metrics(again) == timeless_metrics(run)


@pytest.mark.parametrize("flags", [(), ("--ema-decay", "0.9", "--weights", "ema"), ("--optimizer", "muon")])
def test_killed_and_resumed_run_equals_an_uninterrupted_one(gendd, monkeypatch, flags):
    whole = gendd(*flags, runs="whole")
    train_step, killed_at = Training.train_step, 25

    def dies(self, *arguments):
        if self.step == killed_at:
            raise KeyboardInterrupt
        return train_step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "train_step", dies)
        gendd(*flags, runs="parts")
    parts = gendd(*flags, runs="parts")
    assert_same_weights(whole, parts, rtol=0, atol=0)
    assert timeless_metrics(parts) == timeless_metrics(whole)


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("measured", [False, True])
def test_failed_evaluation_costs_no_training(gendd, monkeypatch, epoch, measured):
    """It fails before it measures, or before it is saved; the epoch is not trained again, its result is recorded."""
    evaluate_epoch, train_epoch, trained = Training.evaluate_epoch, Training.train_epoch, []

    def fails(self):
        if measured:
            evaluate_epoch(self)
        if self.epoch == epoch:
            raise KeyboardInterrupt
        if not measured:
            evaluate_epoch(self)

    def counted(self):
        trained.append(self.epoch)
        return train_epoch(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "evaluate_epoch", fails)
        gendd(runs="parts")
    monkeypatch.setattr(Training, "train_epoch", counted)
    parts = gendd(runs="parts")
    assert trained == [*range(epoch, 3)]
    whole = gendd(runs="whole")
    assert_same_weights(whole, parts, rtol=0, atol=0)
    assert timeless_metrics(parts) == timeless_metrics(whole)
    assert (
        json.loads((parts / "result.json").read_text())["best"]
        == json.loads((whole / "result.json").read_text())["best"]
    )


def test_resume_flag_needs_only_the_folder(gendd, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "evaluate_epoch", interrupt_after(Training.evaluate_epoch, epoch=2))
        gendd(runs="parts")
    whole = gendd(runs="whole")
    parts = Path(str(whole).replace("whole", "parts"))
    main(["--resume", str(parts)])
    assert_same_weights(whole, parts, rtol=0, atol=0)
    done = capsys.readouterr().out.splitlines()[-2:]
    assert "is complete" in done[0] and done[1] == f"results in {parts}"
    main(["--resume", str(parts)])
    assert capsys.readouterr().out.splitlines() == done


@pytest.fixture
def interrupted(gendd, monkeypatch):
    """The folder of a run that was killed after its first epoch."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "train_epoch", interrupt_after(Training.train_epoch, epoch=1))
        gendd(runs="parts")
    return gendd.folder("parts")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_flags_beside_resume_that_train_nothing_else_are_taken(interrupted, gendd, tmp_path):
    main(["--resume", str(interrupted), "--eval-every", "2", "--data-root", str(tmp_path), "--epochs", "3"])
    assert [record["epoch"] for record in read_metrics(interrupted) if record["kind"] == "eval"] == [1, 2, 3]
    config = settings_of(interrupted)
    assert (config["eval_every"], config["data_root"]) == (2, str(tmp_path))
    assert_same_weights(interrupted, gendd(runs="whole"), rtol=0, atol=0)


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--seed", "3"], ["--seed 0 there, 3 here"]),
        (["--name", "other"], ["--name None there, other here"]),
        (["--lr", "0.5", "--epochs", "9", "--eval-every", "2"], ["--epochs 3 there, 9 here; --lr 0.001 there, 0.5"]),
        (["--paper"], ["--repeats 2 there, 30 here", "--sampler deterministic there, ancestral here"]),
        (["--check-data", "--dataset", "cifar10"], ["--dataset digits there, cifar10 here"]),
        (["--runs", "elsewhere"], ["--runs elsewhere"]),
    ],
)
def test_resume_refuses_flags_that_change_the_run(interrupted, flags, named):
    before = contents(interrupted)
    with pytest.raises(UserError) as refused:
        main(["--resume", str(interrupted), *flags])
    message = str(refused.value)
    assert all(name in message for name in named) and "leave" in message and len(message.splitlines()) == 1
    assert contents(interrupted) == before


def test_resume_refuses_changed_teacher(gendd, teacher, tmp_path, monkeypatch):
    """A file that is written again with the same tensors is the same teacher."""
    file = tmp_path / "teacher.pth"
    given = {
        "file": ["--teacher-weights", str(file)],
        "function": ["--teacher", "toy:own", "--teacher-weights", "random"],
    }
    content = torch.load(teacher / "checkpoints" / "last.pt", weights_only=True)
    monkeypatch.setattr(toy, "bias", 0.0)
    for kind, flags in given.items():
        torch.save(content, file)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Training, "train_epoch", interrupt_after(Training.train_epoch, epoch=1))
            gendd(*flags, "--name", kind)
        record = next((tmp_path / "runs").rglob(f"{kind}/0/environment.json"))
        assert len(json.loads(record.read_text())["teacher"]["tensors_sha256"]) == 64
        changed = content["model"] | {"classifier.bias": content["model"]["classifier.bias"] + 1}
        torch.save({"model": changed}, file)
        monkeypatch.setattr(toy, "bias", 1.0)
        with pytest.raises(UserError, match="holds a run of another teacher: .* had sha256 .*; give it the teacher"):
            gendd(*flags, "--name", kind)
        torch.save({"model": content["model"]}, file)
        monkeypatch.setattr(toy, "bias", 0.0)
        gendd(*flags, "--name", kind)
        assert (record.parent / "result.json").exists()


def test_resume_of_an_older_run_compares_what_it_noted(interrupted, gendd):
    """Runs from before checksums of tensors noted that of the file, or none."""
    environment = json.loads((interrupted / "environment.json").read_text())
    del environment["teacher"]["tensors_sha256"]
    known = environment["teacher"]["sha256"]
    for noted in ("0" * 64, None):
        environment["teacher"]["sha256"] = noted
        (interrupted / "environment.json").write_text(json.dumps(environment))
        if noted:
            with pytest.raises(UserError, match=f"had sha256 {noted[:12]}, .* has {known[:12]}; give it"):
                gendd(runs="parts")
    assert (gendd(runs="parts") / "result.json").exists()


def test_a_run_of_the_paper_is_not_resumed_as_another(gendd, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "train_epoch", interrupt_after(Training.train_epoch, epoch=0))
        gendd("--paper", "--width", "128")
    with pytest.raises(UserError, match="--steps 100 there, 4 here"):
        main(["--resume", str(gendd.folder()), "--steps", "4"])


@pytest.mark.parametrize("flag, told", [("--check-data", "all images read"), ("--dry-run", "all there")])
def test_a_run_can_be_looked_at_before_it_goes_on(interrupted, flag, told, capsys):
    before = contents(interrupted)
    main(["--resume", str(interrupted), flag])
    assert told in capsys.readouterr().out
    assert contents(interrupted) == before


def test_a_run_does_not_go_on_from_what_is_no_last_checkpoint(interrupted):
    last = torch.load(interrupted / "checkpoints" / "last.pt", weights_only=True)
    torch.save({"model": last["model"], "epoch": 1, "best": {}}, interrupted / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match="last.pt: lacks optimizer, step, seconds, .*; put its last checkpoint there"):
        main(["--resume", str(interrupted)])


def test_resume_names_damaged_files_of_a_run_folder(interrupted):
    for name in ("data.json", "config.json"):
        (interrupted / name).write_text("[]")
        with pytest.raises(UserError, match=f"{name} is missing or damaged"):
            main(["--resume", str(interrupted)])


def test_a_moved_folder_of_runs_goes_on_where_it_lies(interrupted, tmp_path):
    shutil.move(tmp_path / "parts", tmp_path / "moved")
    run = tmp_path / "moved" / interrupted.relative_to(tmp_path / "parts")
    main(["--resume", str(run), "--runs", str(tmp_path / "moved")])
    assert (run / "result.json").exists()


def test_a_run_that_is_at_work_is_not_joined_by_the_same_command(gendd, interrupted, capsys):
    fork = multiprocessing.get_context("fork")
    held, done = fork.Event(), fork.Event()

    def hold():
        with sole_writer(interrupted):
            held.set()
            done.wait(60)

    other = fork.Process(target=hold)
    other.start()
    try:
        assert held.wait(20)
        before = contents(interrupted)
        for command in (lambda: gendd(runs="parts"), lambda: main(["--resume", str(interrupted)])):
            with pytest.raises(UserError, match=f"process {other.pid} on .* is writing this run"):
                command()
        with pytest.raises(subprocess.CalledProcessError) as refused:
            run_in_two_processes("--resume", str(interrupted))
        assert refused.value.returncode == 2
        (line,) = refused.value.stderr.splitlines()
        assert f"process {other.pid} on" in line
        main(["--resume", str(interrupted), "--dry-run"])
        assert "all there" in capsys.readouterr().out and contents(interrupted) == before
    finally:
        done.set()
        other.join()
    gendd(runs="parts")
    assert (interrupted / "result.json").exists() and not (interrupted / lock.NAME).exists()


def test_resumed_stage_2_equals_whole_run_without_stage_1(gendd, monkeypatch, tmp_path):
    whole = gendd("--pretrain-epochs", "1", runs="whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "evaluate_epoch", interrupt_after(Training.evaluate_epoch, epoch=2))
        gendd("--pretrain-epochs", "1", runs="parts")
    shutil.rmtree(tmp_path / "parts" / "digits" / "toy.network_toy.network" / "pretrain")
    assert_same_weights(whole, gendd("--pretrain-epochs", "1", runs="parts"), rtol=0, atol=0)


def test_stage_1_is_trained_once_for_runs_that_share_it(gendd, capsys):
    first = gendd("--pretrain-epochs", "1", "--name", "first")
    assert capsys.readouterr().out.count("epoch   1/1  train") == 1
    stage1 = contents(first.parents[1] / "pretrain" / "0")
    second = gendd("--pretrain-epochs", "1", "--name", "second")
    assert "epoch   1/1 " not in capsys.readouterr().out
    assert contents(first.parents[1] / "pretrain" / "0") == stage1
    # Stage 1 in the same process or before it leads to the same bits.
    assert_same_weights(first, second, rtol=0, atol=0)
    with pytest.raises(UserError, match="--pretrain-epochs 1 there, 2 here; .* another --pretrain-name or"):
        gendd("--pretrain-epochs", "2", "--name", "third")


def test_stage_1_that_another_run_trains_is_waited_for(gendd, monkeypatch, capsys):
    stage1 = gendd("--pretrain-epochs", "1", "--name", "ended").parents[1] / "pretrain" / "0"
    (stage1 / "result.json").rename(stage1 / "hidden.json")
    refusals = iter([lock.Busy("process 1 is writing this run")])

    def busy_once(folder):
        for refusal in refusals:
            raise refusal
        return sole_writer(folder)

    monkeypatch.setattr("gendd.programs.train.sole_writer", busy_once)
    # Meanwhile the other run ends.
    monkeypatch.setattr("time.sleep", lambda _: (stage1 / "hidden.json").rename(stage1 / "result.json"))
    capsys.readouterr()
    gendd("--pretrain-epochs", "1", "--name", "waiting")
    output = capsys.readouterr().out
    assert "waiting for stage 1: process 1 is writing this run" in output and "epoch   1/1 " not in output


def test_other_seed_gives_other_weights(gendd):
    first = weights(gendd())
    gendd("--seed", "1")
    second = weights(gendd().parent / "1")
    assert not torch.equal(first["backbone.convolution.weight"], second["backbone.convolution.weight"])


def test_without_labels_garbage_labels_change_nothing(gendd, monkeypatch):
    flags = ("--contraction", "0", "--unlabeled", "--name", "unlabeled")
    honest = gendd(*flags, runs="honest")
    train_batch = TrainingImages.batch

    def garbage(self, random):
        batch = train_batch(self, random)
        return dataclasses.replace(batch, labels=torch.full_like(batch.labels, 10**9))

    monkeypatch.setattr(TrainingImages, "batch", garbage)
    assert_same_weights(honest, gendd(*flags, runs="garbage"), rtol=0, atol=0)


def lie(monkeypatch, about: str) -> None:
    """False labels for the training images that keep theirs, or for the others; which do is not changed by it."""
    read = data.read_source
    source = read("digits", "", "train", 32)
    known = split.labeled(source.images.labels, 0.1)
    lied_about = known if about == "known" else ~known
    labels = torch.where(lied_about, (source.images.labels + 1) % 10, source.images.labels)
    lying = dataclasses.replace(source, images=Images(source.images.images, labels))
    monkeypatch.setattr(data, "read_source", lambda *given: lying if given[2] == "train" else read(*given))
    monkeypatch.setattr(split, "labeled", lambda labels, fraction: known)


@pytest.mark.parametrize("method", ["gendd", "pretrain", "finetune", "kd"])
def test_labels_that_a_run_is_not_given_change_nothing(gendd, method, monkeypatch):
    flags = ["--method", method, "--name", method, "--label-fraction", "0.1", "--epochs", "1"]
    flags += ["--student-weights", str(gendd("--epochs", "1", "--name", "start"))] if method == "finetune" else []
    honest = gendd(*flags, runs="honest", data="digits-labels0.1")
    with monkeypatch.context() as patch:
        lie(patch, about="unknown")
        lied_to = gendd(*flags, runs="unknown", data="digits-labels0.1")
    assert_same_weights(honest, lied_to, rtol=0, atol=0)
    with monkeypatch.context() as patch:
        lie(patch, about="known")
        lied_to = weights(gendd(*flags, runs="known", data="digits-labels0.1"))
    assert any(not torch.equal(value, lied_to[name]) for name, value in weights(honest).items())


def test_a_plan_tells_which_images_few_labels_leave(gendd, capsys):
    few = ("--label-fraction", "0.1", "--epochs", "1")
    gendd(*few, data="digits-labels0.1")
    plan = capsys.readouterr().out
    assert ", 10 % of the images with labels, the others without\n" in plan and "images     1198 to train on" in plan
    gendd(*few, "--method", "kd", "--name", "kd", data="digits-labels0.1")
    plan = capsys.readouterr().out
    labels = split.labeled(data.read_source("digits", "", "train", 8).images.labels, 0.1).sum()
    assert ", 10 % of the images with labels, the others left out\n" in plan
    assert f"images     {labels} to train on" in plan


@pytest.mark.parametrize("method", ["gendd", "pretrain"])
def test_few_labels_go_with_a_cache_which_serves_all_labels_too(gendd, method, tmp_path):
    flags = ["--method", method, "--name", method, "--crop-padding", "0", "--epochs", "2", "--optimizer", "sgd"]
    few, cache = ["--label-fraction", "0.1"], ["--teacher-cache", str(tmp_path / "cache")]
    beside = gendd(*flags, *few, runs="beside", data="digits-labels0.1")
    gendd(*GENDD[GENDD.index("--method") :], *cache, "--crop-padding", "0", "--epochs", "2", runs="all")
    cached = gendd(*flags, *few, *cache, runs="cached", data="digits-labels0.1")
    assert_same_weights(cached, beside, rtol=1e-2, atol=1e-3)


def test_long_tail_run_reports_groups_of_classes(gendd, tmp_path, capsys):
    tail = ["--imbalance", "0.1", "--epochs", "1"]
    main([*COMMON, "--method", "classification", "--runs", str(tmp_path / "runs"), *tail])
    teacher = tmp_path / "runs" / "digits-lt0.1" / "toy.network" / "classification" / "0"
    run = gendd(*tail, "--teacher-weights", str(teacher), data="digits-lt0.1")
    assert "; long-tailed, the last class 0.1 times the first, crops" in capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    assert result["images"] == 599
    for accuracy in result["last"].values():
        assert list(accuracy) == ["top1", "top5", "many", "medium", "few"]


def test_other_images_are_learned_from_without_labels(gendd, tmp_path, capsys):
    folder = tmp_path / "strangers"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 40, 30, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    flags = ["--unlabeled-dir", str(folder), "--batch-size", "10", "--contraction", "0"]
    with pytest.raises(UserError, match="--unlabeled-dir .*: has no labels; train without them: --unlabeled"):
        gendd(*flags)
    (folder / "notes.txt").write_text("no image")
    run = gendd(*flags, "--unlabeled", data="digits-from-strangers")
    assert "passed over beside them: 1 .txt\n" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["images"] == 599
    evaluate([str(run), "--precision", "fp32", "--eval-images", "250"])
    assert json.loads((run / "evaluation.json").read_text())["split"] == "test"


def test_with_labels_they_do_change_the_result(gendd, monkeypatch):
    honest = gendd(runs="honest")
    train_batch = TrainingImages.batch

    def wrong(self, random):
        batch = train_batch(self, random)
        return dataclasses.replace(batch, labels=(batch.labels + 1) % 10)

    monkeypatch.setattr(TrainingImages, "batch", wrong)
    wrong_run = gendd(runs="wrong")
    assert not torch.equal(
        weights(wrong_run)["backbone.convolution.weight"], weights(honest)["backbone.convolution.weight"]
    )


def test_accumulated_parts_are_the_whole_batch(gendd):
    one, two = gendd(runs="one"), gendd("--grad-accum-steps", "2", runs="two")
    assert_same_weights(one, two, rtol=1e-3, atol=1e-4)
    losses = [[record["loss"] for record in read_metrics(run) if record["kind"] == "train"] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_all_stages_in_a_row(gendd, teacher, tmp_path):
    stage = [*COMMON, "--teacher", TOY, "--teacher-weights", str(teacher), "--runs", str(tmp_path / "runs")]
    second = gendd("--pretrain-epochs", "3")
    main([*GENDD, *stage, "--method", "finetune", "--student-weights", str(second), "--optimizer", "sgd"])
    third = second.parent.parent / "finetune" / "0"
    assert json.loads((third / "result.json").read_text())["earlier_epochs"] == 6
    before, after = weights(second), weights(third)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["classifier.weight", "classifier.bias"]


def test_stage_2_starts_from_last_or_best_epoch_of_stage_1(gendd):
    before = gendd("--pretrain-epochs", "3").parents[1] / "pretrain" / "0"
    best = before / "checkpoints" / "best.pt"
    content = torch.load(best, weights_only=True)
    content["model"]["backbone.convolution.weight"] += 1
    torch.save(content, best)
    stage1 = ("--pretrain-epochs", "3", "--pretrain-lr", "0.001")
    for flags, name in (((), "last.pt"), (("--pretrain-best",), "best.pt")):
        run = gendd(*stage1, *flags, "--name", name, "--epochs", "1", "--lr", "1e-9")
        start = torch.load(before / "checkpoints" / name, weights_only=True)["model"]["backbone.convolution.weight"]
        torch.testing.assert_close(weights(run)["backbone.convolution.weight"], start)
        assert json.loads((run / "result.json").read_text())["earlier_epochs"] == 3


# A cache of the teacher's features


@pytest.mark.parametrize(
    "method", ["gendd", "pretrain", "kl", "finetune", "kd", "ikl", "dist", "feature", "srd", "simkd", "regression"]
)
def test_a_run_from_a_cache_is_the_run_beside_a_teacher(gendd, method, monkeypatch):
    """Where views do not differ, but for rounding; and it runs no teacher while it trains."""
    gendd("--epochs", "1", "--name", "start")
    flags = ["--method", method, "--name", method, "--crop-padding", "0", "--epochs", "2"]
    flags += ["--unlabeled"] if method in ("pretrain", "kl", "finetune") else []
    flags += ["--student-weights", str(gendd("--epochs", "1", "--name", "start"))] if method == "finetune" else []
    flags += ["--optimizer", "sgd", "--lr", "1e-2", "--temperature", "1", "--beta", "1"]
    flags += ["--gamma", "1", "--feature-weight", "1"]
    beside = gendd(*flags, runs="beside")
    train_epoch, features_of = Training.train_epoch, FrozenTeacher.features_of
    training = []

    def marked(self):
        training.append(self)
        result = train_epoch(self)
        training.clear()
        return result

    def refuses(self, images):
        assert not training, "the teacher runs in training"
        return features_of(self, images)

    monkeypatch.setattr(Training, "train_epoch", marked)
    monkeypatch.setattr(FrozenTeacher, "features_of", refuses)
    cached = gendd(*flags, "--teacher-cache", str(beside.parents[3] / "cache"), runs="cached")
    ours, theirs = ([record["loss"] for record in read_metrics(run) if record["kind"] == "train"]
                    for run in (cached, beside))  # fmt: skip
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert_same_weights(cached, beside, rtol=1e-2, atol=1e-3)


def test_resumed_run_from_a_cache_equals_an_uninterrupted_one(gendd, tmp_path, monkeypatch):
    cache = ["--teacher-cache", str(tmp_path / "cache"), "--cached-views", "2"]
    whole, train_step = gendd(*cache, runs="whole"), Training.train_step

    def dies(self, *arguments):
        if self.step == 25:
            raise KeyboardInterrupt
        return train_step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "train_step", dies)
        gendd(*cache, runs="parts")
    assert_same_weights(whole, gendd(*cache, runs="parts"), rtol=0, atol=0)
    other = gendd(*cache[:2], "--cached-views", "3", runs="three")
    assert not torch.equal(weights(whole)["norm.weight"], weights(other)["norm.weight"])


def test_two_processes_fill_the_cache_of_one_and_train_from_it(gendd, teacher, tmp_path):
    alone = gendd("--teacher-cache", str(tmp_path / "one"))
    run_in_two_processes(*GENDD, "--teacher-weights", str(teacher), "--runs", str(tmp_path / "together"),
                         "--teacher-cache", str(tmp_path / "two"))  # fmt: skip
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) == 1 + 3
    together = Path(str(alone).replace(f"{os.sep}runs{os.sep}", f"{os.sep}together{os.sep}"))
    assert_same_weights(alone, together, rtol=1e-3, atol=1e-4)


def test_a_cache_reads_no_label(gendd, tmp_path, monkeypatch):
    flags = ["--contraction", "0", "--unlabeled"]
    honest = gendd(*flags, "--teacher-cache", str(tmp_path / "honest"), runs="true")
    init = TrainingImages.__init__

    def garbage(self, source, *arguments):
        init(self, source, *arguments)
        self.labels = torch.full_like(self.labels, 10**9)

    monkeypatch.setattr(TrainingImages, "__init__", garbage)
    lied_to = gendd(*flags, "--teacher-cache", str(tmp_path / "garbage"), runs="garbage")
    assert_same_weights(honest, lied_to, rtol=0, atol=0)
    for path in (tmp_path / "honest").iterdir():
        assert path.read_bytes() == (tmp_path / "garbage" / path.name).read_bytes()


def test_a_cache_that_training_would_not_read_is_said_or_refused(gendd, tmp_path, capsys):
    cache = tmp_path / "cache"
    flags = ["--teacher-cache", str(cache), "--epochs", "1"]
    run = gendd("--method", "pretrain", "--name", "pretrain", *flags, "--cached-views", "2")
    assert "not used, pretrain with labels reads no feature of the teacher" in capsys.readouterr().out
    assert settings_of(run)["teacher_cache"] is None and not cache.exists()
    with pytest.raises(UserError, match="classification learns from no feature that it could hold; leave it out"):
        gendd("--method", "classification", "--name", "alone", *flags)
    with pytest.raises(UserError, match="--cached-views 0: must be at least 1"):
        gendd(*flags, "--cached-views", "0")
    with pytest.raises(UserError, match="--cached-views 3: --teacher-cache is missing"):
        gendd("--cached-views", "3")
    with pytest.raises(UserError, match="was made from other settings: hflip 0.0 there, 0.5 here; name another folder"):
        gendd(*flags)
        gendd(*flags, "--seed", "1")
        gendd(*flags, "--hflip", "0.5", "--name", "flipped")


@pytest.mark.parametrize("method", ["kd", "dkd", "ikl", "dist", "feature", "srd", "vkd", "simkd", "regression"])
def test_a_method_learns_and_its_run_is_evaluated(gendd, method, capsys):
    flags = [
        "--lr",
        "1e-2",
        "--distill-warmup-epochs",
        "0",
        "--feature-mixup",
        "0",
        "--width",
        "64",
        "--trunk-depth",
        "0",
    ]
    run = gendd("--method", method, "--name", method, *flags)
    losses = [record["loss"] for record in read_metrics(run) if record["kind"] == "train"]
    assert losses[-1] < losses[0]
    last = json.loads((run / "result.json").read_text())["last"]
    top1 = {name: accuracy["top1"] for name, accuracy in last.items()}
    # SimKD pools over all places, where the toy's features are of sixteen.
    assert next(iter(top1.values())) > (0 if method == "simkd" else 25), "a tenth is chance"
    capsys.readouterr()
    files = [] if method == "regression" else [run / "checkpoints" / "last.pt"]
    for checkpoint in (run, *files):
        evaluate([str(checkpoint), "--student", TOY, "--teacher", TOY, "--dataset", "digits", "--precision", "fp32"])
        table = capsys.readouterr().out
        assert all(f"| {name} | {accuracy:.2f} |" in table for name, accuracy in top1.items())


def test_simkd_refuses_a_student_without_a_feature_map(gendd):
    with pytest.raises(UserError, match="--student timm/vit_tiny_patch16_224: simkd projects a feature map"):
        gendd("--method", "simkd", "--name", "simkd", "--student", "timm/vit_tiny_patch16_224", "--image-size", "16")


def test_loss_that_is_not_finite_stops_before_the_step(gendd, monkeypatch):
    train_batch = TrainingImages.batch

    def poisoned(self, random):
        batch = train_batch(self, random)
        return dataclasses.replace(batch, images=batch.images * float("nan")) if random.step == 25 else batch

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match="not finite, at step 36 or up to 50 before; lower --lr"),
    ):
        patch.setattr(TrainingImages, "batch", poisoned)
        gendd(runs="parts")
    assert_same_weights(gendd(runs="whole"), gendd(runs="parts"), rtol=0, atol=0)


def test_folder_of_another_configuration_is_refused(gendd):
    run = gendd()
    before = weights(run)
    with pytest.raises(UserError, match=r"--feature-mixup 1.0 there, 0.5 here; .*--repeats 2 there, 3 here"):
        gendd("--feature-mixup", "0.5", "--repeats", "3")
    assert all(torch.equal(value, weights(run)[name]) for name, value in before.items())


def test_a_run_from_before_a_flag_has_its_default(gendd, capsys):
    file = gendd() / "config.json"
    config = json.loads(file.read_text())
    del config["optimizer"]["grad_accum_steps"]
    file.write_text(json.dumps(config))
    gendd()
    assert "is complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="--grad-accum-steps 1 there, 2 here"):
        gendd("--grad-accum-steps", "2")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--method", "gendd"], "--teacher is missing"),
        (["--method", "gendd", "--teacher", TOY], "--teacher toy:network: has random weights"),
        (["--method", "classification", "--teacher", TOY], "--teacher toy:network: classification has none"),
        (["--method", "classification", "--unlabeled"], "--unlabeled: classification needs labels"),
        (["--method", "gend"], "METHOD gend: no such name; nearest: gendd"),
        (
            ["--method", "classification", "--student", "resnet21"],
            "--student resnet21: no such name; nearest: resnet",
        ),
        (["--method", "classification", "--grad-accum-steps", "3"], "--batch-size 64: does not divide"),
        (["--method", "finetune", "--teacher", TOY, "--teacher-weights", "T"], "--student-weights is missing"),
        (
            [
                "--method",
                "finetune",
                "--teacher",
                TOY,
                "--teacher-weights",
                "T",
                "--student-weights",
                "T",
                "--optimizer",
                "muon",
            ],
            "--optimizer muon: moves the backbone's weights, of which finetune trains none",
        ),
        (
            ["--method", "classification", "--student-weights", "nowhere.pt"],
            "--student-weights nowhere.pt: no such file",
        ),
    ],
)
def test_commands_that_cannot_work_are_refused(teacher, tmp_path, flags, message):
    flags = [str(teacher) if flag == "T" else flag for flag in flags]
    with pytest.raises(UserError) as error:
        main([*COMMON, "--runs", str(tmp_path), *flags])
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_dry_run_says_what_is_missing_and_writes_nothing(tmp_path, capsys):
    main([*GENDD, "--teacher-weights", "pretrained/none.pth", "--dataset", "cifar100", "--data-root", str(tmp_path),
          "--runs", str(tmp_path / "runs"), "--dry-run"])  # fmt: skip
    output = capsys.readouterr().out
    assert "pretrained/none.pth: no such file" in output and "cifar-100-python.tar.gz" in output
    assert not list(tmp_path.iterdir())


def test_dry_run_plans_both_stages_and_lists_random_teacher(tmp_path, capsys):
    main([*GENDD, "--pretrain-epochs", "7", "--runs", str(tmp_path), "--dry-run"])
    first, second = capsys.readouterr().out.split("plan\n")[1:]
    assert "of 7 epochs" in first and "pretrain/0" in first
    assert f"initial weights from stage 1, {tmp_path}" in second
    assert all("--teacher toy" in plan and "has random weights" in plan for plan in (first, second))


def test_student_weights_trained_on_held_out_images_are_refused(gendd, capsys):
    seen = str(gendd("--name", "seen", "--epochs", "1"))
    with pytest.raises(UserError, match=r"^--student-weights .*: .* --holdout 0\.0, .* --holdout 0\.2 "):
        gendd("--student-weights", seen, "--holdout", "0.2")
    gendd("--student-weights", seen, "--holdout", "0.2", "--dry-run")
    assert "--holdout 0.2 holds out here" in capsys.readouterr().out
    held = str(gendd("--name", "held", "--epochs", "1", "--holdout", "0.2"))
    gendd("--student-weights", held, "--holdout", "0.2", "--dry-run")
    assert capsys.readouterr().out.endswith("all there\n")


def add_image(data: Path) -> None:
    shutil.copy(data / "train" / "a" / "0.png", data / "train" / "a" / "new.png")


def add_class(data: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(data / part / "a", data / part / "c")


def rename_class(data: Path) -> None:
    for part in ("train", "test"):
        (data / part / "a").rename(data / part / "z")


def add_test_image(data: Path) -> None:
    shutil.copy(data / "test" / "a" / "0.png", data / "test" / "a" / "new.png")


@pytest.fixture
def on_a_folder(tmp_path):
    """A folder of data, and the command of a run on it."""
    data = write_folder(tmp_path / "set")
    return data, [*COMMON, "--epochs", "2", "--batch-size", "16", "--dataset", str(data), "--method", "classification",
                  "--runs", str(tmp_path / "runs")]  # fmt: skip


def interrupted_on(data: Path, command: list[str], monkeypatch, epoch: int) -> Path:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "train_epoch", interrupt_after(Training.train_epoch, epoch))
        main(command)
    return data.parent / "runs" / "set" / "toy.network" / "classification" / "0"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (add_image, "16 training images there, 17 here"),
        (add_class, "only in one of them: c"),
        (rename_class, "only in one of them: a, z"),
    ],
)
def test_a_run_goes_on_with_the_data_it_began_with_alone(on_a_folder, monkeypatch, capsys, change, told):
    data, command = on_a_folder
    run = interrupted_on(data, command, monkeypatch, epoch=1)
    change(data)
    before = contents(run)
    for again in (command, ["--resume", str(run)]):
        with pytest.raises(UserError) as refused:
            main(again)
        assert told in str(refused.value) and str(run) in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    main([*command, "--dry-run"])
    assert str(refused.value) in capsys.readouterr().out.partition("missing or wrong:")[2]
    assert contents(run) == before


def test_a_run_may_be_evaluated_on_more_images_and_says_so(on_a_folder, monkeypatch, capsys):
    data, command = on_a_folder
    run = interrupted_on(data, command, monkeypatch, epoch=1)
    add_test_image(data)
    main(command)
    assert "4 evaluation images there, 5 here" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["images"] == 5


def test_data_may_change_until_something_is_trained(on_a_folder, monkeypatch):
    data, command = on_a_folder
    run = interrupted_on(data, command, monkeypatch, epoch=0)
    add_class(data)
    main(command)
    assert json.loads((run / "data.json").read_text())["classes"] == ["a", "b", "c"]
    with safetensors.safe_open(run / "student.safetensors", "pt") as student:
        assert json.loads(student.metadata()["config"])["label_names"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--batch-size", "512"], "--batch-size 512: more than the 16 training images"),
        (["--holdout", "0.01"], "--holdout 0.01: leaves none of 16 images"),
        (["--imbalance", "0.01"], "--batch-size 16: more than the 9 training images"),
        (["--label-fraction", "0.5"], "--batch-size 16: more than the 8 training images"),
        (["--dataset", "uneven"], "only in one of them: c"),
        (["--dataset", "hollow"], "for the classes b"),
    ],
)
def test_a_dry_run_finds_what_the_run_would_refuse_of_its_data(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "set")
    shutil.copytree(write_folder(tmp_path / "uneven") / "train" / "a", tmp_path / "uneven" / "train" / "c")
    for image in (write_folder(tmp_path / "hollow") / "train" / "b").iterdir():
        image.unlink()
    command = [*COMMON, "--batch-size", "16", "--dataset", "set", "--method", "classification", *flags]
    with pytest.raises(UserError) as refused:
        main(command)
    assert message in str(refused.value)
    before = contents(tmp_path)
    main([*command, "--dry-run"])
    output = capsys.readouterr().out
    assert str(refused.value) in output.partition("missing or wrong:")[2] and "all there" not in output
    assert contents(tmp_path) == before and not Path("runs").exists()


def test_a_dry_run_decodes_no_image(tmp_path, capsys):
    folder = write_folder(tmp_path / "set")
    (folder / "train" / "a" / "0.png").write_bytes(b"no image")
    main([*COMMON, "--batch-size", "16", "--dataset", str(folder), "--method", "classification", "--dry-run"])
    output = capsys.readouterr().out
    assert "16 to train on, 4 of test to evaluate on" in output and "all there" in output


def run_in_two_processes(*flags: str, program: str = "gendd_cifar train", **variables: str) -> str:
    """Errors and warnings that it prints."""
    environment = {**os.environ, "CPU_PROCS": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": TOYS, **variables}
    words = words_of(flags) if program.endswith(" train") else flags
    command = [sys.executable, "-m", "gendd.launch", *program.split(), *words]
    return subprocess.run(command, check=True, env=environment, capture_output=True, text=True, timeout=120).stderr


@pytest.fixture(scope="session")
def together(teacher, tmp_path_factory) -> Path:
    """GenDD in two processes."""
    runs = tmp_path_factory.mktemp("together")
    run_in_two_processes(*GENDD, "--teacher-weights", str(teacher), "--runs", str(runs))
    return runs / "digits" / "toy.network_toy.network" / "gendd" / "0"


def test_two_processes_train_and_count_as_one(gendd, together):
    alone = gendd()
    ours, theirs = (read_metrics(run) for run in (alone, together))
    assert len(ours) == len(theirs)
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-6)
    for one, two in zip(ours, theirs, strict=True):
        for name in {"loss", "mse", "vb", "probe_loss"} & set(one):
            assert one[name] == pytest.approx(two[name], abs=1e-4)
    assert_same_weights(alone, together, rtol=1e-3, atol=1e-4)
    assert json.loads((together / "environment.json").read_text())["processes"] == 2


def test_a_killed_process_brings_all_back(together, teacher, tmp_path):
    flags = [*GENDD, "--teacher-weights", str(teacher), "--runs", str(tmp_path)]
    fault = {"FAULT": "kill", "FAULT_MARK": str(tmp_path / "mark"), "MAX_RESTARTS": "1"}
    errors = run_in_two_processes(*flags, program="faulty", **fault)
    assert "process 1 ended with SIGKILL; 1 of 1 restarts left" in errors
    brought_back = tmp_path / "digits" / "toy.network_toy.network" / "gendd" / "0"
    assert_same_weights(together, brought_back, rtol=0, atol=0)
    assert timeless_metrics(brought_back) == timeless_metrics(together)


def test_a_checkpoint_that_one_process_does_not_see_is_refused(tmp_path, monkeypatch):
    flags = [*COMMON, "--method", "classification", "--runs", str(tmp_path / "runs0")]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "evaluate_epoch", interrupt_after(Training.evaluate_epoch, epoch=2))
        main(flags)
    (tmp_path / "apart.py").write_text(
        "import os, sys\nfrom gendd.errors import run_program\nfrom programs import train_cifar as main\n"
        "sys.argv[-1] = sys.argv[-1][:-1] + os.environ['RANK']\nrun_program(main)\n"
    )
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run_in_two_processes(*flags, program="apart", PYTHONPATH=f"{TOYS}{os.pathsep}{tmp_path}")
    assert refused.value.returncode == 2 and "not the same folder on all machines" in refused.value.stderr


def test_two_processes_evaluate_the_network_that_is_saved(tmp_path):
    """Each process has batch norm statistics of its own; all evaluate with those of the checkpoint."""
    flags = [*COMMON, "--epochs", "1", "--method", "classification", "--student", "resnet8", "--lr", "0.01"]
    run_in_two_processes(*flags, "--runs", str(tmp_path))
    run = tmp_path / "digits" / "resnet8" / "classification" / "0"
    evaluate([str(run), "--precision", "fp32"])
    (row,) = json.loads((run / "evaluation.json").read_text())["read_outs"]
    counted = json.loads((run / "result.json").read_text())["last"]["classifier"]
    assert counted == {name: pytest.approx(row[name], abs=1e-3) for name in ("top1", "top5")}


def test_refuses_batchnorm_student_with_one_image_per_process(tmp_path):
    """Its last map is 1x1, so that batch norm sees one value of an image. An evaluation takes it."""
    flags = ["--student", "MobileNetV2", "--method", "classification", "--image-size", "16", "--runs", str(tmp_path)]
    with pytest.raises(UserError, match="^--student MobileNetV2: cannot be trained on 1 image of 16 pixels at once"):
        main([*COMMON, *flags, "--batch-size", "4", "--grad-accum-steps", "4", "--dry-run"])
    main([*COMMON, *flags, "--batch-size", "4", "--grad-accum-steps", "2", "--dry-run"])


@pytest.mark.parametrize("flags", [["--image-size", "0"], ["--hflip", "2"], ["--crop-padding", "-1"]])
def test_a_look_at_the_data_refuses_numbers_out_of_range_too(flags):
    with pytest.raises(UserError, match=f"^{' '.join(flags)}"):
        main([*COMMON, *flags, "--check-data"])


def test_plan_prints_normalization_a_network_does_not_state(tmp_path, capsys):
    main([*GENDD, "--runs", str(tmp_path), "--dry-run"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    for role in ("student", "teacher"):
        assert "mean 0.5071 0.4867 0.4408" in lines[role] and "states none" in lines[role]
