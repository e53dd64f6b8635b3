"""The published figures that reports quote, compared with the tables of the documentation."""

import re
from pathlib import Path

from gendd.reporting.published import POST_HOC, PUBLISHED

DOCS = Path(__file__).parents[3] / "docs"
SHORT = {"beitv2b": "beitv2_base", "beitv2l": "beitv2_large"}


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table whose heading has this text."""
    (table,) = (block for block in (DOCS / page).read_text().split("\n\n") if heading in block)
    lines = table[table.index("|") :].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def figures_of(*key: str | int) -> set[float]:
    """Return the figures of data, teacher, student, method, output and number of epochs."""
    return {
        quoted.top1
        for quoted in PUBLISHED
        if (quoted.data, quoted.teacher, quoted.student, quoted.method, quoted.output, quoted.epochs) == key
    }


def test_figures_of_the_authors_checkpoints_equal_the_docs():
    rows = rows_of("publish.md", "published top-1: head, probe")
    assert len(rows) == 4
    for _, epochs, student, teacher, scores in rows:
        for output, score in zip(("head", POST_HOC), scores.split(", "), strict=True):
            assert float(score) in figures_of("imagenet", teacher, student, "gendd", output, int(epochs))


def test_figures_of_the_imagenet_scripts_equal_the_docs():
    compared = 0
    for name, _, epochs, scores in rows_of("imagenet.md", "paper's top-1 %"):
        found = re.fullmatch(r"(imagenet|cc3m)_([^_]+)_([^_]+)_(?:a\d_)?(gendd|kl)", name)
        if found:
            data, teacher, student, method = found.groups()
            output = "head" if method == "gendd" else "classifier"
            length = int(re.findall(r"\d+", epochs.partition(" of ")[0])[-1])
            wanted = {float(score) for score in re.findall(r"\d\d\.\d\d", scores)}
            assert figures_of(data, SHORT.get(teacher, teacher), student, method, output, length) == wanted
            compared += 1
    assert compared == 9


def test_figures_of_cifar_100_equal_the_docs():
    rows = rows_of("cifar.md", "| teacher | student alone |")
    assert len(rows) == 6
    for pair, *scores in rows:
        teacher, student = re.fullmatch(r"(.+?)_((?:resnet|wrn|vgg).+)", pair).groups()
        for method, score in zip(("teacher", "classification", "kd", "dkd", "ikl"), scores, strict=True):
            assert figures_of("cifar100", teacher, student, method, "classifier", 240) == {float(score)}
