"""How programs end: one line, and the exit code that tells whether another start may help."""

import pytest

from gendd import errors
from gendd.agent import FINAL
from gendd.errors import PassingFault, UserError, run_program


class Ended(Exception):
    """In place of a process's end."""


@pytest.mark.parametrize(("error", "code"), [(UserError, 2), (PassingFault, 1)])
def test_an_error_ends_a_program_with_its_line_and_code(error, code, monkeypatch, capsys):
    def end(code: int):
        raise Ended(code)

    def main():
        raise error("cannot work,\nnot today")

    monkeypatch.setattr(errors.os, "_exit", end)
    with pytest.raises(Ended) as ended:
        run_program(main)
    assert ended.value.args == (code,)
    assert capsys.readouterr().err == "error: cannot work, not today\n"
    assert (code in FINAL) == (error is UserError)
