"""Loggers of a run's scalars: TensorBoard, Weights & Biases, MLflow and trackio. A package is imported when named.

The run folder keeps each logger's id of the run in loggers.json, so that a resumed run continues there.
"""

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from gendd.core.errors import flag, naming, unknown_name
from gendd.core.extras import imported_extra
from gendd.core.files import reason_of
from gendd.runs.folder import RunFolder, by_name

IDS = "loggers.json"
PROJECT = "gendd"
# Most parameters that MLflow accepts at once.
BATCH = 100

Scalars = Mapping[str, float]


class Logger(Protocol):
    """A logger of one run."""

    def log(self, scalars: Scalars, step: int) -> None:
        """Log scalars, such as {"train/loss": 0.5}, at an optimizer step."""

    def close(self) -> None:
        """Send what is left, and mark the run as finished."""


class TensorBoard:
    """TensorBoard's files in the run folder, from the step at which the run resumes."""

    def __init__(self, run: RunFolder, step: int):
        from torch.utils.tensorboard import SummaryWriter  # Imported here because it is slow.

        # The writer's thread would print a traceback. Its error is raised again at the next scalar, and reported there.
        threading.excepthook = quiet_writer
        self.writer = SummaryWriter(run.tensorboard, purge_step=step + 1)

    def log(self, scalars: Scalars, step: int) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of wandb. Its files are in the run folder."""

    def __init__(self, run: RunFolder, step: int):
        wandb = imported_extra("wandb", "loggers", "wandb", alone=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=title(run),
            id=ids(run).get("wandb"),
            resume="allow",
            config=run.read("config.json"),
            dir=run.path,
            # A program may train stage 1 before, in the same process.
            reinit="finish_previous",
        )
        # wandb drops values of earlier steps, which a resumed run repeats, unless the step is a metric like others.
        self.run.define_metric("*", step_metric="step")
        keep_id(run, "wandb", self.run.id)

    def log(self, scalars: Scalars, step: int) -> None:
        self.run.log({"step": step, **scalars})

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of MLflow, whose names cannot contain brackets or percent signs."""

    def __init__(self, run: RunFolder, step: int):
        self.mlflow = imported_extra("mlflow", "loggers", "mlflow", alone=True)
        self.client = self.mlflow.MlflowClient()
        self.id = ids(run).get("mlflow") or self._created(run)
        keep_id(run, "mlflow", self.id)
        self.client.update_run(self.id, status="RUNNING")

    def _created(self, run: RunFolder) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self.client.create_experiment(name)
        created = self.client.create_run(place, run_name=title(run)).info.run_id
        settings = by_name(run.read("config.json")).items()
        parameters = [self.mlflow.entities.Param(name, str(value)) for name, value in settings]
        for start in range(0, len(parameters), BATCH):
            self.client.log_batch(created, params=parameters[start : start + BATCH])
        return created

    def log(self, scalars: Scalars, step: int) -> None:
        now = int(1000 * time.time())
        names = {re.sub(r"[^\w\-. :/]", "", name).strip(): value for name, value in scalars.items()}
        metrics = [self.mlflow.entities.Metric(name, value, now, step) for name, value in names.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self) -> None:
        self.client.set_terminated(self.id)


class Trackio:
    """A run of trackio, which finds runs by their name."""

    def __init__(self, run: RunFolder, step: int):
        self.trackio = imported_extra("trackio", "loggers", "trackio", alone=True)
        name = ids(run).get("trackio") or f"{title(run)} {secrets.token_hex(3)}"
        config = run.read("config.json")
        self.run = self.trackio.init(PROJECT, name, config=config, resume="allow", embed=False)
        keep_id(run, "trackio", name)

    def log(self, scalars: Scalars, step: int) -> None:
        self.run.log(dict(scalars), step)

    def close(self) -> None:
        self.trackio.finish()


LOGGERS: dict[str, Callable[[RunFolder, int], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


class Loggers:
    """The loggers of a run. A run continues without a logger that fails.

    Args:
        names: loggers that `Run.log` names.
        step: step at which the run resumes.
    """

    def __init__(self, names: Iterable[str], run: RunFolder, step: int):
        self.open: dict[str, Logger] = {}
        for name in dict.fromkeys(names):
            with self._surviving(name):
                self.open[name] = LOGGERS[name](run, step)

    def log(self, scalars: Scalars, step: int) -> None:
        for name, logger in list(self.open.items()):
            with self._surviving(name):
                logger.log(scalars, step)

    def close(self) -> None:
        for name, logger in list(self.open.items()):
            with self._surviving(name):
                logger.close()
        self.open.clear()

    @contextlib.contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        """Print any error of a logger once, and use the logger no more: it must not end a training."""
        try:
            yield
        except Exception as error:
            self.open.pop(name, None)
            print(
                f"{flag('log')} {name}: {reason_of(error)}; continuing without it, metrics.jsonl has all values",
                flush=True,
            )


def quiet_writer(failure: threading.ExceptHookArgs) -> None:
    """Print the error of a thread, except for the thread that writes TensorBoard's files."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(failure)


def check_loggers(names: Iterable[str]) -> None:
    """Raise InvalidSetting if a logger is unknown, or its package is not installed."""
    with naming("log"):
        for name in names:
            if name not in LOGGERS:
                raise unknown_name(name, LOGGERS)
            if name != "tensorboard":
                imported_extra(name, "loggers", name, alone=True)


def title(run: RunFolder) -> str:
    """Return the end of a run's path, such as cifar100/resnet56_resnet20/gendd/0."""
    return str(Path(*run.path.parts[-4:]))


def ids(run: RunFolder) -> dict[str, str]:
    """Return each logger's id of a run."""
    return run.read(IDS) if (run.path / IDS).exists() else {}


def keep_id(run: RunFolder, logger: str, id: str) -> None:
    run.write(IDS, ids(run) | {logger: id})
