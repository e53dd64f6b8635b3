"""The programs of both trees, as functions of their flags."""

from functools import partial

from gendd.programs.equal_cost import equal_cost
from gendd.programs.evaluate import evaluate_checkpoint
from gendd.programs.sampling import ablate_sampling
from gendd.programs.train import train
from gendd_cifar.tree import TREE as CIFAR
from gendd_imagenet.tree import TREE as IMAGENET

train_cifar, train_imagenet = partial(train, CIFAR), partial(train, IMAGENET)
evaluate_cifar, evaluate_imagenet = partial(evaluate_checkpoint, CIFAR), partial(evaluate_checkpoint, IMAGENET)
sampling_cifar, equal_cost_cifar = partial(ablate_sampling, CIFAR), partial(equal_cost, CIFAR)
