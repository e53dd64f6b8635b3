"""Weights that timm publishes: where they are at hand, how they are fetched, and how timm reads them."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import huggingface_hub
import timm
import torch

from gendd.core.errors import InvalidValue, MissingFile, PassingFault
from gendd.networks.checkpoint import Tensors, Weights
from gendd.networks.create import create_timm
from gendd.networks.timm_names import from_hub

# In place of a file's path, on the command line.
TIMM = "timm"
FILE = "model.safetensors"
FOLDER = Path("pretrained")


@dataclass(frozen=True)
class Published:
    """What timm's hub holds for a network.

    Args:
        network: timm's name with its tag, such as "resnet34.tv_in1k".
        repository: on the hub.
        num_classes: that it was trained for.
    """

    network: str
    repository: str
    num_classes: int

    @property
    def url(self) -> str:
        return huggingface_hub.hf_hub_url(self.repository, FILE)

    @property
    def by_hand(self) -> Path:
        """The place of a file that somebody fetched."""
        return FOLDER / f"{self.network}.safetensors"

    def at_hand(self) -> Path | None:
        """The file, if nothing need be fetched."""
        if self.by_hand.exists():
            return self.by_hand
        cached = huggingface_hub.try_to_load_from_cache(self.repository, FILE)
        return Path(cached) if isinstance(cached, str) else None

    def fetch(self) -> Path:
        """The file, from the hub into its cache.

        Raises:
            MissingFile: the hub gives none.
            PassingFault: it is busy or out of order.
        """
        try:
            return from_hub(self.repository, FILE)
        except PassingFault:
            raise
        except Exception as error:  # The client raises almost anything: its own errors, its transport's, the disk's.
            raise self.absent(f" and the hub does not give it ({shorten(str(error), 160)})") from error

    def absent(self, reason: str = "") -> MissingFile:
        return MissingFile(
            TIMM, f"{self.network} is not at hand{reason}; fetch {self.url} and save it as {self.by_hand}"
        )

    def read(self, tensors: Tensors, image_size: int) -> Weights:
        """The file's tensors as the network has them for images of this size: timm renames some, leaves out what is
        computed, and resizes tables of positions."""
        # What is drawn for the weights that are overwritten changes no later draw.
        with torch.random.fork_rng(devices=[]):
            try:
                filled = create_timm(
                    self.network,
                    self.num_classes,
                    image_size,
                    pretrained=True,
                    pretrained_cfg_overlay={"state_dict": tensors},
                )
            except Exception as error:  # At a file of another network, timm's readers raise almost anything.
                raise InvalidValue(
                    TIMM,
                    f"the file holds no weights of {self.network} ({shorten(str(error), 160)}); fetch "
                    f"{self.url} again and save it as {self.by_hand}",
                ) from error
        return Weights(filled.state_dict())


def published(name: str, timm_name: str | None) -> Published:
    """What timm's hub holds for the network that the user calls `name` and timm `timm_name`.

    Raises:
        InvalidValue: it holds none.
    """
    cfg = timm.models.get_pretrained_cfg(timm_name) if timm_name else None
    if not cfg or not cfg.hf_hub_id:
        raise InvalidValue(TIMM, f"timm publishes no weights of {name}; name a file or run folder")
    return Published(f"{cfg.architecture}.{cfg.tag}", cfg.hf_hub_id, cfg.num_classes)
