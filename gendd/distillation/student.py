"""The student with all trained parts of GenDD, and its outputs for evaluation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.diffusion.draws import Draws
from gendd.distillation.branch import Branch, BranchTarget
from gendd.distillation.dense import DenseHead, DenseTarget
from gendd.distillation.divergence import divergence
from gendd.distillation.targets import FeatureScale, feature_mixup, swap_neighbors
from gendd.networks.features import feature_width, frozen_copy, has_classifier, pooled_feature

# Temperature of the probe's loss where its gradient reaches the backbone. 1 was worse
# (docs/results/dense_resnet8/README.md).
PROBE_TEMPERATURE = 2.0


class Student(nn.Module):
    """A student: backbone, LayerNorm, generative head, linear probe and, if given, the teacher's frozen classifier.

    The probe is the backbone's classifier, so that the backbone alone is a complete classification network. For data
    without labels, a linear map to the teacher feature replaces the classifier. This module holds all trained
    parameters, so that DistributedDataParallel sees each of them.

    Args:
        backbone: a network with timm's interface; its classifier is the probe.
        head: generates teacher features from conditions as wide as the backbone's feature: a `SplitTokenHead`, or a
            module with the same interface.
        classifier: the teacher's, copied and frozen; None if the teacher does not have one.
        scale: standardization of the features that the head generates; None for the teacher's units.
        dense: head of the dense term; None without one.
        branches: the trained parts for further teachers, in their order.
        probe_gradient: share of the gradient of the probe, or of the linear map, that reaches the backbone.

    Raises:
        ValueError: a probe whose gradient reaches the backbone does not have the teacher's classifier to learn from.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        classifier: nn.Linear | None,
        scale: FeatureScale | None = None,
        dense: DenseHead | None = None,
        branches: Sequence[Branch] = (),
        probe_gradient: float = 0.0,
    ):
        super().__init__()
        if probe_gradient and classifier is None and has_classifier(backbone):
            raise ValueError("the probe's gradient needs the teacher's classifier; give one, or `probe_gradient` 0")
        self.backbone = backbone
        self.norm = nn.LayerNorm(feature_width(backbone))
        self.head = head
        self.classifier: nn.Module | None = frozen_copy(classifier) if classifier else None
        self.linear = None if has_classifier(backbone) else nn.Linear(feature_width(backbone), head.feature_dim)
        self.scale = scale
        self.dense = dense
        self.branches = nn.ModuleList(branches)
        self.probe_gradient = probe_gradient

    def forward(
        self,
        images: Tensor,
        target: Tensor,
        probe_target: Tensor,
        mixup_share: Tensor | None = None,
        draws: Draws | None = None,
        dense_target: DenseTarget | None = None,
        further: Sequence[BranchTarget] = (),
    ) -> dict[str, Tensor]:
        """Return the training loss and its parts.

        Args:
            images: (B, 3, H, W).
            target: (B, D_t) contracted teacher features.
            probe_target: (B,) labels or (B, C) probabilities for the probe. With a probe gradient, it learns the logits
                of the teacher's classifier on the target instead.
            mixup_share: share m of feature mixup, or None for no mixup.
            draws: the timesteps and noise of the head's loss; None: the head draws them.
            dense_target: target of the dense term, if the student has a dense head.
            further: targets of the branches.

        Returns:
            "loss" = "mse" + "vb" + "probe_loss" + weight * "dense_loss", and the probe's logits as "output". With a
            linear map, its mean squared error, "linear_loss", replaces "probe_loss", and "output" is left out. With
            branches, the losses of head and dense head are means over all teachers, and "head2_loss", "head3_loss", ...
            are those of the branches' heads.
        """
        h, dense_loss = self.observe(images, dense_target, further)
        z = self.norm(h)
        whole = self.scale(target) if self.scale else target
        targets = [whole, *(branch.scale(one.feature) for branch, one in zip(self.branches, further, strict=True))]
        if mixup_share is not None:
            permutation = swap_neighbors(len(z), z.device)
            z, *targets = (feature_mixup(values, mixup_share, permutation) for values in (z, *targets))
        losses = self.head(z, targets[0], draws)
        if self.branches:
            pairs = zip(self.branches, targets[1:], further, strict=True)
            own = [branch.head(z, feature, one.draws)["loss"] for branch, feature, one in pairs]
            terms = {f"head{number}_loss": loss.detach() for number, loss in enumerate(own, 2)}
            losses = {**losses, "loss": torch.stack([losses["loss"], *own]).mean(), **terms}
        if self.dense and dense_loss is not None:
            losses = self.dense.added(losses, dense_loss)
        seen = self.probed(h)
        if self.linear:
            linear_loss = F.mse_loss(self.linear(seen).float(), whole)
            return {**losses, "loss": losses["loss"] + linear_loss, "linear_loss": linear_loss.detach()}
        logits = self.backbone.get_classifier()(seen)
        if self.probe_gradient and self.classifier:
            taught = self.classifier(target).float()
            probe_loss = divergence(taught, logits.float(), PROBE_TEMPERATURE).mean()
        else:
            probe_loss = F.cross_entropy(logits.float(), probe_target)
        losses["loss"] = losses["loss"] + probe_loss
        return {**losses, "probe_loss": probe_loss.detach(), "output": logits}

    def probed(self, h: Tensor) -> Tensor:
        """Return the feature (B, D_s) for the probe, or the linear map, and pass on its share of their gradient."""
        return torch.lerp(h.detach(), h, self.probe_gradient) if self.probe_gradient else h.detach()

    def observe(
        self, images: Tensor, target: DenseTarget | None, further: Sequence[BranchTarget] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Return the backbone's feature (B, D_s) and the dense loss (scalar), which is None without a target.

        With branches, whose targets are `further`, the loss is the mean over all teachers.
        """
        if self.dense is None or target is None:
            return pooled_feature(self.backbone, images), None
        features, student_map = self.dense.observe(self.backbone, images)
        loss = self.dense(student_map, target)
        if self.branches:
            pairs = zip(self.branches, further, strict=True)
            loss = torch.stack([loss, *(branch.dense(student_map, one.dense) for branch, one in pairs)]).mean()
        return self.backbone.forward_head(features, pre_logits=True), loss

    def sample(self, images: Tensor, generator: torch.Generator | None = None, **sampling) -> Tensor:
        """Return the mean (B, D_t) of the features that a head generates for images (B, 3, H, W); see `generate`."""
        return self.generate(pooled_feature(self.backbone, images), generator, **sampling)

    def generate(self, h: Tensor, generator: torch.Generator | None = None, teacher: int = 0, **sampling) -> Tensor:
        """Return the mean (B, D_t) of the features that a head generates for backbone features (B, D_s).

        Args:
            teacher: 0 for the head of the first teacher, 1 for the one of the second, ...
        """
        if teacher:
            return self.branches[teacher - 1].generate(self.norm(h), generator, **sampling)
        generated = self.head.sample(self.norm(h), generator=generator, **sampling).mean(1)
        return self.scale.inverse(generated) if self.scale else generated

    def outputs(self, images: Tensor, generator: torch.Generator | None = None, **sampling) -> dict[str, Tensor]:
        """Return the student's outputs for images (B, 3, H, W), by name.

        Returns:
            Logits (B, C): "head", of the teacher's classifier on generated features, if there is one, and "probe".
            Without classes, features (B, D_t): "head", the generated ones, and "linear", from the linear map.
        """
        h = pooled_feature(self.backbone, images)
        if self.linear:
            return {"head": self.generate(h, generator, **sampling), "linear": self.mapped(h)}
        probe = {"probe": self.backbone.get_classifier()(h)}
        if self.classifier is None:
            return probe
        generated = self.generate(h, generator, **sampling)
        return {"head": self.classifier(generated), **probe}

    def mapped(self, h: Tensor) -> Tensor:
        """Return the linear map's features (B, D_t) for backbone features (B, D_s).

        Raises:
            ValueError: the student has a probe, not a linear map.
        """
        if self.linear is None:
            raise ValueError("only a student without classes has a linear map")
        features = self.linear(h).float()
        return self.scale.inverse(features) if self.scale else features
