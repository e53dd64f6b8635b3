"""Weights that timm publishes: finding local files, downloading, and conversion by timm."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import huggingface_hub
import timm
import torch

from gendd.core.errors import InvalidValue, MissingFile, PassingFault
from gendd.networks.checkpoint import Tensors, Weights
from gendd.networks.create import create_timm
from gendd.networks.meta import created_empty
from gendd.networks.timm_names import PLAIN, TIMM, from_hub

FOLDER = Path("pretrained")


@dataclass(frozen=True)
class Published:
    """Weights that timm publishes on the hub.

    Args:
        network: timm's name with its tag, such as "resnet34.tv_in1k".
        repository: name of the repository on the hub.
        num_classes: number of classes of the weights.
    """

    network: str
    repository: str
    num_classes: int

    @property
    def url(self) -> str:
        return huggingface_hub.hf_hub_url(self.repository, PLAIN)

    @property
    def by_hand(self) -> Path:
        """Return the path for a file that the user downloaded by hand."""
        return FOLDER / f"{self.network}.safetensors"

    def at_hand(self) -> Path | None:
        """Return the local file, from `by_hand` or the hub's cache, or None."""
        if self.by_hand.exists():
            return self.by_hand
        cached = huggingface_hub.try_to_load_from_cache(self.repository, PLAIN)
        return Path(cached) if isinstance(cached, str) else None

    def fetch(self) -> Path:
        """Download the file from the hub into its cache; return its path there.

        Raises:
            MissingFile: the download fails.
            PassingFault: the hub is busy or out of order.
        """
        try:
            return from_hub(self.repository, PLAIN)
        except PassingFault:
            raise
        except Exception as error:  # The client raises many kinds of errors: its own, its transport's, the disk's.
            raise self.absent(f" and the hub does not give it ({shorten(str(error), 160)})") from error

    def absent(self, reason: str = "") -> MissingFile:
        return MissingFile(
            TIMM, f"{self.network} is not at hand{reason}; fetch {self.url} and save it as {self.by_hand}"
        )

    def read(self, tensors: Tensors, image_size: int) -> Weights:
        """Convert the file's tensors to the network's own for images of this size.

        timm renames tensors, leaves out computed ones and resizes position embeddings.

        Raises:
            InvalidValue: the tensors are not this network's.
        """
        options = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": tensors}}
        # The network's random initialization must not change later random numbers.
        with torch.random.fork_rng(devices=[]):
            try:
                filled = created_empty(lambda: create_timm(self.network, self.num_classes, image_size, **options))
            except Exception as error:  # timm raises many kinds of errors at a file of another network.
                raise InvalidValue(
                    TIMM,
                    f"the file holds no weights of {self.network} ({shorten(str(error), 160)}); fetch "
                    f"{self.url} again and save it as {self.by_hand}",
                ) from error
        return Weights(filled.state_dict())


def published(name: str, timm_name: str | None) -> Published:
    """Return the weights that timm publishes for a network.

    Args:
        name: the user's name of the network, for the error message.
        timm_name: timm's name; None if timm does not have the network.

    Raises:
        InvalidValue: timm does not publish weights of this network.
    """
    cfg = timm.models.get_pretrained_cfg(timm_name) if timm_name else None
    if not cfg or not cfg.hf_hub_id:
        raise InvalidValue(TIMM, f"timm publishes no weights of {name}; name a file or run folder")
    return Published(f"{cfg.architecture}.{cfg.tag}", cfg.hf_hub_id, cfg.num_classes)
