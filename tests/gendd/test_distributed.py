"""What torch.compile needs, looked for before it is asked."""

import sys

import torch

from gendd.distributed import missing_for_compile


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert missing_for_compile(torch.device("cpu")) == "the compiler no-such-compiler"
    monkeypatch.setenv("CXX", sys.executable)
    assert missing_for_compile(torch.device("cpu")) is None
