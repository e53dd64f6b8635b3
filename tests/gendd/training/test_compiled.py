"""A training that PyTorch cannot compile ends with one line."""

import pytest
import torch
from lines import refuses
from programs import train_cifar
from small_runs import COMMON

from gendd.core.stopping import Preempted, Stopping
from gendd.training.compiled import compiling


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("C++ compile error\n\nCommand:\ng++\nk.cpp:3:1: error: conflict\n", r"\(k.cpp:3:1: error: conflict\)"),
        ("no working compiler", r"\(no working compiler\)"),
    ],
)
def test_failed_compilation_names_the_cause(error, cause, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError(error)

    monkeypatch.setattr("gendd.programs.train_run.compile_options", lambda *_: {"backend": fails})
    with refuses(f"^--compile: PyTorch .* cannot compile this training here {cause}; train without it: --no-compile$"):
        train_cifar(["classification", *COMMON, "--runs", str(tmp_path), "--compile"])


def test_compiler_that_a_signal_ends_is_a_preemption():
    def fails(*_):
        raise RuntimeError("C++ compile error")

    stopping = Stopping()
    stopping.requested = True
    with pytest.raises(Preempted), compiling(stopping):
        torch.compile(torch.nn.Linear(2, 2), backend=fails)(torch.ones(1, 2))
