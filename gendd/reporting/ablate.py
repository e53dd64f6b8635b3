"""The effect of one training setting on GenDD: python -m gendd.reporting.ablate SETTING RUN... --output FOLDER.

The runs differ in that setting and in their seeds; sh/ablate.sh trains them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from gendd.core.errors import UserError
from gendd.reporting.ablation import SD, TOP1, Ablation
from gendd.reporting.finished import FinishedRun, finished_runs
from gendd.reporting.groups import Group, grouped
from gendd.reporting.rows import Row, rows_of
from gendd.runs.folder import CHECKSUMS

# Settings that may differ in addition to the varied one. Each of their values gets a separate curve.
TOGETHER = {"repeats": ("draw_scheme",)}
COST = "MFLOPs per image of the head's loss"
NOTE = """\
Top-1 of the last epoch: mean over seeds, standard deviation, number of seeds. FLOPs (a multiply-add counts two) cover
only the forward pass of the head's loss; its gradients need about twice as many in addition. Images/s and time are
medians over seeds of training without evaluation, and depend on the other load of the machine."""


@dataclass(frozen=True)
class AblateConfig:
    """Plot the effect of a training setting on GenDD's accuracy and cost."""

    setting: tyro.conf.Positional[Literal["contraction", "token-dim", "repeats", "feature-mixup"]]
    """Setting in which the runs differ. With repeats (K), runs may also differ in the draw scheme."""
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders."""
    output: str = "ablation"
    """Folder for the table, the CSV file and the picture."""


def draw(config: AblateConfig) -> None:
    """Write the ablation of the runs.

    Raises:
        UserError: no run is complete, or the runs differ in more than the setting and the seed.
    """
    runs, incomplete = finished_runs(config.runs)
    if incomplete:
        print(f"not complete, left out: {', '.join(incomplete)}")
    ablation_of(config.setting, runs).write(Path(config.output), config.setting)


def ablation_of(setting: str, runs: Sequence[FinishedRun]) -> Ablation:
    """Return the ablation of a setting, a flag without dashes, from finished runs.

    Raises:
        UserError: the runs differ in more than the setting and the seed.
    """
    varied = (setting.replace("-", "_"), *TOGETHER.get(setting, ()))
    groups = grouped(runs)
    _check_alike(groups, varied)
    rows = [
        _row(setting, group, row)
        for group in sorted(groups, key=lambda group: [group.first.config[name] for name in varied])
        for row in rows_of([group])
    ]
    first = groups[0].first
    title = f"{setting}: {first.teacher} > {first.student}, {first.data}, {first.epochs} epochs"
    hardware = f"{first.result['hardware']}, {first.result['precision']}"
    note = f"{NOTE} {first.evaluated_on}; {hardware}, PyTorch {first.environment['versions']['torch']}."
    return Ablation(title, note, "output", setting, COST, rows)


def _check_alike(groups: Sequence[Group], varied: Sequence[str]) -> None:
    # The varied setting does not affect stage 1.
    free = {"name", *varied, *(f"earlier {name}" for name in varied)}
    first = groups[0].first
    for other in (group.first for group in groups[1:]):
        # An unknown checksum is not a difference.
        unknown = {*CHECKSUMS} - (first.settings.keys() & other.settings.keys())
        names = {*first.settings, *other.settings} - free - unknown
        wrong = [name for name in sorted(names) if first.settings.get(name) != other.settings.get(name)]
        if wrong:
            words = "; ".join(f"{name} {first.settings.get(name)} and {other.settings.get(name)}" for name in wrong)
            raise UserError(
                f"RUN {first.folder.path} and {other.folder.path}: the runs differ in more than the setting and the "
                f"seed ({words}); name other runs"
            )


def _row(setting: str, group: Group, results: Row) -> dict:
    config = group.first.config
    schemes = [config[name] for name in TOGETHER.get(setting, ())]
    # Results of older runs do not contain "head".
    head = group.first.result.get("head")
    return {
        "output": ", ".join([results["output"], *schemes]),
        setting: config[setting.replace("-", "_")],
        TOP1: results["top1"],
        SD: results["top1_sd"],
        "seeds": results["n"],
        COST: head and head["loss_flops"] / 1e6,
        "head's parameters, M": head and head["parameters"] / 1e6,
        "training images/s": results["train_images_per_second"],
        "training s": results["train_seconds"],
    }
