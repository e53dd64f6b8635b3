"""Values that replace those of a trained run, for an evaluation."""

from gendd.config import Config
from gendd.core.errors import InvalidSetting
from gendd.core.ranges import check_values
from gendd.methods.options import SamplingOptions

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
    for name in MEANINGS if trained else ():
        value, own = getattr(changed.method, name, None), getattr(trained and trained.method, name, None)
        if value != own:
            raise InvalidSetting(name, value, f"the head was trained with {own}; leave it out")
    if isinstance(changed.method, SamplingOptions):
        changed.method.check_sampling()
