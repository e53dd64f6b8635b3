"""The settings of several teachers: their names, labels and single configurations."""

import pytest
from lines import refuses
from programs import cifar_config

from gendd.network_settings import Networks, TeacherNetwork


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a", "timm/vit.x", "hub:owner/repo:dino"], ("vit.x", "repo.dino")),
        (["a/same", "b/same", "c"], ("same-2", "c")),
        (["same", "c", "same"], ("c", "same-2")),
        (["one"], ()),
    ],
)
def test_labels_are_short_and_differ(names, labels):
    first, *further = names
    assert Networks(teacher=first, more_teachers=tuple(map(TeacherNetwork, further))).more_labels == labels


def test_further_teacher_has_a_configuration_without_labels():
    words = ["--teacher", "a", "--contraction", "0.5", "--teacher-cache", "c", "--label-fraction", "0.5"]
    config = cifar_config(*words, "--teacher", "b", "--teacher-image-size", "64")
    (own,) = config.of_more_teachers
    assert (own.networks.teacher, own.networks.teacher_image_size, own.networks.more_teachers) == ("b", 64, ())
    assert not own.networks.teacher_classifier and not own.method.needs_classifier(own)
    assert (own.data.teacher_cache, config.data.teacher_cache) == ("c/teacher2", "c")


def test_further_teachers_keep_their_order_and_caches():
    words = [word for name in "abc" for word in ("--teacher", name)]
    found = cifar_config(*words, "--teacher-cache", "cache").of_more_teachers
    assert [(own.networks.teacher, own.data.teacher_cache) for own in found] == [
        ("b", "cache/teacher2"),
        ("c", "cache/teacher3"),
    ]


def test_same_teacher_twice_is_refused():
    first, second = TeacherNetwork("x", "x.pth", 64), TeacherNetwork("x", "y.pth", 64)
    Networks(student="s", teacher="x", teacher_weights="x.pth", more_teachers=(first, second)).check()
    for more in ((second, second), (TeacherNetwork("x", "x.pth"), second)):
        with refuses("--teacher x: given twice with the same weights and settings, .*; leave one out"):
            Networks(student="s", teacher="x", teacher_weights="x.pth", more_teachers=more).check()


def test_teacher_without_a_name_is_refused():
    with refuses("--teacher is missing: each of several teachers needs a name"):
        Networks(student="x", teacher="a", more_teachers=(TeacherNetwork(),)).check()
