"""The user's method from docs/extending.md: training, resuming, evaluation and report."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from lines import refuses
from programs import evaluate_cifar, train_cifar

from gendd.reporting.report import ReportConfig, write_report
from gendd.training.loop import Training

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
METHOD = "own_methods:SquaredError"
FLAGS = [METHOD, "--dataset", "digits", "--student", "toy:network", "--teacher", "resnet8"]
FLAGS += ["--teacher-weights", "random", "--batch-size", "256", "--eval-images", "100", "--lr", "5e-3"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Change to the user's folder."""
    (tmp_path / "own_methods.py").write_text(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_methods", raising=False)
    importlib.invalidate_caches()
    return tmp_path


def test_own_method_trains_resumes_and_is_reported(tmp_path, capsys, monkeypatch):
    whole = [*FLAGS, "--epochs", "2", "--runs", str(tmp_path / "whole"), "--logit-weight", "0.25"]
    train_cifar(whole)
    run = tmp_path / "whole" / "digits" / "resnet8_toy.network" / "own_methods.SquaredError" / "0"
    assert json.loads((run / "config.json").read_text())["method"]["logit_weight"] == 0.25
    assert f"method     {METHOD}, logit weight 0.25" in capsys.readouterr().out

    def stop(self):
        raise KeyboardInterrupt

    broken = tmp_path / "broken" / run.relative_to(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "evaluate_epoch", stop)
        patch.setattr("gendd.training.loop.CHECK_EVERY", 1)
        with pytest.raises(KeyboardInterrupt):
            train_cifar([*whole, "--eval-every", "2", "--runs", str(tmp_path / "broken")])
    assert (broken / "checkpoints" / "last.pt").exists()
    train_cifar(["--resume", str(broken)])
    assert _losses(broken) == _losses(run)

    evaluate_cifar([str(run), "--eval-images", "100"])
    assert "classifier" in capsys.readouterr().out
    write_report(ReportConfig((str(run),), str(tmp_path / "report")))
    assert f"| {METHOD} |" in (tmp_path / "report" / "report.md").read_text()


def _losses(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]


def test_own_method_has_option_ranges_and_help(tmp_path, capsys):
    with refuses("--logit-weight -1.0: must be 0 or more"):
        train_cifar([*FLAGS, "--logit-weight", "-1", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit):
        train_cifar([*FLAGS, "--help"])
    assert "Weight of the squared error." in capsys.readouterr().out
    train_cifar(["--help"])
    assert "package.module:Class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "importable from "),
        ("Own = 3", "is not a class that derives from gendd.methods.base.Method"),
        ("from gendd.methods.base import Method\n\nclass Own(Method): pass", "does not define build"),
        ("1 / 0", "cannot be imported .ZeroDivisionError"),
        (
            "from dataclasses import dataclass\nfrom gendd.methods.base import Method\n\n"
            "@dataclass(frozen=True)\nclass Own(Method):\n    weight: float\n"
            "    def build(self, context): pass",
            "give each field a default",
        ),
    ],
)
def test_own_class_that_is_not_a_method_is_refused(code, reason, folder, monkeypatch):
    (folder / "own_broken.py").write_text(code)
    monkeypatch.delitem(sys.modules, "own_broken", raising=False)
    importlib.invalidate_caches()
    with refuses(f"^METHOD own_broken:Own: .*{reason}"):
        train_cifar(["own_broken:Own", "--dataset", "digits", "--student", "resnet8"])
