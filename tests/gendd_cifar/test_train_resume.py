"""Resumed runs equal uninterrupted ones, and no run is resumed as another."""

import json
import multiprocessing
import shutil

import pytest
import torch
import toy
from forked import ends_of_two
from lines import refuses
from programs import train_cifar as main
from run_folders import settings_of
from small_runs import assert_same_weights, contents, ctrl_c, timeless_metrics

from gendd.runs import lock
from gendd.runs.lock import sole_writer
from gendd.runs.metrics import read_metrics
from gendd.training.loop import Training


@pytest.mark.parametrize("flags", [(), ("--ema-decay", "0.9", "--eval-weights", "ema"), ("--optimizer", "muon")])
def test_killed_and_resumed_run_equals_an_uninterrupted_one(train, whole, flags):
    whole = train(*flags, runs="whole") if flags else whole
    with ctrl_c("train_step", step=25):
        train(*flags, runs="parts")
    parts = train(*flags, runs="parts")
    assert_same_weights(whole, parts, rtol=0, atol=0)
    assert timeless_metrics(parts) == timeless_metrics(whole)


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("measured", [False, True])
def test_failed_evaluation_costs_no_training(train, whole, monkeypatch, epoch, measured):
    """Evaluation fails before it measures or before it saves. Resuming repeats the evaluation only."""
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
        train(runs="parts")
    monkeypatch.setattr(Training, "train_epoch", counted)
    parts = train(runs="parts")
    assert trained == [*range(epoch, 3)]
    assert_same_weights(whole, parts, rtol=0, atol=0)
    assert timeless_metrics(parts) == timeless_metrics(whole)
    assert (
        json.loads((parts / "result.json").read_text())["best"]
        == json.loads((whole / "result.json").read_text())["best"]
    )


def test_resume_flag_needs_only_the_folder(train, whole, capsys):
    with ctrl_c("evaluate_epoch", epoch=2):
        train(runs="parts")
    parts = train.folder("parts")
    main(["--resume", str(parts)])
    assert_same_weights(whole, parts, rtol=0, atol=0)
    done = capsys.readouterr().out.splitlines()[-2:]
    assert "is complete" in done[0] and done[1] == f"results in {parts}"
    main(["--resume", str(parts)])
    assert capsys.readouterr().out.splitlines() == done


def test_resume_accepts_flags_without_effect_on_training(interrupted, whole, tmp_path):
    main(["--resume", str(interrupted), "--eval-every", "2", "--data-root", str(tmp_path), "--epochs", "3"])
    assert [record["epoch"] for record in read_metrics(interrupted) if record["kind"] == "eval"] == [1, 2, 3]
    config = settings_of(interrupted)
    assert (config["eval_every"], config["data_root"]) == (2, str(tmp_path))
    assert_same_weights(interrupted, whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--seed", "3"], ["--seed 0 there, 3 here"]),
        (["--name", "other"], ["--name None there, other here"]),
        (["--lr", "0.5", "--epochs", "9", "--eval-every", "2"], ["--epochs 3 there, 9 here; --lr 0.001 there, 0.5"]),
        (["--paper"], ["--repeats 2 there, 30 here", "--sampler deterministic there, ancestral here"]),
        (["--check-data", "--dataset", "cifar10"], ["--dataset digits there, cifar10 here"]),
        (["--runs", "elsewhere"], ["--runs elsewhere"]),
        (["--out", "elsewhere"], ["--out elsewhere: --resume ", "is another folder"]),
    ],
)
def test_resume_refuses_flags_that_change_the_run(interrupted, flags, named):
    before = contents(interrupted)
    with refuses() as refused:
        main(["--resume", str(interrupted), *flags])
    message = str(refused.value)
    assert all(name in message for name in named) and "leave" in message and len(message.splitlines()) == 1
    assert contents(interrupted) == before


def test_resume_refuses_changed_teacher(train, teacher, tmp_path, monkeypatch):
    """A rewritten file with the same tensors is the same teacher."""
    file = tmp_path / "teacher.pth"
    given = {
        "file": ["--teacher-weights", str(file)],
        "second teacher": ["--teacher", "toy:own", "--teacher-weights", "random"],
    }
    content = torch.load(teacher / "checkpoints" / "last.pt", weights_only=True)
    monkeypatch.setattr(toy, "bias", 0.0)
    for kind, flags in given.items():
        torch.save(content, file)
        with ctrl_c("train_epoch", epoch=1):
            train(*flags, "--name", kind)
        record = next((tmp_path / "runs").rglob(f"{kind}/0/environment.json"))
        assert len(json.loads(record.read_text())["teacher"]["tensors_sha256"]) == 64
        changed = content["model"] | {"classifier.bias": content["model"]["classifier.bias"] + 1}
        torch.save({"model": changed}, file)
        monkeypatch.setattr(toy, "bias", 1.0)
        with refuses("holds a run of another teacher: .* had sha256 .*; use the original teacher"):
            train(*flags, "--name", kind)
        torch.save({"model": content["model"]}, file)
        monkeypatch.setattr(toy, "bias", 0.0)
        train(*flags, "--name", kind)
        assert (record.parent / "result.json").exists()


def test_resume_of_an_older_run_compares_file_checksums(interrupted, train):
    """Older runs recorded a checksum of the teacher's file, or none."""
    environment = json.loads((interrupted / "environment.json").read_text())
    del environment["teacher"]["tensors_sha256"]
    known = environment["teacher"]["sha256"]
    for noted in ("0" * 64, None):
        environment["teacher"]["sha256"] = noted
        (interrupted / "environment.json").write_text(json.dumps(environment))
        if noted:
            with refuses(f"had sha256 {noted[:12]}, .* has {known[:12]}; use the original"):
                train(runs="parts")
    assert (train(runs="parts") / "result.json").exists()


def test_resume_states_another_precision(train, capsys):
    with ctrl_c("train_epoch", epoch=1):
        train()
    record = train.folder() / "environment.json"
    before = json.loads(record.read_text())
    record.write_text(json.dumps(before | {"precision": "bf16"}))
    train()
    assert "changed since the last start: precision bf16 there, fp32 here\n" in capsys.readouterr().out
    assert json.loads(record.read_text()) == before


def test_resume_with_paper_refuses_other_sampling_steps(train):
    with ctrl_c("train_epoch", epoch=0):
        train("--paper", "--width", "128")
    with refuses("--sampling-steps 100 there, 4 here"):
        main(["--resume", str(train.folder()), "--sampling-steps", "4"])


@pytest.mark.parametrize("flag, told", [("--check-data", "all images read"), ("--dry-run", "nothing is missing")])
def test_resume_with_dry_run_or_check_data_changes_nothing(interrupted, flag, told, capsys):
    before = contents(interrupted)
    main(["--resume", str(interrupted), flag])
    assert told in capsys.readouterr().out
    assert contents(interrupted) == before


def test_resume_refuses_an_incomplete_last_checkpoint(interrupted):
    last = torch.load(interrupted / "checkpoints" / "last.pt", weights_only=True)
    torch.save({"model": last["model"], "epoch": 1, "best": {}}, interrupted / "checkpoints" / "last.pt")
    with refuses("last.pt: the file does not hold optimizer, step, seconds, .*; put its last checkpoint"):
        main(["--resume", str(interrupted)])


def test_resume_names_damaged_files_of_a_run_folder(interrupted):
    for name in ("data.json", "config.json"):
        (interrupted / name).write_text("[]")
        with refuses(f"{name} is missing or damaged"):
            main(["--resume", str(interrupted)])


def test_resume_continues_in_a_moved_folder(interrupted, tmp_path):
    shutil.move(tmp_path / "parts", tmp_path / "moved")
    run = tmp_path / "moved" / interrupted.relative_to(tmp_path / "parts")
    main(["--resume", str(run), "--runs", str(tmp_path / "moved")])
    assert (run / "result.json").exists()


def test_resume_refuses_a_run_that_another_process_trains(train, interrupted, tmp_path, capsys):
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
        for command in (lambda: train(runs="parts"), lambda: main(["--resume", str(interrupted)])):
            with refuses(f"process {other.pid} on .* is writing there"):
                command()
        ends = ends_of_two(lambda: main(["--resume", str(interrupted)]), tmp_path)
        assert [end.code for end in ends] == [2, 2]
        (line,) = ends[0].error.splitlines()
        assert f"process {other.pid} on" in line
        main(["--resume", str(interrupted), "--dry-run"])
        assert "nothing is missing" in capsys.readouterr().out and contents(interrupted) == before
    finally:
        done.set()
        other.join()
    train(runs="parts")
    assert (interrupted / "result.json").exists() and not (interrupted / lock.NAME).exists()


def test_folder_of_another_configuration_is_refused(train, interrupted):
    before = contents(interrupted)
    with refuses(r"--feature-mixup 1.0 there, 0.5 here; .*--repeats 2 there, 3 here"):
        train("--feature-mixup", "0.5", "--repeats", "3", runs="parts")
    assert contents(interrupted) == before


def test_run_older_than_a_flag_has_its_default(train, interrupted, capsys):
    file = interrupted / "config.json"
    config = json.loads(file.read_text())
    del config["optimizer"]["grad_accum_steps"]
    file.write_text(json.dumps(config))
    with refuses("--grad-accum-steps 1 there, 2 here"):
        train("--grad-accum-steps", "2", runs="parts")
    train("--dry-run", runs="parts")
    assert "nothing is missing" in capsys.readouterr().out
