"""Measurements of a training: accuracies while it runs; at its end also features and costs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gendd.config import Config
from gendd.core.distributed import World, autocast
from gendd.core.seeding import generator
from gendd.data.batch import EvaluationData
from gendd.distillation.student import Student
from gendd.evaluation.accuracy import evaluate, evaluate_with_cost, feature_agreement
from gendd.evaluation.scores import AGREEMENT
from gendd.methods.base import Task
from gendd.networks.cost import parameter_count
from gendd.programs.plan import loss_flops
from gendd.runs.folder import AVERAGED
from gendd.training.loop import Measured

TIMED_IMAGES = 2000
COSTS = ("parameters", "flops", "images_per_second")


@dataclass(frozen=True)
class Measurement:
    """A callable that evaluates the current state of a training.

    Args:
        network: the bare student.
        groups: groups of classes whose accuracies are reported separately (`class_groups`).
        precision: "bf16" or "fp32".
    """

    config: Config
    task: Task
    network: nn.Module
    evaluation: EvaluationData
    groups: dict[str, Tensor]
    world: World
    precision: str

    def __call__(self, limit: int) -> Measured:
        """Measure accuracies on the first `limit` evaluation images (0: all) and how well features are generated."""
        self.task.eval()
        accuracies: dict[str, dict] = {}
        features: dict[str, dict] = {}
        with autocast(self.precision, self.world.device):
            for weights in self._kinds_of_weights():
                model = self.model(weights).eval()
                self.world.broadcast_buffers(model)
                outputs = self.task.outputs(model)
                further = [other for other, _ in self.task.further_outputs(model)]
                prefix = AVERAGED if weights == "ema" else ""
                for one in (outputs, *further):
                    batches = self.evaluation.batches(limit)
                    measured = evaluate(one, batches, self.world, self.config.run.seed, self.groups)
                    accuracies |= {prefix + name: accuracy for name, accuracy in measured.items()}
            model = self.model(self.config.optimizer.eval_weights)
            if self.task.head is not None and not outputs.target and self.world.is_first:
                pairs = self.features(model, count=1)
                # Only of the first batch: the teacher may be slow.
                agreement = feature_agreement(pairs["generated"], pairs["target"])
                features = {AGREEMENT: {"images": len(pairs["labels"]), **agreement}}
        size = self.evaluation.size
        images = {"split": self.evaluation.split, "images": min(limit or size, size)}
        return Measured(images, accuracies, features)

    def _kinds_of_weights(self) -> list[str]:
        """Return the kinds of weights to evaluate, the reported kind first."""
        kinds = ["trained", "ema"] if self.task.average is not None else ["trained"]
        return sorted(kinds, key=lambda weights: weights != self.config.optimizer.eval_weights)

    def model(self, weights: str) -> nn.Module:
        """Return the trained model with its "trained" weights or their moving average, "ema"."""
        return self.task.model(weights == "ema")

    def plain(self, model: nn.Module) -> nn.Module:
        """Return the bare student inside a value of `model`."""
        modules = self.model("trained").named_modules()
        return model.get_submodule(next(name for name, module in modules if module is self.network))

    @torch.no_grad()
    def features(self, student: Student, count: int) -> dict[str, Tensor]:
        """Return features and labels of the first evaluation batches that hold at least `count` images.

        Generated features, their targets and the teacher's features are (n, D_t), the labels (n,).
        """
        batches = []
        for number, images, labels in self.evaluation.batches():
            noise = generator(self.world.device, self.config.run.seed, "evaluation", number)
            # Of several labels of an image, only the first is used.
            first = labels if labels.dim() == 1 or labels.is_floating_point() else labels[:, 0]
            pairs = self.task.feature_pairs(student, images, first, noise)
            unknown = first.new_full((len(first),), -1, dtype=torch.int64)
            batches.append({**pairs, "labels": unknown if first.is_floating_point() else first})
            if not self.evaluation.class_names:
                batches[-1]["thumbnails"] = self._thumbnails(images)
            if sum(len(batch["labels"]) for batch in batches) >= count:
                break
        return {name: torch.cat([batch[name] for batch in batches]).cpu() for name in batches[0]}

    @torch.no_grad()
    def maps(self, model: nn.Module, count: int) -> dict[str, Tensor]:
        """Return the first evaluation images (n, 3, 96, 96) with the maps (n, D_m, h, w) of teacher and dense head."""
        _, images, _ = next(iter(self.evaluation.batches(count)))
        generated = model.dense.generate(self.plain(model), images)
        maps = {"teacher": self.task.teacher.whole_map(images), "student": generated.float()}
        return {
            "images": self._thumbnails(images, 96).cpu(),
            **{name: value.cpu().contiguous() for name, value in maps.items()},
        }

    def _thumbnails(self, images: Tensor, side: int = 48) -> Tensor:
        """Return small copies (n, 3, S, S) uint8 of evaluation images, for the report's pictures."""
        normalize = self.evaluation.normalize
        pixels = (images - normalize.shift) / normalize.scale
        small = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        return small.round().clamp(0, 255).to(torch.uint8).contiguous()

    def costs(self) -> dict[str, dict]:
        """Measure parameters, FLOPs and images/s of each output by itself."""
        model, costs = self.task.model(), {}
        with autocast(self.precision, self.world.device):
            for output, parameters in (*self.task.outputs_apart(model), *self.task.further_outputs(model)):
                batches = self.evaluation.batches(TIMED_IMAGES)
                measured = evaluate_with_cost(output, parameters, batches, self.evaluation.image_size, self.world)
                costs[output.names[0]] = {name: measured[name] for name in COSTS}
        return costs

    def head_cost(self, student: nn.Module) -> dict:
        """Return the sizes of a student's head and the FLOPs of its loss, forward, per image; empty without a head."""
        if self.task.head is None:
            return {}
        operations = loss_flops(student, self.config.optimizer.batch_size)
        size = {"feature_dim": student.head.feature_dim, "parameters": parameter_count(student.head)}
        return {"head": {**size, "loss_flops": operations}}
