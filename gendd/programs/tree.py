"""What one tree adds to the shared programs."""

from collections.abc import Callable
from dataclasses import dataclass

from gendd.config import EvaluateConfig, TrainConfig
from gendd.data import Data, DataSummary
from gendd.networks import Names


@dataclass(frozen=True)
class Tree:
    """
    Args:
        name: of the package, such as "gendd_cifar".
        summarize: what is known of a configuration's data without reading it.
        check_data: prints what a configuration's data holds; raises UserError if something is missing or broken.
        open_data: (config, plan, world, network) -> the data set, normalised for the network.
    """

    name: str
    names: Names
    train_config: type[TrainConfig]
    evaluate_config: type[EvaluateConfig]
    summarize: Callable[[TrainConfig], DataSummary]
    check_data: Callable[[TrainConfig], None]
    open_data: Callable[..., Data]
