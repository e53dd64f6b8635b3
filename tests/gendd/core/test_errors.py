"""Ends of programs: one line, and an exit code that says whether a restart can help."""

import ast
import os
import pickle
import re
from pathlib import Path

import pytest

from gendd.core import errors
from gendd.core.errors import InvalidSetting, MissingFile, PassingFault, UserError, naming, run_program, with_flags

ROOT = Path(__file__).parents[3]
PACKAGES = ("gendd", "gendd_cifar", "gendd_imagenet")


class Ended(Exception):
    """Raised where a process would exit."""


@pytest.fixture
def ends(monkeypatch):
    def end(code: int):
        raise Ended(code)

    monkeypatch.setattr(errors.os, "_exit", end)


@pytest.mark.parametrize(("error", "code"), [(UserError, 2), (PassingFault, 1)])
def test_program_ends_with_line_and_exit_code_of_error(error, code, ends, capsys):
    def main():
        raise error("cannot work,\nnot today")

    with pytest.raises(Ended) as ended:
        run_program(main)
    assert ended.value.args == (code,)
    assert capsys.readouterr().err == "error: cannot work, not today\n"


def test_program_names_unreadable_path(ends, capsys):
    path = Path("x" * 5000)
    with pytest.raises(Ended) as ended:
        run_program(lambda: path.read_bytes())
    assert ended.value.args == (1,)
    assert capsys.readouterr().err.startswith(f"error: {path.absolute()}: File name too long; ")


# Sets the terminal's title, clears the screen, overwrites the line, and reverses the text.
HOSTILE = "cat\x1b]0;owned\x07\x1b[2J\rdog\x9b31m\u202egnp.exe"
ESCAPED = r"cat\x1b]0;owned\x07\x1b[2J\rdog\x9b31m\u202egnp.exe"


def test_control_characters_of_names_are_escaped(ends, capsys):
    run_program(lambda: print(f"classes: {HOSTILE}, Größe, 猫\n\tdone"))
    assert capsys.readouterr().out == f"classes: {ESCAPED}, Größe, 猫\n\tdone\n"

    def main():
        raise InvalidSetting("dataset", HOSTILE, "no such class; remove it")

    with pytest.raises(Ended):
        run_program(main)
    # White space in an error becomes one space.
    line = ESCAPED.replace(r"\r", " ")
    assert capsys.readouterr().err == f"error: --dataset {line}: no such class; remove it\n"


def test_program_prints_file_names_that_are_not_text(capsys):
    run_program(lambda: print(os.fsdecode(b"\xff.png")))
    assert capsys.readouterr().out == "\\udcff.png\n"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("`teacher_weights` x.pth: no such file", "--teacher-weights x.pth: no such file"),
        ("choose another `name` or `seed`", "choose another --name or --seed"),
        (
            "`teacher_classifier=False`: kd learns from the classifier",
            "--no-teacher-classifier: kd learns from the classifier",
        ),
        ("train without labels: `unlabeled=True`", "train without labels: --unlabeled"),
        ("a file called `some name.png`", "a file called `some name.png`"),
    ],
)
def test_with_flags_turns_settings_into_flags(text, typed):
    assert with_flags(text) == typed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "`lr` is missing: lower it"),
        (0.5, "`lr` 0.5: lower it"),
        ((1, 2), "`lr` 1 2: lower it"),
        (False, "`lr=False`: lower it"),
    ],
)
def test_invalid_setting_text_names_field_and_value(value, text):
    error = InvalidSetting("lr", value, "lower it")
    assert (str(error), str(pickle.loads(pickle.dumps(error)))) == (text, text)


def test_naming_adds_field_only_to_unnamed_value():
    with pytest.raises(InvalidSetting) as caught, naming("student"):
        raise MissingFile("a.pth", "no such file")
    assert (caught.value.field, caught.value.value, caught.value.reason) == ("student", "a.pth", "no such file")
    assert str(pickle.loads(pickle.dumps(caught.value))) == "`student` a.pth: no such file"
    with pytest.raises(InvalidSetting, match="^`lr` 3: "), naming("student"):
        raise InvalidSetting("lr", 3, "lower it")


def test_program_prints_settings_as_flags(ends, capsys):
    def main():
        raise InvalidSetting("min_lr", 3, "above `lr` 1; lower it")

    with pytest.raises(Ended):
        run_program(main)
    assert capsys.readouterr().err == "error: --min-lr 3: above --lr 1; lower it\n"


PROGRAMS = (
    "gendd/programs/",
    "__main__.py",
    "gendd_imagenet/make_shards.py",
    "gendd_imagenet/reinforce.py",
    "gendd_imagenet/reinforcing.py",
    "gendd/launch.py",
    "gendd/programs/command_line.py",
)
# Flags of git, TensorBoard, Slurm, and of make_shards in a whole command.
FOREIGN = ("--porcelain", "--show-toplevel", "--untracked-files", "--logdir", "--ntasks-per-node", "--index")


def test_library_errors_name_no_flags():
    """Library errors name fields, which programs print as flags. Docstrings may name flags."""
    found = []
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        if any(name in str(path) for name in PROGRAMS):
            continue
        tree = ast.parse(path.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose]
        flags = [flag for node in texts for flag in re.findall(r"--[a-z][a-z-]*", str(node.value))]
        found += [f"{path.relative_to(ROOT)}: {flag}" for flag in flags if flag not in FOREIGN]
    assert found == []
