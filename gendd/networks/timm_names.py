"""timm's names of networks outside its registry: local-dir:FOLDER, and hf-hub:OWNER/NAME, with @REVISION if need be.

Either names a folder with a config.json, which tells the network, and its weights. The hub's lie in its cache.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

import huggingface_hub

from gendd.core.errors import MissingFile, PassingFault
from gendd.core.retry import retried

LOCAL, HUB = "local-dir:", ("hf-hub:", "hf_hub:")
CONFIG = ("config.json",)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def is_source(name: str) -> bool:
    return name.startswith((LOCAL, *HUB))


def has_weights(name: str) -> bool:
    """Whether a network is named by timm, which publishes weights under the same name."""
    return name.startswith("timm/") or is_source(name)


def find(name: str, files: Sequence[str], fetch: bool = True) -> Path:
    """The first of some files that a source has.

    Args:
        fetch: whether the hub may be asked for what its cache lacks.

    Raises:
        MissingFile: it has none of them, or the hub gives none.
    """
    place = name.partition(":")[2]
    if name.startswith(LOCAL):
        place = os.path.expanduser(place)
        found = [Path(place, file) for file in files if Path(place, file).is_file()]
        reason = f"{place} holds no {' or '.join(files)}"
    else:
        found, reason = _on_hub(place, files, fetch)
    if not found:
        raise MissingFile(name, f"{reason}; put config.json and weights into a folder and name it {LOCAL}FOLDER")
    return found[0]


def _on_hub(place: str, files: Sequence[str], fetch: bool) -> tuple[list[Path], str]:
    repository, _, revision = place.partition("@")
    options = {"revision": revision} if revision else {}
    reason = f"{' or '.join(files)} is not at hand"
    try:
        cached = [huggingface_hub.try_to_load_from_cache(repository, file, **options) for file in files]
    except ValueError as error:  # No name of a repository.
        return [], str(error)
    found = [Path(file) for file in cached if isinstance(file, str)]
    for file in files if fetch and not found else ():
        try:
            return [from_hub(repository, file, **options)], ""
        except PassingFault:
            raise
        except Exception as error:  # The client raises almost anything: its own errors, its transport's, the disk's.
            reason = f"the hub does not give {file} ({shorten(str(error), 160)})"
    return found, reason


def from_hub(repository: str, file: str, **options) -> Path:
    """A file from the hub into its cache.

    Raises:
        PassingFault: the hub is busy or out of order.
    """
    # Asked first, and again only if it is busy: a download would ask a hub that does not answer for half a minute.
    url = huggingface_hub.hf_hub_url(repository, file, **options)
    retried(lambda: huggingface_hub.get_hf_file_metadata(url), url)
    return Path(retried(lambda: huggingface_hub.hf_hub_download(repository, file, **options), url))
