"""Disks that are full, read-only, out of inodes or over a quota, at every write of a run."""

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from digits import Runs, difference
from forked import run
from rows import Row, tested

from gendd.networks import checkpoint

# Events of Python's audit that change a folder, with the position of the path among their arguments.
CHANGES = {"open": 0, "os.mkdir": 0, "os.rename": 1, "os.symlink": 1}
KINDS = {
    "is full": errno.ENOSPC,
    "is read-only": errno.EROFS,
    "is over its quota": errno.EDQUOT,
}
KIB = 1024


def disk(folder: Path, short: bool) -> Iterator[Row]:
    runs, chance = Runs(folder), random.Random(0)
    whole = runs.undisturbed()
    total = _writes(runs)
    for kind, number in KINDS.items():
        cases = chance.sample(range(total), 1) if short else range(total)
        problems = (_resumed(runs, whole, _failing(folder / "run", case, number), f"write {case}") for case in cases)
        yield tested(f"The disk {kind} from the n-th write on, for each n: one line, nothing saved is lost", problems)
    if not short:
        size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        for name, option, limits in (
            ("A tmpfs is full", "size", [f"{step * size // 24 // KIB}k" for step in range(1, 24)]),
            ("A tmpfs is out of inodes", "nr_inodes", [str(count) for count in range(2, 20)]),
        ):
            problems = (_on_tmpfs(runs, whole, f"{option}={limit}") for limit in limits)
            yield tested(f"{name}, for growing limits: one line, nothing saved is lost", problems)
        largest = max(path.stat().st_size for path in whole.rglob("*"))
        problems = (
            _resumed(runs, whole, _limited(largest * step // 12), f"{largest * step // 12} bytes")
            for step in range(1, 12)
        )
        yield tested("Files may not exceed a size: one line, nothing saved is lost", problems)


def _resumed(runs: Runs, whole: Path, fault: Callable[[], None], case: str, after: Callable = lambda: None) -> str:
    """Train with a fault until it ends, then without; return the problem, or "" if all is well."""
    place = runs.folder / "run" / "one"
    command = runs.command(place)

    def faulty() -> None:
        fault()
        command()

    ended = run(faulty, runs.folder)
    after()
    problem = ended.code and ended.problem
    last = place / "checkpoints" / "last.pt"
    if not problem and last.exists():
        checkpoint.read(last)
    if not problem:
        ended = run(command, runs.folder)
        problem = ended.error if ended.code else difference(whole, place)
    subprocess.run(["rm", "-rf", place], check=True)
    return problem and f"{case}: {problem}"


def _writes(runs: Runs) -> int:
    """Return the number of changes that a run makes in its folder."""
    log = runs.folder / "writes"

    def counted() -> None:
        changes = 0

        def count(path: str) -> None:
            nonlocal changes
            changes += 1
            os.pwrite(file, str(changes).encode(), 0)

        file = os.open(log, os.O_CREAT | os.O_WRONLY)
        _on_change(runs.folder / "counted", count)
        runs.command(runs.folder / "counted")()

    assert not run(counted, runs.folder).code
    return int(log.read_text())


def _on_change(folder: Path, call: Callable[[str], None]) -> None:
    """Call a function before each change below a folder, for the rest of this process."""

    def hook(event: str, arguments: tuple) -> None:
        if event in CHANGES and str(path := arguments[CHANGES[event]]).startswith(str(folder)):
            writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes:
                call(os.fspath(path))

    sys.addaudithook(hook)


def _failing(folder: Path, first: int, number: int) -> Callable[[], None]:
    """Return a function after which all changes of a folder but the first ones fail."""

    def start() -> None:
        changes = 0

        def fail(path: str) -> None:
            nonlocal changes
            changes += 1
            if changes > first:
                raise OSError(number, os.strerror(number), path)

        _on_change(folder, fail)

    return start


def _limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextmanager
def tmpfs(place: Path, options: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def _on_tmpfs(runs: Runs, whole: Path, limit: str) -> str:
    place = runs.folder / "run"
    roomy = ["mount", "-o", "remount,size=1g,nr_inodes=100k", place]
    with tmpfs(place, limit):
        return _resumed(runs, whole, lambda: None, limit, lambda: subprocess.run(roomy, check=True))
