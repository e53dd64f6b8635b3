"""A family of images (CIFAR or photographs): the parts that it adds to the shared programs."""

import importlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, cast

from torch import Tensor, nn

from gendd.config import Config, Data, Optimizer, Run
from gendd.core.command import typed_command
from gendd.core.distributed import World
from gendd.core.errors import InvalidValue
from gendd.core.ranges import field_names
from gendd.core.seeding import BatchPlan
from gendd.data.batch import DataSummary, EvaluationData, TrainingData
from gendd.diffusion.head import PAPER
from gendd.methods.base import Method
from gendd.methods.options import SamplingOptions

if TYPE_CHECKING:
    from gendd.networks.create import Zoo

PAPERS, AS_PAPER = "the paper's", "as the paper's"
# Options of the head that follow from the tensors of a checkpoint file.
NETWORK = ("depth", "trunk_depth", "prediction", "noise_path")


class Access(Protocol):
    """The functions of a family that the shared programs call: its module `access`."""

    def summarize(self, config: Config) -> DataSummary:
        """Return the facts about a configuration's data that need no reading of images."""

    def check_data(self, config: Config) -> None:
        """Read all images of a configuration and print their numbers.

        Raises:
            UserError: an image or a folder is missing or broken.
        """

    def open_training(
        self,
        config: Config,
        num_classes: int,
        plan: BatchPlan,
        world: World,
        network: nn.Module,
        labeled_only: bool = False,
    ) -> TrainingData:
        """Return the training images, normalized for the network.

        Args:
            labeled_only: leave out images without labels. Otherwise their label is -1.
        """

    def open_evaluation(
        self, config: Config, plan: BatchPlan, world: World, network: nn.Module, of_training: bool = False
    ) -> EvaluationData:
        """Return the evaluation images, normalized for the network.

        Args:
            of_training: return the training images instead, without augmentation.
        """

    def class_sizes(self, config: Config) -> Tensor | None:
        """Return the number of training images per class (C,); None if training set or labels are missing."""


@dataclass(frozen=True)
class Family:
    """A family of images, with its networks, data and defaults.

    Args:
        name: name of the package, such as "gendd_cifar".
        data, optimizer, run: parts of the default configuration.
        paper: the flags that --paper sets, with their values: the paper's protocol of draws and sampling.
        typed: module of the command that the user typed; the family's if empty.
    """

    name: str
    data: Data
    paper: dict[str, object]
    optimizer: Optimizer = field(default_factory=Optimizer)
    run: Run = field(default_factory=Run)
    typed: str = ""

    # Parsing a command line needs neither networks nor images, so that --help does not wait for their imports.
    @property
    def zoo(self) -> "Zoo":
        return importlib.import_module(f"{self.name}.models").ZOO

    @property
    def access(self) -> Access:
        return cast(Access, importlib.import_module(f"{self.name}.access"))

    @property
    def module(self) -> str:
        """The module of the command that the user typed."""
        return self.typed or self.name

    @property
    def command(self) -> str:
        """The command to name in usage lines and error messages, such as "python -m gendd_cifar"."""
        return typed_command(self.module)

    def config(self, method: Method, **values) -> Config:
        """Return the default configuration of a method, with these values of fields."""
        return Config(data=self.data, method=method, optimizer=self.optimizer, run=self.run).changed(**values)

    def in_protocol(self, method: Method, names: Collection[str] | None = None) -> Method:
        """Return a method's options with the paper's protocol of draws and sampling, or only the named ones of it."""
        known = [name for name in self._known(method) if names is None or name in names]
        return replace(method, **{name: self.paper[name] for name in known})

    def protocol(self, options: object, of_run: bool = True) -> str:
        """Describe how network, training and sampling differ from the paper's.

        Args:
            of_run: the options of training are known; a published checkpoint file does not hold them.
        """
        known, sampling = self._known(options), field_names(SamplingOptions)
        parts = {
            "network": [name for name in known if name in NETWORK],
            "training": [name for name in known if name not in (*NETWORK, *sampling)],
            "sampling": [name for name in known if name in sampling],
        }
        words = {part: self._differing(options, names) for part, names in parts.items()}
        if not of_run:
            words["training"] = "unknown for a checkpoint file"
        if set(words.values()) == {AS_PAPER}:
            return PAPERS
        return "; ".join(f"{part} {text}" for part, text in words.items())

    def _differing(self, options: object, names: list[str]) -> str:
        differing = [
            f"{name.replace('_', ' ')} {getattr(options, name)} (the paper: {self.paper[name]})"
            for name in names
            if getattr(options, name) != self.paper[name]
        ]
        return f"with {', '.join(differing)}" if differing else AS_PAPER

    def _known(self, config: object) -> list[str]:
        return [name for name in self.paper if hasattr(config, name)]


FAMILIES = ("gendd_cifar", "gendd_imagenet", "gendd.own")


def family_named(name: object) -> Family:
    """Return the family of this name.

    Raises:
        InvalidValue: the name is unknown.
    """
    if name not in FAMILIES:
        raise InvalidValue(name, f"no such family; known: {', '.join(FAMILIES)}")
    return importlib.import_module(f"{name}.family").FAMILY


def family_of(config: Config) -> Family:
    """Return the family of a configuration's data.

    Raises:
        ValueError: the data do not belong to any family.
    """
    for family in map(family_named, FAMILIES):
        if isinstance(config.data, type(family.data)):
            return family
    raise ValueError(f"the configuration's data do not belong to any family of images: {type(config.data).__name__}")


def paper_protocol(repeats: int, steps: int) -> dict[str, object]:
    """Return the value of `Family.paper` from the paper's release (arXiv 2507.14503).

    Args:
        repeats: draws per token in training (K).
        steps: steps of the sampler.
    """
    sampling = {"sampler": "ancestral", "sampling_steps": steps, "num_samples": 5, "guidance": 2.0}
    return {**PAPER, "repeats": repeats, "probe_gradient": 0.0, **sampling}
