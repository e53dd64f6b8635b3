"""The teachers of a run: their caches, their records, and the scales of their features."""

from typing import Any

import torch

from gendd.config import Config
from gendd.core.distributed import World, autocast
from gendd.core.errors import InvalidSetting
from gendd.data.batch import TrainingData
from gendd.distillation.teacher import FrozenTeacher
from gendd.distillation.teacher_cache import cache_of, open_cache
from gendd.networks.create import LoadedNetwork
from gendd.runs.experiment import Experiment

# Images from whose features the task measures the scale of all features.
MEASURED_FEATURES = 4096


def teachers_of(built: Experiment, config: Config) -> list[tuple[Config, FrozenTeacher]]:
    """Return each teacher with the configuration in which it is the only one; empty without a teacher."""
    if not built.teacher:
        return []
    return [(config, built.teacher), *zip(config.of_more_teachers, built.more_teachers, strict=True)]


def open_caches(built: Experiment, config: Config, data: TrainingData, world: World) -> None:
    """Let each teacher read its features from the configured cache, which is filled first.

    Raises:
        UserError: a cache was made with other settings, or it is damaged.
    """
    for own, teacher in teachers_of(built, config) if config.data.teacher_cache else []:
        teacher.cache = open_cache(own, data, teacher, world)


def describe_caches(built: Experiment, config: Config, data: TrainingData) -> list[str]:
    """Return the plan's line about the cache of each teacher."""
    teachers = teachers_of(built, config) if config.data.teacher_cache else []
    return [cache_of(own, data, teacher).describe() for own, teacher in teachers]


def weights_record(loaded: LoadedNetwork) -> dict[str, Any]:
    """Return the source of a network's weights, their license, and checksums of file (None without) and tensors."""
    sums = {"sha256": loaded.file_checksum, "tensors_sha256": loaded.checksum}
    return {"weights": str(loaded.file or loaded.loaded), "license": loaded.license, **sums}


def teacher_record(teacher: FrozenTeacher) -> dict[str, Any]:
    """Return the record of a teacher's weights and its feature."""
    feature = {"feature": teacher.kind, "image_size": teacher.image_size}
    return weights_record(teacher.loaded) | feature | teacher.sizes


@torch.no_grad()
def measure_features(built: Experiment, config: Config, data: TrainingData, world: World, precision: str) -> None:
    """Let the task measure the teachers' features of the first training images before training.

    Raises:
        InvalidSetting: a feature is not finite.
    """
    teachers = teachers_of(built, config)
    if not teachers or not built.task.measures_features:
        return
    features: list[list[torch.Tensor]] = [[] for _ in teachers]
    maps: list[list[torch.Tensor]] = [[] for _ in teachers]
    steps = max(1, MEASURED_FEATURES // config.optimizer.batch_size)
    with autocast(precision, world.device):
        for batch in data.batches(range(min(steps, data.steps_per_epoch))):
            for place, (_, teacher) in enumerate(teachers):
                feature, feature_map = teacher.features_and_map(batch)
                features[place].append(feature)
                maps[place] += [] if feature_map is None else [feature_map]
    measured = []
    for (own, _), found, found_maps in zip(teachers, features, maps, strict=True):
        gathered = world.gather(torch.cat(found))
        if not gathered.isfinite().all():
            reason = "its features are not finite; choose other weights"
            raise InvalidSetting("teacher", own.networks.teacher, reason)
        measured.append((gathered, world.gather(torch.cat(found_maps)) if found_maps else None))
    first, *further = measured
    built.task.measure_features(*first, further)
