"""Check of the settings that an evaluation replaces in a trained run."""

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
    if trained:
        for name in MEANINGS:
            value, own = (getattr(config.method, name, None) for config in (changed, trained))
            if value != own:
                raise InvalidSetting(name, value, f"the head was trained with {own}; leave it out")
    if isinstance(changed.method, SamplingOptions):
        changed.method.check_sampling()
