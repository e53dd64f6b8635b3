"""A method of a user's own: one class and one line of the table, and it trains, resumes, evaluates and is reported."""

import json
from dataclasses import dataclass

import pytest
import torch.nn.functional as F
from programs import evaluate_cifar, train_cifar

from gendd.errors import UserError
from gendd.methods import METHODS
from gendd.methods.base import DistillationTask, Method
from gendd.ranges import Amount
from gendd.reporting.report import ReportConfig, write_report
from gendd.training import Training

FLAGS = ["--method", "mse", "--dataset", "digits", "--student", "toy:network", "--teacher", "resnet8"]
FLAGS += ["--teacher-weights", "random", "--batch-size", "256", "--eval-images", "100", "--lr", "5e-3"]


class SquaredErrorTask(DistillationTask):
    """CE + w squared error of the logits."""

    def __init__(self, context, weight):
        super().__init__(context.student, context)
        self.weight = weight

    def forward(self, batch):
        logits = self.trainable_module(batch.images)
        apart = F.mse_loss(logits, self.teacher.classifier(self.teacher.features(batch)))
        loss = F.cross_entropy(logits, batch.labels) + self.weight * apart
        return {"loss": loss, "kd_loss": apart.detach(), "output": logits}


@dataclass(frozen=True)
class SquaredError(Method):
    """Squared error of the logits."""

    logit_weight: Amount = 0.5
    """Weight of the squared error."""

    name = "mse"

    def build(self, context):
        return SquaredErrorTask(context, self.logit_weight)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METHODS, "mse", SquaredError)


def test_it_trains_goes_on_evaluates_and_is_reported(tmp_path, capsys, monkeypatch):
    whole = [*FLAGS, "--epochs", "2", "--runs", str(tmp_path / "whole"), "--logit-weight", "0.25"]
    train_cifar(whole)
    run = tmp_path / "whole" / "digits" / "resnet8_toy.network" / "mse" / "0"
    assert json.loads((run / "config.json").read_text())["logit_weight"] == 0.25
    assert "method     mse, logit weight 0.25" in capsys.readouterr().out

    def stop(self):
        raise KeyboardInterrupt

    broken = tmp_path / "broken" / run.relative_to(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "evaluate_epoch", stop)
        patch.setattr("gendd.training.CHECK_EVERY", 1)
        with pytest.raises(KeyboardInterrupt):
            train_cifar([*whole, "--eval-every", "2", "--runs", str(tmp_path / "broken")])
    assert (broken / "checkpoints" / "last.pt").exists()
    train_cifar(["--resume", str(broken)])
    assert _losses(broken) == _losses(run)

    evaluate_cifar([str(run), "--images", "100"])
    assert "classifier" in capsys.readouterr().out
    write_report(ReportConfig((str(run),), str(tmp_path / "report")))
    assert "| mse |" in (tmp_path / "report" / "report.md").read_text()


def _losses(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]


def test_its_options_have_ranges_and_help(tmp_path, capsys):
    with pytest.raises(UserError, match="--logit-weight -1.0: must be 0 or more"):
        train_cifar([*FLAGS, "--logit-weight", "-1", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit):
        train_cifar([*FLAGS, "--help"])
    assert "Weight of the squared error." in capsys.readouterr().out
    train_cifar(["--help"])
    assert "mse             Squared error of the logits." in capsys.readouterr().out
