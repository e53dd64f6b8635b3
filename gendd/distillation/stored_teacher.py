"""A teacher whose features are stored with the training images, so that its network is not needed."""

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidValue
from gendd.data.batch import Batch
from gendd.distillation.stored_weights import StoredWeights
from gendd.distillation.teacher import FrozenTeacher
from gendd.distillation.teacher_feature import Kind
from gendd.networks.create import LoadedNetwork
from gendd.networks.stand_in import StandIn


class StoredNetwork(LoadedNetwork):
    """The description of a network that is not loaded."""

    def describe(self) -> str:
        return f"{self.name}: its network is not needed{self.normalization}"


class StoredTeacher(FrozenTeacher):
    """A teacher that reads its outputs with the images of a batch."""

    def __init__(
        self,
        name: str,
        weights: StoredWeights,
        student: nn.Module,
        device: torch.device,
        kind: Kind,
        grid: int,
        layer: int | None,
    ):
        network = StandIn(weights.width, weights.map_width, 0)
        network.pretrained_cfg = {**student.pretrained_cfg, "input_size": (3, 1, 1)}
        super().__init__(network, student, device, width=weights.width, has_classifier=False, grid=grid)
        self.name, self.kind, self.layer, self.map_side = name, kind, layer, (grid, grid) if grid else ()
        self.loaded = StoredNetwork(name, network, 0, loaded="features stored with the images")
        self.loaded.checksum, self.loaded.license = weights.checksum, weights.license

    def _outputs(self, batch: Batch) -> Tensor:
        if batch.outputs is None:
            raise self._absent()
        return batch.outputs.to(batch.images.device).float()

    def outputs_of(self, images: Tensor) -> Tensor:
        raise self._absent()

    def whole_map(self, images: Tensor) -> Tensor:
        raise self._absent()

    def logits_of(self, images: Tensor) -> Tensor:
        raise self._absent()

    def _absent(self) -> InvalidValue:
        reason = "only its features of reinforced shards are known; use these shards"
        return InvalidValue(self.name, reason)
