"""What one tree adds to the shared programs."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gendd.command_line import Config, parse
from gendd.config import EvaluateConfig, SamplingConfig, TrainConfig
from gendd.data import Data, DataSummary
from gendd.networks import Names


@dataclass(frozen=True)
class Tree:
    """
    Args:
        name: of the package, such as "gendd_cifar".
        summarize: what is known of a configuration's data without reading it.
        check_data: prints what a configuration's data holds; raises UserError if something is missing or broken.
        open_data: (config, plan, world, network, labeled_only) -> the data set, normalized for the network; of images
            without labels, which come with label -1, or are left out (labeled_only). In a dry run it may hold no
            images: its sizes are all that is asked for.
        paper: what --paper sets: values of the flags that the paper's protocol of draws and sampling consists of.
    """

    name: str
    names: Names
    train_config: type[TrainConfig]
    evaluate_config: type[EvaluateConfig]
    summarize: Callable[[TrainConfig], DataSummary]
    check_data: Callable[[TrainConfig], None]
    open_data: Callable[..., Data]
    paper: dict[str, object]

    def parse(
        self, config_class: type[Config], program: str, arguments: list[str] | None, default: Config | None = None
    ) -> Config:
        """Command line to configuration; --paper has set its flags, unless it had in `default` already."""
        config = parse(config_class, f"{self.name} {program}", arguments, default)
        if not config.paper or (default and default.paper):
            return config
        return replace(config, **{name: self.paper[name] for name in self._known(config)})

    def protocol(self, config: SamplingConfig) -> str:
        """Whether the paper's draws and sampling are in force, or what is in their place."""
        differing = [
            f"{name.replace('_', ' ')} {getattr(config, name)} (the paper: {self.paper[name]})"
            for name in self._known(config)
            if getattr(config, name) != self.paper[name]
        ]
        return f"not the paper's, which --paper sets: {', '.join(differing)}" if differing else "the paper's"

    def _known(self, config: SamplingConfig | EvaluateConfig) -> list[str]:
        return [name for name in self.paper if hasattr(config, name)]


def paper_protocol(repeats: int, steps: int) -> dict[str, object]:
    """`Tree.paper` (arXiv 2507.14503, its release): K draws a token in training, steps of its sampler."""
    network = {"depth": 3, "trunk_depth": 0, "prediction": "noise", "noise_path": "cosine"}
    loss = {"timestep_density": "uniform", "loss_weight": "own", "timesteps": "independent", "condition_dropout": 0.2}
    sampling = {"sampler": "ancestral", "steps": steps, "num_samples": 5, "guidance": 2.0}
    return {**network, **loss, "repeats": repeats, **sampling}
