"""timm's names for networks outside its registry: local-dir:FOLDER and hf-hub:OWNER/NAME[@REVISION].

Each refers to a folder with the weights and a config.json, which names the network. The cache keeps files from the hub.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

import huggingface_hub

from gendd.core.errors import MissingFile, PassingFault
from gendd.core.retry import retried

LOCAL, HUB = "local-dir:", ("hf-hub:", "hf_hub:")
# The word for published weights, in place of a file.
TIMM = "timm"
CONFIG = ("config.json",)
PLAIN = "model.safetensors"
WEIGHTS = (PLAIN, "pytorch_model.bin")


def is_source(name: str) -> bool:
    return name.startswith((LOCAL, *HUB))


def has_weights(name: str) -> bool:
    """Return whether timm has weights under the same name as the network."""
    return name.startswith("timm/") or is_source(name)


def find(name: str, files: Sequence[str], fetch: bool = True) -> Path:
    """Return the first of several files that a source has.

    Args:
        name: the source, "local-dir:FOLDER" or "hf-hub:OWNER/NAME".
        files: names of the files, the preferred one first.
        fetch: whether to download a file that is not in the hub's cache.

    Raises:
        MissingFile: the source does not have any of the files, or the download fails.
        PassingFault: the hub is busy or out of order.
    """
    place = name.partition(":")[2]
    if name.startswith(LOCAL):
        place = os.path.expanduser(place)
        found = [Path(place, file) for file in files if Path(place, file).is_file()]
        reason = f"{place} holds no {' or '.join(files)}"
    else:
        found, reason = _on_hub(place, files, fetch)
    if not found:
        raise MissingFile(name, f"{reason}; put its files into a folder and name it {LOCAL}FOLDER")
    return found[0]


def _on_hub(place: str, files: Sequence[str], fetch: bool) -> tuple[list[Path], str]:
    repository, _, revision = place.partition("@")
    options = {"revision": revision} if revision else {}
    reason = f"{' or '.join(files)} is not at hand"
    try:
        cached = [huggingface_hub.try_to_load_from_cache(repository, file, **options) for file in files]
    except ValueError as error:  # Not a valid name of a repository.
        return [], str(error)
    found = [Path(file) for file in cached if isinstance(file, str)]
    for file in files if fetch and not found else ():
        try:
            return [from_hub(repository, file, **options)], ""
        except PassingFault:
            raise
        except Exception as error:  # The client raises many kinds of errors: its own, its transport's, the disk's.
            reason = f"the hub does not give {file} ({shorten(str(error), 160)})"
    return found, reason


def from_hub(repository: str, file: str, **options) -> Path:
    """Download a file from the hub into its cache; return its path there.

    Raises:
        PassingFault: the hub is busy or out of order.
    """
    # Request the metadata first: a download alone would retry a hub that does not answer for half a minute.
    url = huggingface_hub.hf_hub_url(repository, file, **options)
    retried(lambda: huggingface_hub.get_hf_file_metadata(url), url)
    return Path(retried(lambda: huggingface_hub.hf_hub_download(repository, file, **options), url))
