"""Two programs that write into one folder at the same time."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from digits import Runs, difference
from forked import Ended, Forked, run
from photos import write_photos
from rows import Row, tested

from gendd.programs.report import report
from gendd_cifar.family import FAMILY
from gendd_imagenet.make_shards import main as make_shards
from gendd_imagenet.shards import images_of

CACHED = ("--cached-views", "2", "--teacher-cache")


def writers(folder: Path, short: bool) -> Iterator[Row]:
    runs, chance, count = Runs(folder), random.Random(0), 2 if short else 10
    yield tested("Two make_shards into one folder: one set of whole shards", _shards(runs, chance, count))
    yield tested("Two runs into one folder: one trains, the other is refused", _same_run(runs, chance, count))
    yield tested("Two runs fill one cache: both end like undisturbed runs", _caches(runs, chance, count))
    yield tested("Two teachers and one new cache: one run trains, the other is refused", _teachers(runs, chance, count))
    yield tested("Two reports into one folder: a whole report", _reports(runs, chance, count))


def _together(runs: Runs, chance: random.Random, *works: Callable[[], object]) -> list[Ended]:
    """Run programs at the same time, the later ones with a small delay."""
    processes = []
    for work in works:
        processes.append(Forked(work, runs.folder))
        time.sleep(chance.choice((0.0, 0.001, 0.01, 0.1)))
    return [process.wait() for process in processes]


def _problem(ended: list[Ended], refused: int) -> str:
    """Return the problem of programs of which this number may be refused with one line."""
    failed = [one for one in ended if one.code]
    problems = [one.problem for one in failed if one.problem]
    if len(failed) > refused:
        problems.append(f"{len(failed)} ended with an error: {failed[-1].error.strip()}")
    return "; ".join(problems)


def _shards(runs: Runs, chance: random.Random, count: int) -> Iterator[str]:
    photos = write_photos(runs.folder / "photos")
    place = runs.folder / "shards"
    work = partial(make_shards, [str(photos / "train"), str(place), "--images-per-shard", "9"])
    for _ in range(count):
        problem = _problem(_together(runs, chance, work, work), refused=1)
        names = [name.split(": ")[1] for shard in sorted(place.glob("*.tar")) for name, _ in images_of(str(shard))]
        left = [path.name for path in place.iterdir() if path.suffix != ".tar"]
        whole = sorted(names) == sorted(set(names)) and len(names) == 90 and not left
        yield problem or ("" if whole else f"{len(names)} images, {len(set(names))} different; left over: {left}")
        shutil.rmtree(place)


def _same_run(runs: Runs, chance: random.Random, count: int) -> Iterator[str]:
    whole, place = runs.undisturbed(), runs.folder / "run"
    for _ in range(count):
        ended = _together(runs, chance, runs.command(place), runs.command(place))
        yield _problem(ended, refused=1) or difference(whole, place)
        shutil.rmtree(place)


def _caches(runs: Runs, chance: random.Random, count: int) -> Iterator[str]:
    cache, places = runs.folder / "cache", [runs.folder / "one", runs.folder / "other"]
    whole = runs.undisturbed(*CACHED, str(cache))
    for _ in range(count):
        shutil.rmtree(cache)
        ended = _together(runs, chance, *(runs.command(place, *CACHED, str(cache)) for place in places))
        yield _problem(ended, refused=0) or difference(whole, places[0]) or difference(whole, places[1])
        for place in places:
            shutil.rmtree(place)


def _teachers(runs: Runs, chance: random.Random, count: int) -> Iterator[str]:
    """Train students of two teachers, whose features must not mix in one cache."""
    other, cache = Runs(runs.folder / "other_teacher", seed=1), runs.folder / "new_cache"
    places = [runs.folder / "one", runs.folder / "other"]
    expected = [one.undisturbed(*CACHED, str(one.folder / "cache")) for one in (runs, other)]
    for _ in range(count):
        works = [one.command(place, *CACHED, str(cache)) for one, place in zip((runs, other), places, strict=True)]
        ended = _together(runs, chance, *works)
        trained = [number for number, one in enumerate(ended) if not one.code]
        yield _problem(ended, refused=1) or "; ".join(
            filter(None, (difference(expected[number], places[number]) for number in trained))
        )
        for place in (cache, *places):
            shutil.rmtree(place, ignore_errors=True)


def _reports(runs: Runs, chance: random.Random, count: int) -> Iterator[str]:
    folders = [runs.folder / name for name in ("report", "double")]
    alone, work = (partial(report, FAMILY, [str(runs.undisturbed()), "--output", str(folder)]) for folder in folders)
    assert not run(alone, runs.folder).code
    for _ in range(count):
        problem = _problem(_together(runs, chance, work, work), refused=1)
        names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
        texts = [(folder / "report.md").read_text().replace(folder.name, "") for folder in folders]
        yield problem or ("" if names[0] == names[1] and texts[0] == texts[1] else f"another report: {names[1]}")
        shutil.rmtree(folders[1])
