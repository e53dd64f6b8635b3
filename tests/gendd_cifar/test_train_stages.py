"""Runs in stages: pretraining, then GenDD, then finetuning of the classifier."""

import json
import shutil

import torch
from lines import refuses
from programs import cifar_config
from programs import train_cifar as main
from small_runs import GENDD, assert_same_weights, contents, ctrl_c, weights

from gendd.core.distributed import World
from gendd.programs.train_run import TrainRun
from gendd.runs import lock
from gendd.runs.lock import sole_writer
from gendd_cifar.family import FAMILY as CIFAR


def test_resumed_stage_2_equals_whole_run_without_stage_1(train, tmp_path):
    whole = train("--pretrain-epochs", "1", runs="whole")
    with ctrl_c("evaluate_epoch", epoch=2):
        train("--pretrain-epochs", "1", runs="parts")
    shutil.rmtree(tmp_path / "parts" / "digits" / "toy.network_toy.network" / "pretrain")
    assert_same_weights(whole, train("--pretrain-epochs", "1", runs="parts"), rtol=0, atol=0)


def test_stage_1_is_trained_once_for_runs_that_share_it(train, capsys):
    first = train("--pretrain-epochs", "1", "--name", "first")
    assert capsys.readouterr().out.count("epoch   1/1  train") == 1
    stage1 = contents(first.parents[1] / "pretrain" / "0")
    second = train("--pretrain-epochs", "1", "--name", "second")
    assert "epoch   1/1 " not in capsys.readouterr().out
    assert contents(first.parents[1] / "pretrain" / "0") == stage1
    # Stage 1 gives the same bits in the same process or an earlier one.
    assert_same_weights(first, second, rtol=0, atol=0)
    with refuses("--pretrain-epochs 1 there, 2 here; .* another --pretrain-name or"):
        train("--pretrain-epochs", "2", "--name", "third")


def test_stage_1_of_another_run_is_awaited(train, monkeypatch, capsys):
    stage1 = train("--pretrain-epochs", "1", "--name", "ended").parents[1] / "pretrain" / "0"
    (stage1 / "result.json").rename(stage1 / "hidden.json")
    refusals = iter([lock.Busy("process 1 is writing there")])

    def busy_once(folder):
        for refusal in refusals:
            raise refusal
        return sole_writer(folder)

    monkeypatch.setattr("gendd.programs.train_run.sole_writer", busy_once)
    # The other run ends during the wait.
    monkeypatch.setattr("time.sleep", lambda _: (stage1 / "hidden.json").rename(stage1 / "result.json"))
    capsys.readouterr()
    train("--pretrain-epochs", "1", "--name", "waiting")
    output = capsys.readouterr().out
    assert "waiting for stage 1: process 1 is writing there" in output and "epoch   1/1 " not in output


def test_all_processes_follow_the_first_ones_view_of_a_result(tmp_path, monkeypatch):
    """Another machine may see the result of a shared stage later."""
    flags = ["--dataset", "digits", "--student", "resnet8", "--runs", str(tmp_path)]
    second = TrainRun(CIFAR, cifar_config(*flags, method="classification"), World(1, 2, 1, torch.device("cpu")))
    monkeypatch.setattr(World, "all_true", lambda world, flag: False)
    assert second.execute() == [] and not list(tmp_path.iterdir())


def test_three_stages_in_sequence(train):
    second = train("--pretrain-epochs", "3")
    third = train("--student-weights", str(second), "--optimizer", "sgd", method="finetune")
    assert json.loads((third / "result.json").read_text())["earlier_epochs"] == 6
    start = second / "checkpoints" / "last.pt"
    of_file = train("--student-weights", str(start), "--optimizer", "sgd", "--name", "file", method="finetune")
    assert json.loads((of_file / "result.json").read_text())["earlier_epochs"] == 6
    before, after = weights(second), weights(third)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["classifier.weight", "classifier.bias"]


def test_stage_2_starts_from_last_or_best_epoch_of_stage_1(train):
    before = train("--pretrain-epochs", "3").parents[1] / "pretrain" / "0"
    best = before / "checkpoints" / "best.pt"
    content = torch.load(best, weights_only=True)
    content["model"]["backbone.convolution.weight"] += 1
    torch.save(content, best)
    stage1 = ("--pretrain-epochs", "3", "--pretrain-lr", "0.001")
    for flags, name in (((), "last.pt"), (("--pretrain-best",), "best.pt")):
        run = train(*stage1, *flags, "--name", name, "--epochs", "1", "--lr", "1e-9")
        start = torch.load(before / "checkpoints" / name, weights_only=True)["model"]["backbone.convolution.weight"]
        torch.testing.assert_close(weights(run)["backbone.convolution.weight"], start)
        assert json.loads((run / "result.json").read_text())["earlier_epochs"] == 3


def test_stage_1_of_another_teacher_is_refused(train):
    stage1 = train("--pretrain-epochs", "1", "--name", "first").parents[1] / "pretrain" / "0"
    environment = json.loads((stage1 / "environment.json").read_text())
    environment["teacher"]["tensors_sha256"] = 64 * "0"
    (stage1 / "environment.json").write_text(json.dumps(environment))
    with refuses("pretrain/0 holds a run of another teacher: .* had sha256 000000000000"):
        train("--pretrain-epochs", "1", "--name", "second")


def test_dry_run_plans_both_stages(tmp_path, capsys):
    flags = ["--teacher-weights", "absent.pt", "--pretrain-epochs", "7", "--runs", str(tmp_path), "--dry-run"]
    with refuses("listed above"):
        main([*GENDD, *flags])
    first, second = capsys.readouterr().out.split("plan\n")[1:]
    assert "of 7 epochs" in first and "pretrain/0" in first
    assert f"initial weights from stage 1, {tmp_path}" in second
    assert all("--teacher-weights absent.pt: no such file" in plan for plan in (first, second))


def test_stage_1_in_the_folder_of_its_run_is_refused(train):
    for flags in (["--pretrain-name", "gendd"], ["--name", "pretrain"]):
        with refuses("--pretrain-name .*: is the run's own folder; give stage 1 another name"):
            train("--pretrain-epochs", "1", *flags)


def test_stage_1_with_a_rising_learning_rate_is_refused(train):
    rates = ["--schedule", "cosine", "--lr", "0.01", "--min-lr", "0.005", "--pretrain-lr", "0.001"]
    with refuses("--pretrain-lr 0.001: below --min-lr 0.005"):
        train("--pretrain-epochs", "1", *rates)
