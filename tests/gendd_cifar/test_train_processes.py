"""Training in two processes: equal to one process, and restarted after a kill."""

import json
import os
from pathlib import Path

import pytest
from forked import run_in_two
from programs import evaluate_cifar as evaluate
from programs import train_cifar as main
from small_runs import COMMON, GENDD, assert_same_weights, ctrl_c, run_in_two_processes, timeless_metrics

from gendd.runs.metrics import read_metrics


def test_two_processes_fill_and_use_the_same_cache_as_one(train, teacher, tmp_path):
    alone = train("--teacher-cache", str(tmp_path / "one"))
    words = [*GENDD, "--teacher-weights", str(teacher), "--runs", str(tmp_path / "together")]
    run_in_two(lambda: main([*words, "--teacher-cache", str(tmp_path / "two")]), tmp_path)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) == 1 + 3
    together = Path(str(alone).replace(f"{os.sep}runs{os.sep}", f"{os.sep}together{os.sep}"))
    assert_same_weights(alone, together, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="session")
def together(teacher, tmp_path_factory) -> Path:
    """Train GenDD in two processes."""
    runs = tmp_path_factory.mktemp("together")
    run_in_two(lambda: main([*GENDD, "--teacher-weights", str(teacher), "--runs", str(runs)]), runs)
    return runs / "digits" / "toy.network_toy.network" / "gendd" / "0"


def test_two_processes_train_and_count_as_one(whole, together):
    ours, theirs = (read_metrics(run) for run in (whole, together))
    assert len(ours) == len(theirs)
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-6)
    for one, two in zip(ours, theirs, strict=True):
        for name in {"loss", "mse", "vb", "probe_loss"} & set(one):
            assert one[name] == pytest.approx(two[name], abs=1e-4)
    assert_same_weights(whole, together, rtol=1e-3, atol=1e-4)
    assert json.loads((together / "environment.json").read_text())["processes"] == 2


def test_run_restarts_after_a_killed_process(together, teacher, tmp_path):
    flags = [*GENDD, "--teacher-weights", str(teacher), "--runs", str(tmp_path)]
    fault = {"FAULT": "kill", "FAULT_MARK": str(tmp_path / "mark"), "MAX_RESTARTS": "1"}
    errors = run_in_two_processes(*flags, program="faulty", **fault)
    assert "process 1 ended with SIGKILL; 1 of 1 restarts left" in errors
    brought_back = tmp_path / "digits" / "toy.network_toy.network" / "gendd" / "0"
    assert_same_weights(together, brought_back, rtol=0, atol=0)
    assert timeless_metrics(brought_back) == timeless_metrics(together)


def test_checkpoint_missing_in_one_process_is_refused(tmp_path):
    flags = ["classification", *COMMON, "--runs"]
    with ctrl_c("evaluate_epoch", epoch=2):
        main([*flags, str(tmp_path / "runs0")])
    with pytest.raises(AssertionError, match="not the same folder on all machines"):
        run_in_two(lambda: main([*flags, f"{tmp_path}/runs{os.environ['RANK']}"]), tmp_path)


def test_two_processes_evaluate_the_saved_network(tmp_path):
    """Batch norm statistics differ between processes, but all evaluate with the saved ones."""
    flags = ["classification", *COMMON, "--epochs", "1", "--student", "resnet8", "--lr", "0.01"]
    run_in_two(lambda: main([*flags, "--runs", str(tmp_path)]), tmp_path)
    run = tmp_path / "digits" / "resnet8" / "classification" / "0"
    evaluate([str(run), "--precision", "fp32"])
    (row,) = json.loads((run / "evaluation.json").read_text())["outputs"]
    counted = json.loads((run / "result.json").read_text())["last"]["classifier"]
    assert counted == {name: pytest.approx(row[name], abs=1e-3) for name in ("top1", "top5")}
