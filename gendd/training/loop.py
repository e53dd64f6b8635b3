"""The training loop. It depends on tasks (batch -> losses), not on methods."""

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gendd.config import Config
from gendd.core import files
from gendd.core.distributed import World, autocast
from gendd.core.errors import InvalidSetting, UserError
from gendd.core.seeding import generator
from gendd.core.stopping import Preempted, Stopping
from gendd.data.batch import Batch, TrainingData
from gendd.methods.base import Task
from gendd.networks import checkpoint
from gendd.runs.folder import RECORD, RunFolder
from gendd.runs.metrics import MetricsWriter
from gendd.training.agreement import NOTHING, SAVE, STOP, Agreement
from gendd.training.checkpoints import Checkpoints
from gendd.training.compiled import begin_step, eager
from gendd.training.means import Means, Timed
from gendd.training.optim import Schedule
from gendd.training.progress import Progress, as_line, say


@dataclass(frozen=True)
class Measured:
    """The result of an evaluation.

    Attributes:
        images: split and number of images.
        accuracies: {"head": {"top1": ..., "top5": ...}, ...}, the reported output first; without classes, scores of
            features: {"head": {"cosine": ...}, ...}.
        others: other measured values.
    """

    images: dict
    accuracies: dict[str, dict]
    others: dict

    def record(self) -> dict:
        return {**self.images, **self.accuracies, **self.others}


Evaluate = Callable[[int], Measured]


# Steps between checks that the losses are finite. Each check waits for the device to finish its work.
CHECK_EVERY = 50
# Attributes of `Training` that a checkpoint stores.
PROGRESS = ("step", "seconds", "best")


@dataclass
class Training:
    """The training of a run, from its last checkpoint to its last epoch.

    Args:
        task: the task on its device, wrapped by DDP for several processes.
        evaluate: evaluates the task on the first evaluation images, up to the given number (0: all).
        record: the run's record, which each checkpoint stores.
        keep: writes the plain student after the given epoch.
        precision: "bf16" or "fp32".
        stopping: the signals that ask this process to stop.

    Attributes:
        evaluated: the last epoch whose evaluation is recorded.
        saved: the step of the last checkpoint; 0 without one.
        interrupted: sums, seconds and broken images of an epoch that a checkpoint interrupted.
    """

    config: Config
    task: Task
    data: TrainingData
    optimizer: torch.optim.Optimizer
    run: RunFolder
    world: World
    precision: str
    evaluate: Evaluate
    record: Mapping[str, Any]
    keep: Callable[[int], None]
    stopping: Stopping
    step: int = 0
    seconds: float = 0.0
    best: dict = field(default_factory=dict)
    evaluated: int = 0
    saved: int = 0
    interrupted: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.schedule = Schedule(self.optimizer, self.config.optimizer, self.data.steps_per_epoch)
        self.checkpoints = Checkpoints(self.run.last, self.config.run.keep_checkpoints)
        self.agreement = Agreement(self.world)
        self.asked_at = time.monotonic()

    @property
    def epoch(self) -> int:
        """Number of complete epochs."""
        return self.step // self.data.steps_per_epoch

    def fit(self) -> None:
        """Train the remaining epochs."""
        if self.run.last.exists():
            self.load()
        if not self.world.agrees(self.step):
            raise InvalidSetting(
                "runs",
                self.config.run.runs,
                "is not the same folder on all machines; name a folder that all machines share",
            )
        if self.world.is_first:
            self.metrics = MetricsWriter(self.run.path, self.step, self.evaluated, self.config.run.log)
        self.evaluate_if_due()
        steps = self.config.optimizer.epochs * self.data.steps_per_epoch
        optimizer = self.config.optimizer
        self.progress = Progress(optimizer.epochs, steps, self.step, optimizer.batch_size, self.world.is_first)
        with self.progress, self.checkpoints:
            while self.epoch < optimizer.epochs:
                with self.stopping.deferring():
                    self.report("train", self.train_epoch(), self.progress.left(self.step))
                    if self.world.is_first:
                        # Before the checkpoint, so that the exported student exists for every epoch.
                        self.keep(self.epoch)
                    # Before the evaluation: if the evaluation fails, the epoch is not trained again.
                    self.save()
                    self.stop_if(self.agreement.decide(self.request()) == STOP)
                self.evaluate_if_due()

    def evaluate_if_due(self) -> None:
        """Evaluate the epoch if an evaluation is due and not recorded yet."""
        if self.step % self.data.steps_per_epoch:  # Resumed within the next epoch: the weights are no longer there.
            return
        chosen = self.epoch % self.config.run.eval_every == 0 or self.epoch == self.config.optimizer.epochs
        if chosen and self.evaluated < self.epoch:
            self.evaluate_epoch()
            self.evaluated = self.epoch
            self.save()

    def train_epoch(self) -> dict[str, float]:
        """Train the rest of an epoch.

        Returns:
            the means of the losses, images/s and the share of time spent waiting for data, of the whole epoch.
        """
        self.task.train()
        before, self.interrupted = self.interrupted, {}
        means = Means(before.get("sums", {}), self.world)
        begin = time.perf_counter() - before.get("seconds", 0)
        broken_before = self.data.broken_images - (before.get("broken", 0) if self.world.is_first else 0)
        first = self.epoch * self.data.steps_per_epoch
        steps = range(self.step, first + self.data.steps_per_epoch)
        batches = Timed(self.data.batches(steps), before.get("waiting", 0))

        def so_far() -> dict[str, Any]:
            broken = torch.tensor(self.data.broken_images - broken_before, device=self.world.device)
            return {
                "seconds": time.perf_counter() - begin,
                "waiting": batches.waiting,
                "broken": int(self.world.all_reduce(broken)),
            }

        self.progress.begin_epoch(self.epoch + 1, self.step)
        for step, micro_batches in itertools.groupby(batches, lambda batch: batch.random.step):
            self.train_step(micro_batches, means)
            self.step = step + 1
            self.progress.advance(self.step, means.own_loss)
            if self.step % CHECK_EVERY == 0 or self.step == steps.stop:
                self.check_losses(means)
            wanted = self.agreement.exchange(self.request())
            if wanted != NOTHING and self.step < steps.stop:
                self.check_losses(means)
                self.save({**so_far(), "sums": means.state()})
                self.stop_if(wanted == STOP)
        past = so_far()
        self.seconds += past["seconds"]
        return {
            **means.read(),
            **({"broken_images": past["broken"]} if past["broken"] else {}),
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": (steps.stop - first) * self.config.optimizer.batch_size / past["seconds"],
            "waiting_for_data": past["waiting"] / past["seconds"],
        }

    def request(self) -> int:
        """Return what this process asks for after a step."""
        if self.stopping.requested:
            return STOP
        every, minutes = self.config.run.checkpoint_steps, self.config.run.checkpoint_minutes
        by_steps = every and self.step % every == 0
        # Clocks differ, so only the first process looks at its own.
        by_time = minutes and self.world.is_first and time.monotonic() - self.asked_at > 60 * minutes
        if by_time:
            # Several processes agree one step later; do not ask again before.
            self.asked_at = time.monotonic()
        return SAVE if by_steps or by_time else NOTHING

    def stop_if(self, wanted: bool) -> None:
        """Raise Preempted if the processes agreed to stop, after the checkpoint is written."""
        if wanted:
            self.checkpoints.wait()
            self.world.barrier()
            raise Preempted

    def train_step(self, micro_batches: Iterable[Batch], means: Means) -> None:
        """Make one optimizer step over the global batch."""
        self.schedule.set(self.step)
        # For networks with dropout: their random numbers also follow from seed and step.
        torch.manual_seed(generator("cpu", self.config.run.seed, "dropout", self.step, self.world.rank).initial_seed())
        for number, batch in enumerate(micro_batches, 1):
            last = number == self.config.optimizer.grad_accum_steps
            with (
                memory_remedy(self.config, len(batch.images)),
                contextlib.nullcontext() if last else self.task.no_sync(),
            ):
                begin_step(self.config)
                with autocast(self.precision, self.world.device):
                    losses = self.task(batch)
                losses["loss"].backward(torch.full_like(losses["loss"], 1 / self.config.optimizer.grad_accum_steps))
            means.add(losses)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.task.update_average(self.step)

    def check_losses(self, means: Means) -> None:
        """Raise UserError if a loss of this epoch was not finite, or a weight is not. No such weights are saved."""
        content = self.task.model().state_dict()
        weights = torch.stack([value.isfinite().all() for value in content.values()])
        if not self.world.all_true(means.total_loss().isfinite() & weights.all()):
            optimizer = self.config.optimizer
            first = next((name for name, whole in zip(content, weights.tolist(), strict=True) if not whole), None)
            raise UserError(
                f"{'the loss' if first is None else f'the loss or the weight {first}'} is not finite at step "
                f"{self.step}, or up to {CHECK_EVERY} steps before; lower `lr` "
                f"{optimizer.lr} or raise `warmup_epochs` {optimizer.warmup_epochs} (the last good checkpoint is "
                f"{self.run.last})"
            )

    def evaluate_epoch(self) -> None:
        """Evaluate the epoch, and save its weights if it is the best so far."""
        with eager(self.config):
            measured = self.evaluate(self.config.run.eval_images)
        self.report("eval", measured.record())
        output, accuracy = next(iter(measured.accuracies.items()))
        # The first score of the first output is "top1", or "cosine" without classes.
        name, score = next(iter(accuracy.items()))
        if score > self.best.get(name, -math.inf):
            self.best = {"epoch": self.epoch, "output": output, name: score, **measured.images}
            if self.world.is_first:
                files.save(self.run.best, {**self.weights(), "epoch": self.epoch, "best": self.best})

    def report(self, kind: str, values: dict, end: str = "") -> None:
        """Write values to the metrics and print them as a line that ends with `end`."""
        if not self.world.is_first:
            return
        self.metrics.write(kind, self.epoch, self.step, values)
        say(f"epoch {self.epoch:>3}/{self.config.optimizer.epochs}  {kind:<5}  {as_line(values)}{end}")

    def where_stopped(self) -> str:
        """Describe the last checkpoint and how to resume, for the message after a stop; empty in other processes."""
        if not self.world.is_first:
            return ""
        self.checkpoints.wait()
        if not self.saved:
            return f"stopped {self.place(self.step)}, before a checkpoint; run the same command again to start over"
        return f"stopped {self.place(self.saved)}; run the same command again to resume ({self.run.last})"

    def place(self, step: int) -> str:
        """Describe a step: "after epoch 3 of 10", or "in epoch 4 of 10, after step 350"."""
        epoch, inside = divmod(step, self.data.steps_per_epoch)
        epochs = self.config.optimizer.epochs
        return f"in epoch {epoch + 1} of {epochs}, after step {step}" if inside else f"after epoch {epoch} of {epochs}"

    def weights(self) -> dict:
        """Return the part of a checkpoint for evaluation: trained weights, their average, and the run's record."""
        reported = self.config.optimizer.eval_weights
        content = {"model": self.task.model().state_dict(), "reported": reported, RECORD: json.dumps(self.record)}
        if self.task.average is not None:
            content["ema"] = self.task.model(averaged=True).state_dict()
        return content

    def save(self, interrupted: Mapping[str, Any] | None = None) -> None:
        """Start to write a checkpoint.

        Args:
            interrupted: the state of an incomplete epoch.
        """
        if self.world.is_first:
            # Two decimals, rounded down: part of an epoch is not a whole one.
            reached = math.floor(100 * self.step / self.data.steps_per_epoch) / 100
            content = {
                **self.weights(),
                "optimizer": self.optimizer.state_dict(),
                **{name: getattr(self, name) for name in PROGRESS},
                "epoch": reached if interrupted else self.epoch,
                "evaluated": self.evaluated,
                "interrupted": interrupted or {},
            }
            self.checkpoints.write(content, self.step)
            self.saved = self.step
        self.asked_at = time.monotonic()

    def load(self) -> None:
        """Load the last checkpoint. All random numbers follow from the step, so they are not stored."""
        content = checkpoint.read(self.run.last)
        missing = [name for name in ("model", "optimizer", *PROGRESS) if name not in content]
        if missing:
            raise InvalidSetting(
                "resume",
                self.run.last,
                f"the file does not hold {', '.join(missing)}, so the run cannot resume from it; put its last "
                "checkpoint there, or start another run with `student_weights`",
            )
        self.task.model().load_state_dict(content["model"])
        if self.task.average is not None:
            self.task.model(averaged=True).load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        for name in PROGRESS:
            setattr(self, name, content[name])
        self.interrupted = content.get("interrupted", {})
        # Older checkpoints were written after the evaluation.
        self.evaluated = content.get("evaluated", self.epoch)
        self.saved = self.step
        if self.world.is_first:
            print(f"resuming {self.place(self.step)} ({self.run.last})", flush=True)


@contextlib.contextmanager
def memory_remedy(config: Config, images: int):
    """Replace an out-of-memory error by InvalidSetting, which suggests smaller micro-batches than `images`."""
    try:
        yield
    except RuntimeError as error:
        # Only the GPU's allocator raises a special type; the CPU's error has these words.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        steps = config.optimizer.grad_accum_steps
        raise InvalidSetting(
            "grad_accum_steps",
            steps,
            f"a micro-batch of {images} images does not fit into memory; set `grad_accum_steps` {2 * steps} to halve "
            "it, or `grad_checkpointing` both to need less per image",
        ) from error
