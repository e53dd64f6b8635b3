"""A toy teacher, and the train program as a function, for the tests of small images."""

import shutil
from pathlib import Path

import pytest
from programs import for_head, train_cifar
from small_runs import COMMON, DENSE, HEAD, PAIR, TOY, ctrl_c


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("teacher")
    train_cifar(["classification", *COMMON, "--runs", str(runs), "--lr", "0.01"])
    return runs / "digits" / "toy.network" / "classification" / "0"


def trainer(teacher: Path, root: Path):
    """Return a function that trains the toy student below a folder, and returns the run's folder."""

    def run(*flags: str, method: str = "gendd", runs: str = "runs", data: str = "digits") -> Path:
        words = [method, *COMMON, *for_head(method, HEAD), "--teacher", TOY, "--teacher-weights", str(teacher)]
        train_cifar([*words, "--runs", str(root / runs), *flags])
        return folder(runs, data, flags[flags.index("--name") + 1] if "--name" in flags else method)

    def folder(runs: str = "runs", data: str = "digits", name: str = "gendd") -> Path:
        return root / runs / data / "toy.network_toy.network" / name / "0"

    run.folder = folder
    return run


@pytest.fixture
def train(teacher, tmp_path):
    """Return a function that trains the toy student from the toy teacher, and returns the run's folder."""
    return trainer(teacher, tmp_path)


@pytest.fixture(scope="session")
def whole(teacher, tmp_path_factory) -> Path:
    """Train GenDD without further flags; no test changes the run."""
    return trainer(teacher, tmp_path_factory.mktemp("whole"))()


@pytest.fixture(scope="session")
def dense(teacher, tmp_path_factory) -> Path:
    """Train GenDD with the dense term; no test changes the run."""
    return trainer(teacher, tmp_path_factory.mktemp("dense"))(*DENSE)


@pytest.fixture(scope="session")
def pair(teacher, tmp_path_factory) -> Path:
    """Train from two teachers, with the dense term and an average of the weights; no test changes the weights."""
    out = tmp_path_factory.mktemp("pair") / "run"
    trainer(teacher, out.parent)(*PAIR, "--out", str(out))
    return out


@pytest.fixture(scope="session")
def killed(teacher, tmp_path_factory) -> Path:
    """Train until a kill after the first epoch; return the folder of runs, which no test changes."""
    root = tmp_path_factory.mktemp("killed")
    with ctrl_c("train_epoch", epoch=1):
        trainer(teacher, root)(runs="parts")
    return root / "parts"


@pytest.fixture
def interrupted(train, killed, tmp_path) -> Path:
    """Return a copy of the run that was killed after its first epoch."""
    shutil.copytree(killed, tmp_path / "parts")
    return train.folder("parts")
