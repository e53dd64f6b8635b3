"""One command line a tree, with its programs."""

import subprocess
import sys

import pytest

from gendd.errors import UserError
from gendd.programs.main import PROGRAMS, main
from gendd_cifar.tree import TREE


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_program_it_tells_them_all(arguments, capsys):
    main(TREE, arguments)
    printed = capsys.readouterr().out
    assert printed.startswith("usage: python -m gendd_cifar PROGRAM") and all(name in printed for name in PROGRAMS)


@pytest.mark.parametrize("tree", ["gendd_cifar", "gendd_imagenet"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_tells_its_flags(tree, program):
    command = [sys.executable, "-m", tree, program, "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.startswith(f"usage: python -m {tree} {program} ")


def test_a_program_of_no_such_name_is_refused():
    with pytest.raises(UserError, match="program trian: no such name; nearest: train"):
        main(TREE, ["trian", "--student", "resnet8"])
