"""The train program of both families: its command line, and the stages of a run.

The modules that train are imported when a run starts, so that --help does not wait for them.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gendd.config import Config
from gendd.core.distributed import World, join_world
from gendd.core.errors import InvalidSetting
from gendd.core.seeding import BatchPlan
from gendd.data.batch import AsTheyAre
from gendd.family import Family, family_of
from gendd.methods import METHODS
from gendd.programs.configuration import configuration
from gendd.runs.folder import RunFolder, run_path

if TYPE_CHECKING:
    from gendd.runs.experiment import Experiment


def train(family: Family, arguments: list[str]) -> None:
    """Run the train program of a family; `_usage` has its forms.

    Raises:
        UserError: the command, the data or the weights cannot work.
    """
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(_usage(family))
        return
    config = configuration(family, arguments)
    with join_world() as world:
        if not config.run.check_data:
            _execute(family, config, world)
        elif world.is_first:
            config.check_ranges()
            config.data.check_training_images()
            family.access.check_data(config)
            _compare_with_run(family, config, replace(world, size=1))


def _compare_with_run(family: Family, config: Config, world: World) -> None:
    """Compare the data with those at the start of the run, if it has a checkpoint.

    Raises:
        UserError: the classes or the training images are others.
    """
    run = RunFolder(Path(config.run.resume or run_path(config)))
    if not run.last.exists():
        return
    classes, plan = family.access.summarize(config).num_classes or 0, BatchPlan(0, config.optimizer.batch_size)
    training = family.access.open_training(config, classes, plan, world, AsTheyAre(), not config.method.unlabeled)
    changed = run.check_data(training, family.access.open_evaluation(config, plan, world, AsTheyAre()))
    print(f"compared with the start of {run.path}: {changed or 'the same images'}")


def train_config(config: Config) -> "Experiment":
    """Train a configuration, or resume its run, in this process; return the trained run.

    Raises:
        UserError: the configuration, the data or the weights cannot work.
    """
    from gendd.runs.experiment import load

    config = config.resolved()
    with join_world() as world:
        _execute(family_of(config), config, world)
    return load(run_path(config))


def _execute(family: Family, config: Config, world: World) -> None:
    """Train stage 1, if the run has one and needs it, then the run."""
    from gendd.programs.dry_run import refuse_missing
    from gendd.programs.train_run import TrainRun

    config.check()
    run = TrainRun(family, config, world)
    first = config.method.pretraining(config)
    if first:
        _check_stage1(config, first)
    missing: list[str] = []
    if first and not run.run.last.exists():
        missing += TrainRun(family, first, world, shared=True).execute()
    refuse_missing(missing + run.execute())


def _check_stage1(config: Config, first: Config) -> None:
    """Refuse a stage 1 in the run's own folder, or one whose learning rate would rise."""
    if run_path(first) == run_path(config):
        raise InvalidSetting("pretrain_name", first.run.name, "is the run's own folder; give stage 1 another name")
    lr, lowest = first.optimizer.lr, first.optimizer.min_lr
    if lowest > lr:
        raise InvalidSetting("pretrain_lr", f"{lr:g}", f"below `min_lr` {lowest:g}, at which stage 1 ends; raise it")


def _usage(family: Family) -> str:
    methods = (f"  {name:<15} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in METHODS.items())
    start = f"usage: {family.command} train"
    own = "  package.module:Class, a method of your own"
    sources = "METHOD [flags], --recipe NAME [flags], --config FILE [flags], or --resume RUN"
    usage = f"{start} {sources}; METHOD --help lists the flags\n"
    return "\n".join([usage, *methods, own])
