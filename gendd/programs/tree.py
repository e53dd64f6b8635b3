"""What one tree adds to the shared programs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from torch import Tensor

from gendd.command_line import parse
from gendd.config import EvaluateConfig, TrainConfig
from gendd.data import DataSummary, EvaluationData, TrainingData
from gendd.diffusion.head import PAPER
from gendd.methods.options import SamplingOptions
from gendd.networks import Names
from gendd.ranges import field_names

Options = TypeVar("Options")
PAPERS, AS_PAPER = "the paper's", "as the paper's"
# What the tensors of a checkpoint file say of its head.
NETWORK = ("depth", "trunk_depth", "prediction", "noise_path")


@dataclass(frozen=True)
class Tree:
    """
    Args:
        name: of the package, such as "gendd_cifar".
        summarize: what is known of a configuration's data without reading it.
        check_data: prints what a configuration's data holds; raises UserError if something is missing or broken.
        open_training: (config, number of classes, plan, world, network, labeled_only) -> the images to train on,
            normalized for the network; those without labels come with label -1, or are left out (labeled_only).
        open_evaluation: (config, plan, world, network, of_training) -> the images to evaluate on, or those to train on
            as they are (of_training). In a dry run both may hold no images: their sizes are all that is asked for.
        class_sizes: number of training images (C,) of each class; None if the training set is not there or has no
            labels.
        paper: what --paper sets: values of the flags that the paper's protocol of draws and sampling consists of.
        typed: module that the user named after python -m; the tree's own if empty.
    """

    name: str
    names: Names
    train_config: type[TrainConfig]
    evaluate_config: type[EvaluateConfig]
    summarize: Callable[..., DataSummary]
    check_data: Callable[..., None]
    open_training: Callable[..., TrainingData]
    open_evaluation: Callable[..., EvaluationData]
    class_sizes: Callable[..., Tensor | None]
    paper: dict[str, object]
    typed: str = ""

    @property
    def module(self) -> str:
        """For usage lines and remedies."""
        return self.typed or self.name

    def parse_train(self, arguments: list[str], default: TrainConfig) -> TrainConfig:
        """Command line to the configuration of a run; --paper has set its flags, unless it had in `default` already."""
        config = parse(self.train_config, f"{self.module} train {default.method.name}", arguments, default)
        if not getattr(default.method, "paper", False):
            config = replace(config, method=self._in_protocol(config.method))
        return config.resolved()

    def parse_evaluate(self, arguments: list[str]) -> EvaluateConfig:
        """Command line to the configuration of an evaluation; --paper has set its flags."""
        return self._in_protocol(parse(self.evaluate_config, f"{self.module} evaluate", arguments))

    def _in_protocol(self, options: Options) -> Options:
        """Options with the paper's protocol, where they ask for it."""
        asked = getattr(options, "paper", False)
        values = {name: self.paper[name] for name in self._known(options)}
        return replace(cast(Any, options), **values) if asked else options

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


def paper_protocol(repeats: int, steps: int) -> dict[str, object]:
    """`Tree.paper` (arXiv 2507.14503, its release): K draws per token in training, steps of its sampler."""
    sampling = {"sampler": "ancestral", "steps": steps, "num_samples": 5, "guidance": 2.0}
    return {**PAPER, "repeats": repeats, **sampling}
