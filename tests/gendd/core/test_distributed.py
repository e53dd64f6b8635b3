"""Precision, name of the hardware, requirements of torch.compile, and processes that lose each other."""

import shutil
import sys
import sysconfig

import pytest
import torch
import torch.distributed as dist
from forked import ends_of_two

from gendd.core import distributed, errors
from gendd.core.distributed import World, hardware, join_world, missing_for_compile, resolve_precision
from gendd.core.errors import PassingFault, UserError

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


@pytest.mark.parametrize(
    "name, capabilities, expected",
    [
        ("Intel(R) Xeon(R)", {"avx512_bf16": True, "amx_bf16": True}, "bf16"),
        ("Intel(R) Xeon(R)", {"avx512_bf16": True, "amx_bf16": False}, "fp32"),
        ("AMD EPYC 9B14", {"avx512_bf16": True}, "bf16"),
        ("AMD EPYC 7B13", {"avx2": True}, "fp32"),
    ],
)
def test_auto_is_bf16_on_cpus_that_multiply_it_faster(name, capabilities, expected, monkeypatch):
    monkeypatch.setattr(distributed, "_cpu_name", lambda: name)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("bf16", CPU) == "bf16"


def test_hardware_counts_threads(monkeypatch):
    monkeypatch.setattr(distributed, "_cpu_name", lambda: "Xeon")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert hardware(CPU) == "Xeon, 1 thread"


def test_process_that_lost_another_ends_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(errors.time, "sleep", lambda seconds: None)

    def sums_alone():
        with join_world() as world:
            if not world.is_first:
                raise UserError("FILE: no such file")
            dist.all_reduce(torch.ones(1))

    first, second = ends_of_two(sums_alone, tmp_path)
    assert (second.code, second.error.splitlines()) == (2, ["error: FILE: no such file"])
    assert first.code == 1 and first.error.startswith("error: lost another process, whose own message says why;")
    assert not first.problem


LOST = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1")


@pytest.mark.parametrize(
    "size, error, expected",
    [
        (2, LOST, PassingFault),
        (2, dist.DistNetworkError("the store is closed"), PassingFault),
        (2, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (1, LOST, RuntimeError),
    ],
    ids=["gloo", "torch", "other error", "alone"],
)
def test_only_lost_processes_are_reported_as_such(size, error, expected, monkeypatch):
    monkeypatch.setattr(distributed, "this_process", lambda: World(0, size, 0, CPU))
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    with pytest.raises(expected) as caught, join_world():
        raise error
    assert (caught.value is error) == (expected is RuntimeError)
