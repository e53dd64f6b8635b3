"""The CIFAR family: what the shared programs need to know about small images."""

from gendd.family import Family, paper_protocol
from gendd.networks.create import Zoo
from gendd_cifar.check import check_data
from gendd_cifar.config import SmallImages
from gendd_cifar.data import open_evaluation, open_training
from gendd_cifar.models import ZOO
from gendd_cifar.sources import class_sizes, summarize

CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)

FAMILY = Family(
    name="gendd_cifar",
    zoo=Zoo(
        {name: f"cifar_{name}" for name in ZOO},
        CIFAR100_MEAN,
        CIFAR100_STD,
        small_stems=True,
        remedy="bash sh/fetch_pretrained_teachers.sh fetches it, bash sh/train_cifar100_teacher.sh {name} trains it",
    ),
    data=SmallImages(),
    summarize=summarize,
    check_data=check_data,
    open_training=open_training,
    open_evaluation=open_evaluation,
    class_sizes=class_sizes,
    paper=paper_protocol(repeats=30, steps=100),
)
