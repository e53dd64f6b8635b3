"""The teacher's probabilities alone, without labels: T^2 KL(teacher || student) at temperature T."""

import torch.nn.functional as F
from torch import Tensor

from gendd.methods.base import Ingredients, TeachingTask


class KLTask(TeachingTask):
    def __init__(self, ingredients: Ingredients):
        super().__init__(ingredients.student, ingredients)
        self.temperature = ingredients.config.temperature

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        taught = self.teacher_classifier(self.training_feature(images)).float()
        logits = self.trainable_module(images)
        teacher, student = ((values.float() / self.temperature).log_softmax(-1) for values in (taught, logits))
        loss = self.temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return {"loss": loss, "output": logits}


def build(ingredients: Ingredients) -> KLTask:
    return KLTask(ingredients)
