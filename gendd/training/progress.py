"""Progress of a training: a bar in a terminal, or a line per minute in a file, both with the remaining time."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Self

from tqdm import tqdm

from gendd.evaluation.scores import in_percent, score_title

SECONDS_PER_LINE = 60


class Progress:
    """Display of the progress of a run. The remaining time leaves out the first step, which may compile for minutes.

    Args:
        epochs, steps: total numbers of the run.
        done: steps before this start.
        images: images per step.
        shown: False in processes that print nothing.
    """

    def __init__(self, epochs: int, steps: int, done: int, images: int, shown: bool):
        self.epochs, self.steps, self.images = epochs, steps, images
        self.begin: float | None = None
        # A notebook shows a bar, although its output is not a terminal.
        notebook = "ipykernel" in sys.modules
        self.writes_lines = shown and not (sys.stdout.isatty() or notebook)
        # Without smoothing, the remaining time includes evaluations.
        self.bar = tqdm(
            total=steps,
            initial=done,
            disable=not (shown and (sys.stderr.isatty() or notebook)),
            leave=False,
            dynamic_ncols=True,
            smoothing=0,
            unit="step",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def begin_epoch(self, epoch: int, step: int) -> None:
        self.title = f"epoch {epoch:>3}/{self.epochs}"
        self.bar.set_description(self.title)
        self.written, self.written_at = time.monotonic(), step

    def advance(self, step: int, loss: Callable[[], float]) -> None:
        """Show the number of completed steps. `loss` is called only to print a line."""
        now = time.monotonic()
        if self.begin is None:
            self.begin, self.done = now, step
            self.bar.unpause()
            self.bar.initial = step
        self.bar.update()
        if not self.writes_lines or now - self.written < SECONDS_PER_LINE:
            return
        rate = (step - self.written_at) * self.images / (now - self.written)
        position = f"step {step:>{len(str(self.steps))}}/{self.steps}"
        say(f"{self.title}  {position}  loss {loss():.4g}  {rate:.0f} images/s{self.left(step)}")
        self.written, self.written_at = now, step

    def left(self, step: int) -> str:
        """Return the remaining time, as the end of a line; empty after the first step and the last one."""
        if self.begin is None or not self.done < step < self.steps:
            return ""
        seconds = (time.monotonic() - self.begin) / (step - self.done) * (self.steps - step)
        return f"  {timedelta(seconds=round(seconds))} left"


def say(text: str) -> None:
    """Print a line, above the bar if there is one."""
    with tqdm.external_write_mode(sys.stdout):
        print(text, flush=True)


def as_line(values: dict) -> str:
    """Return the values of a record as the text of a line."""
    words = []
    for name, value in values.items():
        if isinstance(value, dict):
            shown = (_shown(name, key, number, values.get("images", 0)) for key, number in value.items())
            words.append(f"{name} {', '.join(shown)}")
        elif name == "waiting_for_data":
            words.append(f"waiting for data {value:.0%}")
        elif name == "images_per_second":
            words.append(f"{value:.0f} images/s")
        else:
            words.append(f"{name} {_rounded(value)}")
    return "  ".join(words)


def _shown(group: str, name: str, value, images: int) -> str:
    percent = in_percent(group, name, value)
    return f"{name} {_rounded(value)}" if percent is None else f"{score_title(name, images)} {percent:.2f} %"


def _rounded(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
