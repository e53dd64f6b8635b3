"""`--log`: every logger gets TensorBoard's scalars, also after a resume, and none can end a training."""

import errno
import json
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator

import pytest
from forked import run_in_two
from lines import refuses
from programs import train_cifar
from small_runs import GENDD, ctrl_c
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from gendd.runs import loggers
from gendd.runs.loggers import IDS, LOGGERS


def scalars(run) -> dict[str, list]:
    """Return the (step, value) pairs of each scalar of a run in TensorBoard's files."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def read_trackio(run, name) -> dict[str, list]:
    from trackio.sqlite_storage import SQLiteStorage

    found = defaultdict(list)
    for record in SQLiteStorage.get_logs(loggers.PROJECT, name):
        for scalar, value in record.items():
            if scalar not in ("step", "timestamp"):
                found[scalar].append((record["step"], value))
    return found


def read_mlflow(run, id) -> dict[str, list]:
    import mlflow

    client = mlflow.MlflowClient()
    names = {name.replace(" (%)", ""): name for name in scalars(run)}
    return {
        names[metric]: [(point.step, point.value) for point in client.get_metric_history(id, metric)]
        for metric in client.get_run(id).data.metrics
    }


def read_wandb(run, id) -> dict[str, list]:
    from wandb.proto.wandb_internal_pb2 import Record

    found = defaultdict(list)
    for file in sorted(run.glob(f"wandb/offline-run-*/run-{id}.wandb")):
        for data in wandb_records(file.read_bytes()):
            history = Record.FromString(data).history.item
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in history}
            for scalar, value in items.items():
                if scalar != "step" and scalar[0] != "_":
                    found[scalar].append((items["step"], value))
    return found


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of wandb's file: LevelDB's log format, 7 bytes into blocks of 32 KiB."""
    place, record = 7, b""
    while place + 7 <= len(content):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        # 1 is a whole record; 2, 3 and 4 are the first, middle and last part of one.
        if kind in (1, 4):
            yield record
            record = b""


READERS = {"trackio": read_trackio, "mlflow": read_mlflow, "wandb": read_wandb}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Return a function that skips without a logger's package, and keeps its data in a temporary folder."""
    folder = tmp_path_factory.mktemp("loggers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("WANDB_MODE", "offline")
        yield lambda name: pytest.importorskip(name, reason=f"needs the optional package {name}")


@pytest.mark.parametrize("name", READERS)
def test_resumed_run_continues_with_the_scalars_of_tensorboard(name, offline, train):
    offline(name)
    flags = ["--log", "tensorboard", name]
    with ctrl_c("train_epoch", epoch=1):
        train(*flags)
    id = json.loads((train.folder() / IDS).read_text())[name]
    run = train(*flags)
    assert json.loads((run / IDS).read_text()) == {name: id}
    expected, logged = scalars(run), READERS[name](run, id)
    assert {"train/loss", "eval/head/top-1 (%)", "final/probe/top-1 (%)"} <= expected.keys() == logged.keys()
    assert len(expected["train/loss"]) == 3
    for scalar, points in expected.items():
        assert logged[scalar] == [(step, pytest.approx(value, rel=1e-5)) for step, value in points], scalar


def test_trackio_gets_the_configuration(offline, train):
    trackio = offline("trackio")
    run = train("--log", "trackio", "--epochs", "1")
    name = json.loads((run / IDS).read_text())["trackio"]
    (logged,) = (one for one in trackio.Api().runs(loggers.PROJECT) if one.name == name)
    config = json.loads((run / "config.json").read_text())
    assert {part: logged.config[part] for part in config} == config
    assert not (run / "tensorboard").exists()


def test_only_the_first_process_logs(offline, teacher, tmp_path):
    trackio = offline("trackio")

    def names() -> list[str]:
        return [run.name for run in trackio.Api().runs(loggers.PROJECT)]

    words = [*GENDD, "--epochs", "1", "--teacher-weights", str(teacher), "--log", "trackio"]
    train_cifar([*words, "--out", str(tmp_path / "alone")])
    before = names()
    run_in_two(lambda: train_cifar([*words, "--out", str(tmp_path / "run")]), tmp_path)
    name = json.loads((tmp_path / "run" / IDS).read_text())["trackio"]
    assert sorted(names()) == sorted([*before, name])


@pytest.mark.parametrize("method", ["__init__", "log", "close"])
def test_training_survives_a_failing_logger_and_says_so_once(method, train, monkeypatch, capsys):
    class Failing:
        def __init__(self, run, step):
            pass

        log = close = lambda self, *_: None

    def fail(*_):
        raise RuntimeError("the server\nis away")

    setattr(Failing, method, fail)
    monkeypatch.setitem(LOGGERS, "trackio", Failing)
    monkeypatch.setattr(loggers, "imported_extra", lambda *_, **__: None)
    run = train("--log", "trackio", "tensorboard", "--epochs", "2")
    said = [line for line in capsys.readouterr().out.splitlines() if "--log" in line]
    assert said == ["--log trackio: the server; continuing without it, metrics.jsonl has all values"]
    assert len(scalars(run)["train/loss"]) == 2 and "final/head/top-1 (%)" in scalars(run)


@pytest.mark.parametrize("name", READERS)
def test_missing_package_is_refused_before_training(name, train, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    with refuses(rf"^--log {name}: needs the package {name} .*; pip install {name}$"):
        train("--log", name)
    assert not train.folder().exists()
    with refuses("listed above"):
        train("--log", name, "--dry-run")
    assert f"missing or wrong:\n  --log {name}: needs" in capsys.readouterr().out


def test_full_disk_of_tensorboard_prints_one_line(train, monkeypatch, capfd):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(RecordWriter, "write", full)
    run = train("--epochs", "1")
    output = capfd.readouterr()
    assert output.out.count("--log tensorboard: [Errno 28] No space left on device; continuing without it") == 1
    assert "Traceback" not in output.err and (run / "result.json").exists()
