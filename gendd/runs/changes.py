"""Checks of the settings and images that an evaluation replaces in a trained run."""

from pathlib import Path

from gendd.config import Config
from gendd.core.errors import InvalidSetting
from gendd.core.ranges import check_values
from gendd.data.batch import HELD_OUT, EvaluationData
from gendd.methods.options import SamplingOptions
from gendd.runs.folder import RunFolder

# Options that decide what the numbers of a trained head mean. Its tensors also fit other values of them.
MEANINGS = ("prediction", "noise_path")


def check_changes(trained: Config | None, changed: Config) -> None:
    """Check the configuration for an evaluation.

    Args:
        trained: the run's configuration; None if it is unknown.

    Raises:
        InvalidSetting: a value is not valid, or the head was not trained for it.
    """
    for part in vars(changed).values():
        check_values(part)
    if trained:
        for name in MEANINGS:
            value, own = (getattr(config.method, name, None) for config in (changed, trained))
            if value != own:
                raise InvalidSetting(name, value, f"the head was trained with {own}; leave it out")
    if isinstance(changed.method, SamplingOptions):
        changed.method.check_sampling()


def check_held_out(run: Path, trained: Config | None, changed: Config, data: EvaluationData) -> None:
    """Check that held-out images are those of the run. Of other files, the run may have trained on the same share.

    Args:
        run: run folder. Of a checkpoint file or a published student the images are not known, and nothing is checked.
        trained: the run's configuration.

    Raises:
        InvalidSetting: the files have other names or sizes than the run's.
    """
    if data.split != HELD_OUT or not trained or not (run / "data.json").is_file():
        return
    recorded, found = RunFolder(run).data()["evaluation files"], data.checksum()
    if trained.data.holdout == changed.data.holdout and recorded and found and found != recorded:
        field = "images" if getattr(changed.data, "images", None) else "dataset"
        reason = "its images are not those of the training, so the run may have trained on the part held out of them"
        remedy = "name an unchanged copy" + ("; or evaluate all images with `dataset`" if field == "images" else "")
        raise InvalidSetting(field, data.dataset, f"{reason}; {remedy}")
