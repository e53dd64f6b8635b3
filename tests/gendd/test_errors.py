"""How programs end: one line, and the exit code that tells whether another start may help."""

import os
from pathlib import Path

import pytest

from gendd import errors
from gendd.errors import PassingFault, UserError, run_program


class Ended(Exception):
    """In place of a process's end."""


@pytest.fixture
def ends(monkeypatch):
    def end(code: int):
        raise Ended(code)

    monkeypatch.setattr(errors.os, "_exit", end)


@pytest.mark.parametrize(("error", "code"), [(UserError, 2), (PassingFault, 1)])
def test_an_error_ends_a_program_with_its_line_and_code(error, code, ends, capsys):
    def main():
        raise error("cannot work,\nnot today")

    with pytest.raises(Ended) as ended:
        run_program(main)
    assert ended.value.args == (code,)
    assert capsys.readouterr().err == "error: cannot work, not today\n"


def test_program_names_a_path_it_may_not_read(ends, capsys):
    path = Path("x" * 5000)
    with pytest.raises(Ended) as ended:
        run_program(lambda: path.read_bytes())
    assert ended.value.args == (1,)
    assert capsys.readouterr().err.startswith(f"error: {path.absolute()}: File name too long; ")


def test_names_of_files_that_are_no_text_are_printed(capsys):
    run_program(lambda: print(os.fsdecode(b"\xff.png")))
    assert capsys.readouterr().out == "\\udcff.png\n"
