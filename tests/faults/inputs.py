"""Bad command lines: each is refused in one line that names the flag or the path, before any training."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from forked import run
from rows import Row, tested
from small_runs import TOYS

from gendd.core.errors import UserError, with_flags
from gendd.programs.main import main

TRAIN = "train kd --dataset digits --student toy:network --teacher toy:network --teacher-weights random "
SECONDS = 60
# Values that are refused for each flag of a training.
VALUES = {
    "--epochs": "0 -1 1.5 many nan",
    "--batch-size": "0 -4 1e3 99999 none",
    "--lr": "-1 nan inf fast",
    "--warmup-epochs": "-1 nan x",
    "--weight-decay": "-1 nan",
    "--seed": "-1 1.5 x",
    "--ema-decay": "1.5 -0.1 nan",
    "--eval-every": "0 -1 x",
    "--eval-images": "-1 x",
    "--holdout": "1 -0.1 nan",
    "--label-fraction": "0 1.5 nan",
    "--imbalance": "0 2 nan",
    "--hflip": "2 -1 nan",
    "--crop-padding": "-1 x",
    "--image-size": "0 -1 x",
    "--grad-accum-steps": "0 -1 7",
    "--temperature": "0 -1 nan",
    "--schedule": "nope",
    "--optimizer": "nope",
    "--precision": "fp8",
    "--log": "nope",
    "--eval-weights": "nope ema",
    "--dataset": "nope no/such/folder /dev/null",
    "--student": "nope toy:nope nope:network timm/nope toy:",
    "--teacher": "nope toy:nope nope:network timm/nope torchhub/x",
    "--teacher-weights": "no/such.pth /dev/null .",
    "--student-weights": "no/such.pth /dev/null",
    "--teacher-feature": "nope",
    "--teacher-chunk": "-1 x",
    "--cached-views": "0 3",
    "--unlabeled-dir": "no/such/folder",
    "--config": "no/such.json /dev/null .",
    "--recipe": "nope",
    "--runs": "/dev/null/runs",
    "--no-such-flag": "1",
}
# Command lines, and words of their refusals.
OTHERS = {
    "train --resume no/such/run": "no/such/run",
    "train --resume /dev/null": "/dev/null",
    "nope": "PROGRAM nope",
    "train nope --dataset digits": "METHOD nope",
    "train kd --dataset digits --student toy:network": "--teacher",
    "evaluate": "CHECKPOINT",
    "evaluate no/such/run": "no/such/run",
    "evaluate /dev/null --student toy:network --dataset digits": "/dev/null",
    "report": "RUN",
    "report no/such/run": "no/such/run",
    "report /dev/null": "/dev/null",
    "recipes nope": "nope",
    "knn no/such/run": "no/such/run",
    "probe no/such/run": "no/such/run",
    "zero-shot no/such/run": "",
    "sampling no/such/run": "no/such/run",
    "export no/such/run": "no/such/run",
    "publish no/such/run --folder /dev/null": "no/such/run",
    "compare": "",
    "ablate": "",
    "equal-cost no/such/run": "no/such/run",
}


def inputs(folder: Path, short: bool) -> Iterator[Row]:
    commands = {f"{TRAIN}{flag} {value}": flag for flag, values in VALUES.items() for value in values.split()} | OTHERS
    report = folder / "refusals.json"

    def survey() -> None:
        os.chdir(folder)
        report.write_text(json.dumps([_problem(command, words) for command, words in commands.items()]))

    def problems() -> Iterator[str]:
        ended = run(survey, folder)
        yield from json.loads(report.read_text()) if report.exists() else [ended.error]

    yield tested("A bad command line is refused in one line that names the flag or the path", problems())
    if not short:
        sample = random.Random(0).sample(sorted(commands), 5)
        problems_of_sample = (_problem_of_program(command, folder) for command in sample)
        yield tested("The same as programs: exit code 2, one line", problems_of_sample)


def _problem(command: str, words: str) -> str:
    signal.alarm(SECONDS)
    try:
        main("gendd_cifar", shlex.split(command))
    except UserError as error:
        line = with_flags(str(error))
        return "" if len(line.splitlines()) == 1 and words in line else f"{command}: {line!r}"
    except BaseException as error:
        return f"{command}: {type(error).__name__} {error}"
    finally:
        signal.alarm(0)
    return f"{command}: not refused"


def _problem_of_program(command: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([TOYS, os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, "-m", "gendd_cifar", *shlex.split(command)]
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    refused = ended.returncode == 2 and len(ended.stderr.splitlines()) == 1 and ended.stderr.startswith("error: ")
    return "" if refused else f"{command}: exit code {ended.returncode}, {ended.stderr.strip()!r}"
