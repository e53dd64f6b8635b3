"""Folders of reinforced shards: their record, and what a training may not change.

OUT/reinforced.json   the teacher, its license, the views, the format
OUT/00000.tar         a shard: each image with its captions, followed by NAME.teacher.safetensors
                      (`gendd_imagenet.stored_views`)
OUT/00000.held-out    a tar file of the images that are held out of this shard, with the features of their center view
OUT/sizes.json        the number of images of each shard; it exists once all shards do
"""

import tarfile
from pathlib import Path

from gendd_imagenet.stored_views import ENDING

RECORD, SIZES, HELD_OUT_ENDING = "reinforced.json", "sizes.json", ".held-out"
# Settings of the views. They have the same names in the record and in the configuration of a run.
VIEW_SETTINGS = ("image_size", "crop_scale", "hflip", "color_jitter", "auto_augment", "interpolation", "crop_pct")


def is_reinforced(name: str | None) -> bool:
    """Return whether a name is that of a folder of reinforced shards."""
    return bool(name) and Path(str(name), RECORD).is_file()


def reinforced_images(shard: Path) -> int:
    """Return the number of images with features in a shard, from its headers alone."""
    with tarfile.open(shard, "r:") as archive:
        return sum(name.endswith(ENDING) for name in archive.getnames())
