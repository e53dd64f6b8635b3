"""A training that PyTorch cannot compile ends with one line."""

import pytest
from lines import refuses
from programs import train_cifar
from small_runs import COMMON


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
