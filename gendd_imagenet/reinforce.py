"""The reinforce program: write shards that hold a teacher's features of fixed views with each image."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from gendd.core.distributed import join_world
from gendd.core.errors import InvalidSetting, UserError
from gendd.core.ranges import Amount, Count, CountOrNone, PixelCount, PositiveShare, Range, Share, check_values
from gendd.distillation.teacher_feature import Kind
from gendd.family import Family
from gendd.programs.command_line import parse
from gendd.programs.teacher_flags import refuse_several
from gendd_imagenet.config import CroppedShare, Photographs
from gendd_imagenet.family import FAMILY


@dataclass(frozen=True)
class ReinforceConfig:
    """Write shards that hold each image with a teacher's features of its fixed augmentation views.

    `train` reads them with --images OUT, without the teacher. Some images are held out to evaluate on. The same command
    resumes, and several processes may run it at once.
    """

    source: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="IMAGES")]] = ""
    """A folder of images, or shards as --images of train takes them."""
    output: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]] = ""
    """Folder for the reinforced shards."""
    teacher: str = ""
    """Teacher network, named as in train."""
    teacher_weights: str | None = None
    """Teacher's weights: a file, a run folder, or timm for the published ones."""
    teacher_image_size: PixelCount | None = None
    """Image size of the teacher, in pixels. Default as in train, with --image-size as the student's."""
    teacher_feature: Kind = "auto"
    """Feature of the teacher: pooled, class-token, patch-mean, or projection."""
    teacher_mean: tuple[Share, Share, Share] | None = None
    """Mean of the teacher's input images, from 0 to 1. The network's values if not given."""
    teacher_std: tuple[PositiveShare, PositiveShare, PositiveShare] | None = None
    """Standard deviation of the teacher's input images. The network's values if not given."""
    views: Count = 8
    """Augmented views per image. The epochs of a training use them in turn."""
    dense_grid: CountOrNone = 0
    """Side of the grid to which the teacher's map is pooled, for a dense term. 0 stores no maps."""
    dense_layer: CountOrNone | None = None
    """Stage or block of the teacher that gives the map. The last map before pooling if not given."""
    dtype: Literal["fp16", "int8"] = "fp16"
    """Numbers of features and maps. int8 takes about half the space."""
    image_size: PixelCount = Photographs.image_size
    """Image size of the views, and of the student."""
    crop_scale: tuple[float, float] = Photographs.crop_scale
    """Smallest and largest share of the image's area in a random crop."""
    hflip: Share = Photographs.hflip
    """Probability of a horizontal flip."""
    color_jitter: Amount = Photographs.color_jitter
    """Strength of color jitter."""
    auto_augment: str = Photographs.auto_augment
    """Augmentation policy in timm's notation."""
    interpolation: Literal["bilinear", "bicubic"] = Photographs.interpolation
    """Interpolation when images are resized."""
    crop_pct: CroppedShare = Photographs.crop_pct
    """Share of the shorter side in the center crop of held-out images."""
    holdout: Annotated[float, Range(0, 0.9)] = 0.0
    """Fraction of the images to hold out. 0: 2 %, but at least 50 images or a tenth, and at most 1,000."""
    images_per_shard: Count = 5000
    """Images per shard if IMAGES is a folder."""
    batch_size: Count = 256
    """Views per forward pass of the teacher. Does not change the result, except for rounding."""
    workers: CountOrNone = Photographs.workers
    """Processes that draw views, at most one per core. 0 draws them in this process."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the teacher: bf16 (autocast) or fp32. auto is bf16 where it is faster."""
    seed: CountOrNone = 0
    """Seed of the views and of the order of a folder's images."""
    trust_remote_code: bool = False
    """Download the code that a hub: or transformers: name refers to, and run it."""


def reinforce(family: Family, arguments: list[str]) -> None:
    """Run the reinforce program.

    Raises:
        UserError: the images or the teacher cannot be used, or OUT was made from others.
    """
    refuse_several(arguments, "only one teacher's features can be stored; name one, and write a folder for each")
    config = parse(ReinforceConfig, f"{family.command} reinforce", arguments)
    if family.name != FAMILY.name and family.typed in ("", family.name):
        raise UserError("PROGRAM reinforce: works with photographs only; type gendd-imagenet reinforce")
    if not (config.source and config.output):
        missing = "OUT is" if config.source else "IMAGES and OUT are"
        raise UserError(f"{missing} missing: {family.command} reinforce IMAGES OUT --teacher NAME")
    if not config.teacher:
        raise InvalidSetting("teacher", None, "name the network whose features to store")
    check_values(config)
    Photographs(crop_scale=config.crop_scale).check_crops()
    # Slow imports, for which --help does not wait.
    from gendd_imagenet.reinforcing import Reinforcing

    with join_world() as world:
        Reinforcing(config, world).write()
