"""Differences between the classes of two data sets."""

import pytest

from gendd.data.batch import class_difference


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ("ab", "ab", ""),
        ([None, "b"], "ab", ""),
        ([None, "b"], ["a", None], ""),
        ("ab", "ba", "their order or number differs"),
        ([None, None], [None, None, None], "their order or number differs"),
        ("ab", "abc", "only in one of them: c"),
        ([None, "b"], "ac", "only in one of them: a, b, c"),
        ("012", "abc", ""),
        ("021", "012", "their order or number differs"),
    ],
)
def test_class_difference_names_differing_classes(ours, theirs, told):
    assert class_difference(ours, theirs) == class_difference(theirs, ours) == told
