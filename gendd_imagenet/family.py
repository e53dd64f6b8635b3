"""The ImageNet family: photographs."""

from gendd.family import Family, paper_protocol
from gendd_imagenet.config import OPTIMIZER, RUN, Photographs

FAMILY = Family(
    name="gendd_imagenet",
    data=Photographs(),
    optimizer=OPTIMIZER,
    run=RUN,
    paper=paper_protocol(repeats=10, steps=64),
)
