"""Advice of errors: a flag to leave out must be in the command."""

import re

import pytest
from lines import refuses

from gendd.programs.evaluate import evaluate_checkpoint
from gendd.programs.train import train
from gendd_cifar.family import FAMILY as CIFAR
from gendd_imagenet.family import FAMILY as IMAGENET

LEAVE = re.compile(r"leave \S+( \S+)? out|keep one|set it to 0")
NETWORKS = ["--student", "resnet18", "--dataset", "{photos}", "--image-size", "32", "--workers", "0", "--dry-run"]
TEACHER = ["--teacher", "resnet18", "--teacher-weights", "random"]
SMALL = ["--student", "resnet8", "--dataset", "digits", "--dry-run"]
SMALL_TEACHER = ["--teacher", "resnet8", "--teacher-weights", "random"]
SHARDS = ["--dataset", "{0..3}.tar", "--steps-per-epoch", "2", "--eval-dataset", "{photos}"]
PHOTO_COMMANDS = [
    ["kl", *TEACHER, "--images", "{photos}"],
    ["gendd", *TEACHER, "--images", "{photos}", "--dataset", "other"],
    ["gendd", *TEACHER, "--eval-list", "a.txt", "--dataset", "hfds/a/b"],
    ["gendd", *TEACHER, "--train-list", "a.txt", "--dataset", "hfds/a/b"],
    ["gendd", *TEACHER, "--teacher-cache", "c", *SHARDS],
    ["gendd", *TEACHER, "--holdout", "0.1", *SHARDS],
    ["gendd", *TEACHER, "--teacher-cache", "c", "--mixup", "0.5"],
    ["gendd", *TEACHER, "--label-fraction", "0.5", "--cutmix", "0.5"],
    ["kd", *TEACHER, "--no-teacher-classifier"],
    ["gendd", "--teacher", "transformers:nowhere", "--teacher-weights", "timm"],
]  # fmt: skip
SMALL_COMMANDS = [
    ["classification", "--min-lr", "1e-4", "--schedule", "step"],
    ["classification", "--teacher-mean", "0", "0", "0"],
    ["classification", "--teacher", "resnet8"],
    ["gendd", *SMALL_TEACHER, "--pretrain-name", "a/b"],
    ["classification", "--teacher-cache", "c"],
    ["gendd", *SMALL_TEACHER, "--unlabeled", "--contraction", "0", "--label-fraction", "0.5"],
    ["gendd", *SMALL_TEACHER, "--unlabeled", "--contraction", "0", "--unlabeled-dir", "d", "--holdout", "0.1"],
    ["gendd", *SMALL_TEACHER, "--unlabeled", "--contraction", "0", "--unlabeled-dir", "d", "--imbalance", "0.1"],
    ["kd", *SMALL_TEACHER, "--no-teacher-classifier"],
    ["kd", *SMALL_TEACHER, "--teacher-feature", "class-token"],
    ["gendd", *SMALL_TEACHER, "--unlabeled", "--contraction", "0.5"],
]
COMMANDS = [(IMAGENET, NETWORKS, flags) for flags in PHOTO_COMMANDS]
COMMANDS += [(CIFAR, SMALL, flags) for flags in SMALL_COMMANDS]


@pytest.mark.parametrize(
    ("family", "common", "command"), COMMANDS, ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else ""
)
def test_errors_advise_only_against_given_flags(photos, tmp_path, family, common, command):
    method, *flags = (word.replace("{photos}", str(photos)) for word in [command[0], *common, *command[1:]])
    words = [method, *flags, "--runs", str(tmp_path)]
    with refuses() as refused:
        train(family, words)
    assert_obeyable(str(refused.value), words)


def test_evaluate_advises_only_against_given_flags(photos, tmp_path):
    words = ["classification", "--student", "toy:network", "--dataset", str(photos), "--image-size", "32", "--workers"]
    words += ["0", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "30", "--runs", str(tmp_path)]
    train(IMAGENET, words)
    run = str(next(tmp_path.rglob("result.json")).parent)
    for flags in (["--sampling-steps", "3"], ["--paper"], ["--guidance", "2"], ["--eval-weights", "ema"]):
        with refuses() as refused:
            evaluate_checkpoint(IMAGENET, [run, *flags])
        assert_obeyable(str(refused.value), [run, *flags])


def assert_obeyable(message: str, words: list[str]) -> None:
    """Assert that a message with the advice to leave a flag out begins with a flag of the command."""
    assert len(message.splitlines()) == 1
    if LEAVE.search(message):
        (first,) = re.findall(r"^(--[a-z0-9-]+|METHOD)", message)
        assert first in (*words, "METHOD"), message
        for flag in re.findall(r"leave (--[a-z-]+) out", message):
            assert flag in words, message
