"""SIGKILL at random moments. The same command then ends like an undisturbed run, bit for bit."""

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import eq
from pathlib import Path
from unittest.mock import patch

from digits import Runs, difference
from forked import Forked, run
from rows import Row, tested
from small_runs import TOYS

from gendd.core import files
from gendd.core.stopping import START_AGAIN
from gendd.distillation.teacher_cache import TeacherCache
from gendd.programs.report import report
from gendd.programs.student_folder import StudentFolder
from gendd.programs.train_run import TrainRun
from gendd.training.loop import Training
from gendd_cifar.family import FAMILY

CACHED, WITHIN = ("--cached-views", "2"), ("--checkpoint-steps", "4")
# Where the process is when it is killed: the function, and the flags of the run.
MOMENTS = {
    "anywhere in a run": (TrainRun, "execute", ()),
    "during a step": (Training, "train_step", ()),
    "between checkpoints within an epoch": (Training, "train_step", WITHIN),
    "during an evaluation": (Training, "evaluate_epoch", ()),
    "during a checkpoint": (files, "save", ()),
    "during student.safetensors": (StudentFolder, "write", ()),
    "during the final result": (TrainRun, "_finish", ()),
    "during the fill of a teacher cache": (TeacherCache, "fill", CACHED),
}
SHORT = ("during a checkpoint", "during the fill of a teacher cache")


def kills(folder: Path, short: bool) -> Iterator[Row]:
    runs, chance = Runs(folder), random.Random(0)
    for moment in SHORT if short else MOMENTS:
        cases = _killed(runs, chance, *MOMENTS[moment], 1 if short else 5)
        yield tested(f"A run killed {moment} resumes to the same bits", cases)
    if not short:
        cases = _killed(runs, chance, Training, "train_step", (), 5, signal.SIGTERM)
        promise = "A run that SIGTERM stops in a step saves, ends with exit code 75 and resumes to the same bits"
        yield tested(promise, cases)
        yield tested("A killed report is written again, equal", _reports(runs, chance, 5))
        for whom, count in (("one", 5), ("both", 3), ("launcher and both", 2)):
            cases = (_killed_pair(runs, chance, whom, number) for number in range(count))
            yield tested(f"Two processes, {whom} killed: the run ends with the same bits", cases)


class Moment:
    """The calls of a function in a forked process: it reports when the n-th one begins."""

    def __init__(self, owner: object, name: str):
        self.owner, self.name, self.original = owner, name, getattr(owner, name)
        self.begun, self.begin = os.pipe()

    def watched(self, work: Callable[[], object], at: Callable[[int], bool]) -> Callable[[], object]:
        """Return `work` with the function replaced: before its n-th call, if `at(n)`, it reports the beginning."""
        calls = 0

        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if at(calls):
                os.write(self.begin, b"b")
            begin = time.monotonic()
            result = self.original(*arguments, **options)
            if at(0):
                os.write(self.begin, f"{time.monotonic() - begin} ".encode())
            return result

        def watched_work():
            with patch.object(self.owner, self.name, call):
                work()

        return watched_work

    def wait(self, process: Forked) -> None:
        """Wait for the report, or for the end of the process."""
        while not select.select([self.begun], [], [], 0.02)[0]:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return

    def close(self) -> None:
        os.close(self.begun)
        os.close(self.begin)


def _durations(work: Callable[[], object], folder: Path, owner: object, name: str) -> list[float]:
    """Return the seconds of each call of a function in an undisturbed run."""
    moment = Moment(owner, name)
    assert not run(moment.watched(work, lambda number: not number), folder).code
    seconds = [float(word) for word in os.read(moment.begun, 1 << 16).split()]
    moment.close()
    return seconds


def _killed(
    runs: Runs,
    chance: random.Random,
    owner: object,
    name: str,
    flags: tuple[str, ...],
    count: int,
    number: signal.Signals = signal.SIGKILL,
) -> Iterator[str]:
    """Send runs a signal once each and resume them; yield how they differ from an undisturbed run."""
    place, cache = runs.folder / "killed", runs.folder / "cache"
    flags = (*flags, "--teacher-cache", str(cache)) if flags == CACHED else flags
    ending = -number if number == signal.SIGKILL else START_AGAIN
    whole, work = runs.undisturbed(*flags), runs.command(place, *flags)
    _clear(place, cache)
    seconds = _durations(work, runs.folder, owner, name)
    for case in range(count):
        killed = False
        while not killed:
            _clear(place, cache)
            call, moment = chance.randrange(len(seconds)), Moment(owner, name)
            process = Forked(moment.watched(work, partial(eq, call + 1)), runs.folder)
            moment.wait(process)
            time.sleep(chance.uniform(0, seconds[call]))
            process.send(number)
            moment.close()
            # A process that was faster than expected has ended; another one is tried.
            killed = process.wait().code == ending
        ended = run(work, runs.folder)
        problem = ended.error if ended.code else difference(whole, place)
        yield problem and f"case {case}: {problem}"


def _clear(*places: Path) -> None:
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


def _reports(runs: Runs, chance: random.Random, count: int) -> Iterator[str]:
    whole = runs.undisturbed()
    folders = [runs.folder / name for name in ("report", "killed_report")]
    expected, work = (partial(report, FAMILY, [str(whole), "--output", str(folder)]) for folder in folders)
    begin = time.monotonic()
    assert not run(expected, runs.folder).code
    seconds = time.monotonic() - begin
    for _ in range(count):
        process = Forked(work, runs.folder)
        time.sleep(chance.uniform(0, seconds))
        process.send(signal.SIGKILL)
        process.wait()
        ended = run(work, runs.folder)
        texts = [(folder / "report.md").read_text().replace(folder.name, "") for folder in folders]
        yield ended.error if ended.code else "" if texts[0] == texts[1] else "other report"
        shutil.rmtree(folders[1])


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _killed_pair(runs: Runs, chance: random.Random, whom: str, number: int) -> str:
    """Kill processes of a run in two processes. The launcher, if it is not killed, starts them again."""
    places = {name: runs.folder / f"pair-{name}" for name in ("whole", "parts")}
    environment = {**os.environ, "CPU_PROCS": "2", "MAX_RESTARTS": "1", "PEER_TIMEOUT": "60"}
    environment["PYTHONPATH"] = os.pathsep.join([TOYS, environment.get("PYTHONPATH", "")])

    def start(place: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "gendd.launch", "gendd_cifar", "train", *runs.words(place)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    if not (places["whole"] / "result.json").exists():
        assert not start(places["whole"]).wait()
    shutil.rmtree(places["parts"], ignore_errors=True)
    launcher = start(places["parts"])
    while not (places["parts"] / "writer.lock").exists():
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 2))
    processes = _children(launcher.pid)
    for pid in [launcher.pid, *processes] if "launcher" in whom else processes if whom == "both" else processes[1:]:
        os.kill(pid, 9)
    _, error = launcher.communicate()
    if "launcher" in whom:
        launcher = start(places["parts"])
        _, error = launcher.communicate()
    problem = error if launcher.returncode else difference(places["whole"], places["parts"])
    return problem and f"{whom}, case {number}: {problem}"
