"""The student with all that GenDD trains beside it, and the read-outs it is evaluated by."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.draws import Draws
from gendd.networks import feature_width, pooled_feature
from gendd.targets import feature_mixup, swap_neighbors


class Student(nn.Module):
    """Backbone, LayerNorm, generative head, linear probe, and the teacher's frozen classifier.

    The probe is the backbone's own classifier, so that the backbone alone is a complete plain network. All that
    is trained lies in this one module: DistributedDataParallel wraps it and sees every trained parameter.

    Args:
        backbone: speaks timm's interface; its classifier is the probe.
        head: generates teacher features from conditions as wide as the backbone's feature: a `SplitTokenHead`, or
            what stands in its place.
        classifier: the teacher's, copied and frozen.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, classifier: nn.Linear):
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(feature_width(backbone))
        self.head = head
        self.classifier = nn.Linear(classifier.in_features, classifier.out_features, bias=classifier.bias is not None)
        self.classifier.load_state_dict(classifier.state_dict())
        self.classifier.requires_grad_(False)

    def forward(
        self,
        images: Tensor,
        target: Tensor,
        probe_target: Tensor,
        mixup_share: Tensor | None = None,
        draws: Draws | None = None,
    ) -> dict[str, Tensor]:
        """The training loss.

        Args:
            images: (B, 3, H, W); target: (B, D_t) contracted teacher features.
            probe_target: (B,) labels or (B, C) probabilities for the probe, whose gradient stops at its input.
            mixup_share: feature mixup's share m, or None for no mixup.

        Returns:
            "loss" = "mse" + "vb" + "probe_loss", and the probe's logits as "output".
        """
        h = pooled_feature(self.backbone, images)
        z = self.norm(h)
        if mixup_share is not None:
            permutation = swap_neighbors(len(z)).to(z.device)
            z, target = (feature_mixup(values, mixup_share, permutation) for values in (z, target))
        losses = self.head(z, target, draws)
        logits = self.backbone.get_classifier()(h.detach())
        probe_loss = F.cross_entropy(logits.float(), probe_target)
        losses["loss"] = losses["loss"] + probe_loss
        return {**losses, "probe_loss": probe_loss.detach(), "output": logits}

    def sample(self, images: Tensor, generator: torch.Generator | None = None, **sampling) -> Tensor:
        """Mean (B, D_t) of the features that the head generates for images (B, 3, H, W)."""
        z = self.norm(pooled_feature(self.backbone, images))
        return self.head.sample(z, generator=generator, **sampling).mean(1)

    def read_out(self, images: Tensor, generator: torch.Generator | None = None, **sampling) -> dict[str, Tensor]:
        """Logits (B, C) of both read-outs: "head", the teacher's classifier on generated features, and "probe"."""
        h = pooled_feature(self.backbone, images)
        generated = self.head.sample(self.norm(h), generator=generator, **sampling).mean(1)
        return {"head": self.classifier(generated), "probe": self.backbone.get_classifier()(h)}
