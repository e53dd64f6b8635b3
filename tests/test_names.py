"""Test names state unit, condition and result in at most 60 characters."""

import re
from pathlib import Path


def test_names_of_tests_have_at_most_60_characters():
    names = [
        name
        for file in Path(__file__).parent.rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text(), flags=re.MULTILINE)
    ]
    assert len(names) > 500
    assert [name for name in names if len(name) > 60] == []
