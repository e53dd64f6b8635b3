"""A family of images: what a family adds to the shared programs."""

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from torch import Tensor

from gendd.config import Config, Data, Optimizer, Run
from gendd.core.errors import InvalidValue
from gendd.core.ranges import field_names
from gendd.data.batch import DataSummary, EvaluationData, TrainingData
from gendd.diffusion.head import PAPER
from gendd.methods.base import Method
from gendd.methods.options import SamplingOptions
from gendd.networks.create import Zoo

PAPERS, AS_PAPER = "the paper's", "as the paper's"
# What the tensors of a checkpoint file say of its head.
NETWORK = ("depth", "trunk_depth", "prediction", "noise_path")


@dataclass(frozen=True)
class Family:
    """
    Args:
        name: of the package, such as "gendd_cifar".
        data, optimizer, run: parts of the default configuration.
        summarize: what is known of a configuration's data without reading it.
        check_data: prints what a configuration's data holds; raises UserError if something is missing or broken.
        open_training: (config, number of classes, plan, world, network, labeled_only) -> the images to train on,
            normalized for the network; those without labels come with label -1, or are left out (labeled_only).
        open_evaluation: (config, plan, world, network, of_training) -> the images to evaluate on, or those to train on
            as they are (of_training). In a dry run both may hold no images: their sizes are all that is asked for.
        class_sizes: number of training images (C,) of each class; None if the training set is not there or has no
            labels.
        paper: what --paper sets: values of the flags that the paper's protocol of draws and sampling consists of.
        typed: module that the user named after python -m; the family's own if empty.
    """

    name: str
    zoo: Zoo
    data: Data
    summarize: Callable[..., DataSummary]
    check_data: Callable[..., None]
    open_training: Callable[..., TrainingData]
    open_evaluation: Callable[..., EvaluationData]
    class_sizes: Callable[..., Tensor | None]
    paper: dict[str, object]
    optimizer: Optimizer = field(default_factory=Optimizer)
    run: Run = field(default_factory=Run)
    typed: str = ""

    @property
    def module(self) -> str:
        """For usage lines and remedies."""
        return self.typed or self.name

    def config(self, method: Method, **values) -> Config:
        """Return the default configuration of a method, with other values of fields."""
        return Config(data=self.data, method=method, optimizer=self.optimizer, run=self.run).changed(**values)

    def in_protocol(self, method: Method, names: Collection[str] | None = None) -> Method:
        """Return a method's options with the paper's protocol of draws and sampling, or these of them."""
        known = [name for name in self._known(method) if names is None or name in names]
        return replace(method, **{name: self.paper[name] for name in known})

    def protocol(self, options: object, of_run: bool = True) -> str:
        """Return in what network, training and sampling differ from the paper's.

        Args:
            of_run: whether the options of training are known; a checkpoint file does not hold them.
        """
        known, sampling = self._known(options), field_names(SamplingOptions)
        parts = {
            "network": [name for name in known if name in NETWORK],
            "training": [name for name in known if name not in (*NETWORK, *sampling)],
            "sampling": [name for name in known if name in sampling],
        }
        words = {part: self._differing(options, names) for part, names in parts.items()}
        if not of_run:
            words["training"] = "not known of a checkpoint file"
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


FAMILIES = ("gendd_cifar", "gendd_imagenet")


def family_named(name: object) -> Family:
    """Return the family of this name.

    Raises:
        InvalidValue: there is none.
    """
    if name not in FAMILIES:
        raise InvalidValue(name, f"no such family; known: {', '.join(FAMILIES)}")
    return importlib.import_module(f"{name}.family").FAMILY


def family_of(config: Config) -> Family:
    """Return the family whose images a configuration is for.

    Raises:
        ValueError: its data are of none.
    """
    for family in map(family_named, FAMILIES):
        if isinstance(config.data, type(family.data)):
            return family
    raise ValueError(f"the configuration's data are of no family of images: {type(config.data).__name__}")


def paper_protocol(repeats: int, steps: int) -> dict[str, object]:
    """`Family.paper` (arXiv 2507.14503, its release): K draws per token in training, steps of its sampler."""
    sampling = {"sampler": "ancestral", "sampling_steps": steps, "num_samples": 5, "guidance": 2.0}
    return {**PAPER, "repeats": repeats, **sampling}
