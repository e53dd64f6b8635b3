"""Names of scores, and their conversion to percent."""

# Recorded name and printed name of each score, all in percent. The last three are top-1 of groups of classes.
PERCENT = {
    "top1": "top-1",
    "cosine": "cosine",
    "top5": "top-5",
    "ece": "ECE",
    "r2": "R2",
    "neighbors": "neighbors",
    "many": "many",
    "medium": "medium",
    "few": "few",
}
# Number of nearest images to compare, and largest number of images to use.
NEIGHBORS, SCORED = 10, 10_000
# Above this chance level, in percent, the neighbors score is meaningless.
MOST_CHANCE = 50.0
# Record of the agreement of generated features and targets; its cosine is in [-1, 1], not in percent.
AGREEMENT = "features"


def in_percent(group: str, name: str, value: float) -> float | None:
    """Return a recorded score in percent, or None if the value is not a score.

    Args:
        group: the record that holds it, such as "head".
    """
    if group == AGREEMENT:
        return 100 * value if name == "cosine" else None
    return value if name in PERCENT else None


def neighbors_by_chance(images: int) -> float:
    """Return the percent of nearest neighbors that two unrelated orders of the images share."""
    return 100 * NEIGHBORS / max(min(images, SCORED) - 1, 1)


def score_title(name: str, images: int) -> str:
    """Return a score's printed name; the name of the neighbors score includes the level of chance."""
    return PERCENT.get(name, name) + (f" (chance {neighbors_by_chance(images):.1f} %)" if name == "neighbors" else "")
