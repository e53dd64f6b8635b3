"""Requirements of torch.compile, which are checked before it is called."""

import shutil
import sys
import sysconfig

import pytest
import torch

from gendd.core.distributed import missing_for_compile

CPU = torch.device("cpu")
with_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")


def test_compile_without_compiler_names_it(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert missing_for_compile(CPU) == "the compiler no-such-compiler"
    monkeypatch.setenv("CXX", sys.executable)
    assert missing_for_compile(CPU) is None


def test_compile_refuses_compiler_variable_with_flags(monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} -O2")
    missing = missing_for_compile(CPU)
    assert f"the compiler '{sys.executable} -O2' (torch takes CXX for the name of a program, without flags)" == missing


@with_compiler
def test_compile_without_python_headers_names_them(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path / "include"))
    assert missing_for_compile(CPU) == "Python.h, of Python's development files,"
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CPATH", str(tmp_path))
    assert missing_for_compile(CPU) is None


@with_compiler
def test_triton_needs_compiler_and_python_headers(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setenv("CC", "no-such-compiler")
    assert missing_for_compile(torch.device("cuda")) == "the compiler no-such-compiler"
    monkeypatch.setenv("CC", "g++")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    assert "Python.h" in missing_for_compile(torch.device("cuda"))
