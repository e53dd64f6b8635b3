"""Turn a folder of images into WebDataset shards: python -m gendd_imagenet.make_shards FOLDER OUTPUT."""

import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from gendd.core.errors import UserError, naming, run_program
from gendd.core.ranges import Count, CountOrNone, check_ranges
from gendd.core.seeding import generator
from gendd.data.image_files import describe
from gendd.programs.command_line import parse
from gendd.runs.lock import sole_writer
from gendd_imagenet.folders import Listing, list_unlabeled

PROGRAM = "python -m gendd_imagenet.make_shards"


@dataclass(frozen=True)
class MakeShardsConfig:
    """Turn a folder of images into WebDataset shards, in random order. The files are not re-encoded.

    A sample is the image, under its file extension, and its folder's name as caption (txt).
    """

    folder: tyro.conf.Positional[str] = ""
    """Folder to search for images."""
    output: tyro.conf.Positional[str] = ""
    """Folder for the shards."""
    images_per_shard: Count = 5000
    """Number of images per shard. The last shard may hold fewer."""
    seed: CountOrNone = 0
    """Seed of the random order."""


def main(arguments: list[str] | None = None) -> None:
    """Write the shards and print the pattern that names them. An interrupted run leaves only complete shards.

    Raises:
        UserError: FOLDER does not exist or holds no images, or OUTPUT already holds shards or cannot be written.
    """
    config = parse(MakeShardsConfig, PROGRAM, arguments)
    if not config.folder or not config.output:
        raise UserError(f"FOLDER and OUTPUT are missing: {PROGRAM} FOLDER OUTPUT")
    check_ranges(config)
    with naming("FOLDER"):
        listing, output = list_unlabeled(Path(config.folder)), Path(config.output)
    listing = listing.select(torch.randperm(len(listing), generator=generator("cpu", config.seed, "shards")))
    count = -(-len(listing) // config.images_per_shard)
    try:
        with sole_writer(output, "OUTPUT"):
            if any(output.glob("*.tar")):
                raise UserError(f"OUTPUT {output}: already holds shards; name another folder, or delete them")
            for number in tqdm(range(count), "shards", disable=None, leave=False):
                first = number * config.images_per_shard
                rows = range(first, min(first + config.images_per_shard, len(listing)))
                _write_shard(output / f"{number:05d}.tar", listing, rows)
    except OSError as error:
        raise UserError(f"OUTPUT {output}: cannot be written ({error}); make room, or name another folder") from error
    pattern = f"{{00000..{count - 1:05d}}}" if count > 1 else "00000"
    aside = f" (passed over: {describe(listing.passed_over)})" if listing.passed_over else ""
    print(f'{len(listing)} images in {count} shards{aside}: --dataset "{output}/{pattern}.tar"')


def _write_shard(path: Path, listing: Listing, rows: range) -> None:
    temporary = path.with_suffix(".tmp")
    with tarfile.open(temporary, "w") as shard:
        for row in rows:
            for name, content in sample_of(listing, row):
                add_file(shard, name, content)
    os.replace(temporary, path)


def sample_of(listing: Listing, row: int) -> list[tuple[str, bytes]]:
    """Return the files of a sample, with their names: the image, and its folder's name as caption."""
    image = listing.path(row)
    caption = os.fsencode(image.parent.name)
    return [(f"{row:09d}{image.suffix.lower()}", listing.content(row)), (f"{row:09d}.txt", caption)]


def add_file(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a shard."""
    # Time and owner stay 0, so the same images give the same bytes.
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    shard.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    run_program(main)
