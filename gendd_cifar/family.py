"""The CIFAR family: small images."""

from gendd.family import Family, paper_protocol
from gendd_cifar.config import SmallImages

FAMILY = Family(name="gendd_cifar", data=SmallImages(), paper=paper_protocol(repeats=30, steps=100))
