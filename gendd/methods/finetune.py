"""Stage 3: all frozen but the classifier of the generated features, trained on what the head generates."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.checkpoint import load_weights
from gendd.errors import UserError
from gendd.methods.base import Ingredients, TeachingTask
from gendd.methods.gendd import build_student
from gendd.student import Student


class FinetuneTask(TeachingTask):
    """Only the student's classifier is the trainable module; the student around it stays in eval mode."""

    def __init__(self, student: Student, ingredients: Ingredients):
        super().__init__(student.classifier.requires_grad_(True), ingredients)
        self.student = student
        self.sampling = ingredients.config.sampling()

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module:
        return self.student

    def train(self, mode: bool = True) -> "FinetuneTask":
        super().train(mode)
        self.student.eval()
        return self

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            noise = self.random.generator("sample", images.device)
            generated = self.student.sample(images, noise, **self.sampling)
            targets = self.training_targets(images, labels)
        logits = self.trainable_module(generated)
        return {"loss": F.cross_entropy(logits.float(), targets), "output": logits}


def build(ingredients: Ingredients) -> FinetuneTask:
    if not ingredients.weights:
        raise UserError("--student-weights is missing: finetune goes on from a gendd run; name its folder")
    if ingredients.config.ema:
        raise UserError(f"--ema {ingredients.config.ema}: finetune trains one layer and keeps no average; set it to 0")
    if ingredients.config.optimizer == "muon":
        raise UserError("--optimizer muon: moves the backbone's weights, of which finetune trains none; choose sgd")
    student = build_student(ingredients)
    load_weights(student, ingredients.weights, "--student-weights", str(ingredients.config.student_weights))
    student.requires_grad_(False)
    return FinetuneTask(student, ingredients)
