"""Turn a folder of images into WebDataset shards, or index shards of others.

python -m gendd_imagenet.make_shards FOLDER OUTPUT
python -m gendd_imagenet.make_shards --index SHARDS
"""

import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from gendd.core.errors import InvalidSetting, InvalidValue, UserError, naming, run_program
from gendd.core.files import rewrite_text
from gendd.core.ranges import Count, CountOrNone, check_values
from gendd.core.seeding import generator
from gendd.data.image_files import describe
from gendd.programs.command_line import parse
from gendd.runs.lock import sole_writer
from gendd_imagenet import shard_index, shards
from gendd_imagenet.folders import Listing, list_unlabeled

PROGRAM = "python -m gendd_imagenet.make_shards"


@dataclass(frozen=True)
class MakeShardsConfig:
    """Turn a folder of images into WebDataset shards, in random order. The files are not re-encoded.

    A sample is the image, under its file extension, and its folder's name as caption (txt). The file sizes.json states
    the number of images of each shard.
    """

    folder: tyro.conf.Positional[str] = ""
    """Folder to search for images."""
    output: tyro.conf.Positional[str] = ""
    """Folder for the shards."""
    images_per_shard: Count = 5000
    """Number of images per shard. The last shard may hold fewer."""
    seed: CountOrNone = 0
    """Seed of the random order."""
    index: str = ""
    """Only count the images of these shards, in place of FOLDER and OUTPUT: a folder, file, pattern or URL. Writes
    sizes.json next to local shards, else into the current folder."""


def main(arguments: list[str] | None = None) -> None:
    """Write the shards and print the pattern that names them. An interrupted run leaves only complete shards.

    Raises:
        UserError: FOLDER does not exist or holds no images, or OUTPUT already holds shards or cannot be written.
    """
    config = parse(MakeShardsConfig, PROGRAM, arguments)
    if config.index:
        return _index(config)
    if not config.folder or not config.output:
        raise UserError(f"FOLDER and OUTPUT are missing: {PROGRAM} FOLDER OUTPUT")
    check_values(config)
    with naming("FOLDER"):
        listing, output = list_unlabeled(Path(config.folder)), Path(config.output)
    listing = listing.select(torch.randperm(len(listing), generator=generator("cpu", config.seed, "shards")))
    count = -(-len(listing) // config.images_per_shard)
    try:
        with sole_writer(output, "OUTPUT"):
            if any(output.glob("*.tar")):
                raise UserError(f"OUTPUT {output}: already holds shards; name another folder, or delete them")
            sizes = {}
            for number in tqdm(range(count), "shards", disable=None, leave=False):
                first = number * config.images_per_shard
                rows = range(first, min(first + config.images_per_shard, len(listing)))
                _write_shard(output / f"{number:05d}.tar", listing, rows)
                sizes[f"{number:05d}.tar"] = len(rows)
            rewrite_text(output / shard_index.NAME, shard_index.content(sizes))
    except OSError as error:
        raise UserError(f"OUTPUT {output}: cannot be written ({error}); make room, or name another folder") from error
    pattern = f"{{00000..{count - 1:05d}}}" if count > 1 else "00000"
    aside = f" (passed over: {describe(listing.passed_over)})" if listing.passed_over else ""
    print(f'{len(listing)} images in {count} shards{aside}: --dataset "{output}/{pattern}.tar"')


def _index(config: MakeShardsConfig) -> None:
    """Count the images of shards and write their index."""
    if config.folder or config.output:
        raise UserError("FOLDER and OUTPUT are not used with `index`; leave them out")
    with naming("index"):
        names = shards.expand(config.index)
        if absent := shards.absent_shards(names):
            raise InvalidValue(config.index, f"{absent[0]} is missing; name existing shards")
        try:
            sizes = shard_index.count(names)
        except shards.UnreadableShard as error:
            raise InvalidValue(config.index, str(error)) from error
    local = {Path(name).parent for name in names if shards.is_local(name)}
    folder = local.pop() if len(local) == 1 else Path()
    rewrite_text(folder / shard_index.NAME, shard_index.content(sizes))
    remedy = "" if folder.parts else "; put it beside the shards"
    print(f"{sum(sizes.values())} images in {len(sizes)} shards: {folder / shard_index.NAME}{remedy}")


def _write_shard(path: Path, listing: Listing, rows: range) -> None:
    temporary = path.with_suffix(".tmp")
    with tarfile.open(temporary, "w") as shard:
        for row in rows:
            try:
                sample = sample_of(listing, row)
            except OSError as error:
                raise InvalidSetting(
                    "FOLDER", listing.root, f"{error.filename}: {error.strerror}; replace it, or remove it"
                ) from error
            for name, content in sample:
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
