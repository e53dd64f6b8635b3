"""This tree for the shared programs."""

from gendd.networks import Names
from gendd.programs.tree import Tree
from gendd_cifar.config import CifarEvaluateConfig, CifarTrainConfig
from gendd_cifar.data import open_data, summarize
from gendd_cifar.models import ZOO

CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)

TREE = Tree(
    name="gendd_cifar",
    names=Names({name: f"cifar_{name}" for name in ZOO}, CIFAR100_MEAN, CIFAR100_STD),
    train_config=CifarTrainConfig,
    evaluate_config=CifarEvaluateConfig,
    summarize=summarize,
    open_data=open_data,
)
