"""The ImageNet family: what the shared programs need to know about photographs."""

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from gendd.family import Family, paper_protocol
from gendd.networks.create import Zoo
from gendd_imagenet.check import check_data
from gendd_imagenet.config import OPTIMIZER, RUN, Photographs
from gendd_imagenet.data import open_evaluation, open_training
from gendd_imagenet.models import ZOO
from gendd_imagenet.sources import class_sizes, summarize

FAMILY = Family(
    name="gendd_imagenet",
    zoo=Zoo(ZOO, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    data=Photographs(),
    optimizer=OPTIMIZER,
    run=RUN,
    summarize=summarize,
    check_data=check_data,
    open_training=open_training,
    open_evaluation=open_evaluation,
    class_sizes=class_sizes,
    paper=paper_protocol(repeats=10, steps=64),
)
