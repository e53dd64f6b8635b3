"""Trainings of photographs with workers from shards over HTTP, with a fault a minute."""

import http.server
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from digits import difference
from forked import Forked, run
from photos import write_photos
from programs import train_imagenet
from rows import Row, tested
from small_runs import TOY

from gendd_imagenet.make_shards import main as make_shards

MINUTE = 60.0


class Shards(http.server.SimpleHTTPRequestHandler):
    """A server of shards with faults: `fault` names the one of the next request."""

    fault = ""

    def do_GET(self) -> None:
        fault, Shards.fault = Shards.fault, ""
        if fault == "the server is busy":
            self.send_error(503)
        elif fault == "the server does not know the shard for a moment":
            self.send_error(500)
        elif fault == "the connection breaks":
            path = Path(self.translate_path(self.path))
            self.send_response(200)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            self.wfile.write(path.read_bytes()[: path.stat().st_size // 2])
        else:
            time.sleep(5 if fault == "the server is slow" else 0)
            super().do_GET()

    def log_message(self, *arguments) -> None:
        """Print nothing."""


def soak(folder: Path, short: bool, minutes: float = 120) -> Iterator[Row]:
    photos, shards = write_photos(folder / "photos"), folder / "shards"
    make_shards([str(photos / "train"), str(shards), "--images-per-shard", "23"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Shards, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{{00000..00003}}.tar"
    words = ["regression", "--dataset", address, "--eval-dataset", str(photos), "--unlabeled", "--contraction", "0",
             "--student", TOY, "--teacher", TOY, "--teacher-weights", "random", "--image-size", "32", "--batch-size",
             "16", "--epochs", "8", "--warmup-epochs", "0", "--steps-per-epoch", "5", "--precision", "fp32",
             "--workers", "2"]  # fmt: skip
    begin = time.monotonic()
    whole = run(partial(train_imagenet, [*words, "--out", str(folder / "whole")]), folder)
    assert not whole.code, whole.error
    seconds = time.monotonic() - begin
    problems = _rounds(folder, partial(_command, words), seconds, 0.5 if short else minutes)
    yield tested("Photographs, two workers, shards over HTTP, a fault a minute: the same bits", problems)
    server.shutdown()


def _command(words: list[str], place: Path) -> None:
    train_imagenet([*words, "--out", str(place)])


def _rounds(folder: Path, train, seconds: float, minutes: float) -> Iterator[str]:
    """Train again and again, each time with one fault at a random moment."""
    chance, stop, place = random.Random(0), time.monotonic() + 60 * minutes, folder / "run"
    while time.monotonic() < stop:
        begin, fault = time.monotonic(), chance.choice((*REQUESTS, "a worker is killed", "the training is killed"))
        process = Forked(partial(train, place), folder)
        time.sleep(chance.uniform(0, seconds))
        _provoke(fault, process)
        ended, starts = process.wait(), 1
        while ended.code and starts < 3:
            ended, starts = run(partial(train, place), folder), starts + 1
        problem = ended.error if ended.code else difference(folder / "whole", place)
        yield problem and f"{fault}: {problem}"
        shutil.rmtree(place)
        time.sleep(max(0.0, min(begin + MINUTE, stop) - time.monotonic()))


REQUESTS = (
    "the server is busy",
    "the server does not know the shard for a moment",
    "the connection breaks",
    "the server is slow",
)


def _provoke(fault: str, process: Forked) -> None:
    if fault in REQUESTS:
        Shards.fault = fault
        return
    pids = [process.pid]
    if fault == "a worker is killed":
        # The last children are the workers.
        pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1:]
    for pid in pids:
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
