"""The functions of this family that the shared programs call. `gendd.family.Access` describes them."""

from gendd_cifar.check import check_data
from gendd_cifar.data import open_evaluation, open_training
from gendd_cifar.sources import class_sizes, summarize

__all__ = ["check_data", "class_sizes", "open_evaluation", "open_training", "summarize"]
