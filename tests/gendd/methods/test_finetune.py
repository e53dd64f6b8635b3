"""Finetuning: the classifier alone learns, from the features of a student in evaluation mode."""

import torch
import torch.nn.functional as F
from programs import cifar_config

from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.runs.experiment import build
from gendd_cifar.family import FAMILY

CPU = torch.device("cpu")
FLAGS = ["--dataset", "digits", "--student", "resnet8", "--teacher", "resnet8", "--teacher-weights", "random",
         "--token-dim", "32", "--width", "16", "--depth", "1", "--repeats", "2"]  # fmt: skip


def test_classifier_learns_from_features_of_a_fixed_student():
    trained = build(FAMILY, cifar_config(*FLAGS), 10, CPU).task.model().state_dict()
    config = cifar_config(*FLAGS, method="finetune")
    task = build(FAMILY, config, 10, CPU, {name: value.clone() for name, value in trained.items()}).task.train()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 0, 2])
    losses = task(Batch(images, labels, next(BatchPlan(0, 4).micro_batches(0))))
    logits = task.student.eval().classifier(task.student.sample(images))
    torch.testing.assert_close(losses["loss"], F.cross_entropy(logits, labels))
    losses["loss"].backward()
    learning = {name for name, parameter in task.student.named_parameters() if parameter.grad is not None}
    assert learning == {"classifier.weight", "classifier.bias"}
    # Among them are the statistics of batch norm, which training mode would update.
    assert all(torch.equal(value, trained[name]) for name, value in task.student.state_dict().items())
