"""Turn a folder of images into WebDataset shards: python -m gendd_imagenet.make_shards FOLDER OUTPUT."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
import webdataset
from tqdm import tqdm

from gendd.config import parse
from gendd.errors import UserError, run_program
from gendd.randomness import generator
from gendd_imagenet.folders import Listing, list_unlabeled
from gendd_imagenet.shards import IMAGE_KEYS


@dataclass(frozen=True)
class MakeShardsConfig:
    """Turn a folder of images into WebDataset shards, in random order, files as they are.

    A sample is the image under its ending (jpg, jpeg, png, webp) and its folder's name as caption (txt).
    """

    folder: tyro.conf.Positional[str] = ""
    """Folder that is searched for images."""
    output: tyro.conf.Positional[str] = ""
    """Folder for the shards."""
    images_per_shard: int = 5000
    """Images of a shard; the last one has what is left."""
    seed: int = 0
    """Seed of the order."""


def main(arguments: list[str] | None = None) -> None:
    """Write the shards, each whole or not at all, and print the pattern that names them.

    Raises:
        UserError: a folder that does not exist, holds no image, or already holds shards.
    """
    config = parse(MakeShardsConfig, "gendd_imagenet.make_shards", arguments)
    if not config.folder or not config.output:
        raise UserError("FOLDER and OUTPUT are missing: python -m gendd_imagenet.make_shards FOLDER OUTPUT")
    if config.images_per_shard < 1:
        raise UserError(f"--images-per-shard {config.images_per_shard}: must be at least 1")
    listing, output = _shuffled_images(config), Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.glob("*.tar")):
            raise UserError(f"OUTPUT {output}: already holds shards; name another folder, or delete them")
        count = -(-len(listing) // config.images_per_shard)
        for number in tqdm(range(count), "shards", disable=None, leave=False):
            rows = range(number * config.images_per_shard, min((number + 1) * config.images_per_shard, len(listing)))
            _write_shard(output / f"{number:05d}.tar", listing, rows)
    except OSError as error:
        raise UserError(f"OUTPUT {output}: cannot be written ({error}); make room, or name another folder") from error
    pattern = f"{{00000..{count - 1:05d}}}" if count > 1 else "00000"
    print(f'{len(listing)} images in {count} shards: --dataset "{output}/{pattern}.tar"')


def _shuffled_images(config: MakeShardsConfig) -> Listing:
    listing = list_unlabeled("FOLDER", Path(config.folder))
    return listing.select(torch.randperm(len(listing), generator=generator("cpu", config.seed, "shards")))


def _write_shard(path: Path, listing: Listing, rows: range) -> None:
    temporary = path.with_suffix(".tmp")
    # A fixed time: the same images give the same bytes.
    with webdataset.TarWriter(str(temporary), encoder=False, mtime=0) as shard:
        for row in rows:
            image = listing.path(row)
            key = image.suffix[1:].lower()
            if key not in IMAGE_KEYS:
                raise UserError(f"FOLDER: {image} is none of {', '.join(IMAGE_KEYS)}; convert it, or take it away")
            caption = image.parent.name.encode()
            shard.write({"__key__": f"{row:09d}", key: image.read_bytes(), "txt": caption})
    os.replace(temporary, path)


if __name__ == "__main__":
    run_program(main)
