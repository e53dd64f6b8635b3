"""metrics.jsonl stays complete if its run is killed."""

import os

import pytest
from run_folders import file_numbers

from gendd.runs.metrics import MetricsWriter, read_metrics


def test_metrics_survive_a_kill_during_resume(tmp_path, monkeypatch):
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


def test_metrics_survive_a_cut_line_and_an_earlier_step(tmp_path):
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
    # The run was killed after the last evaluation, which it then repeats.
    resumed.write("final", 3, 30, {"loss": 0.25})
    MetricsWriter(tmp_path, 30)
    assert [record["kind"] for record in read_metrics(tmp_path)] == ["train"] * 3
