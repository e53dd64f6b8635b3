"""Training methods, each a file: its options, what it needs, the task that it builds, and how its model classifies."""

from gendd.errors import unknown_name
from gendd.methods.base import Method
from gendd.methods.classification import Classification
from gendd.methods.dist import DIST
from gendd.methods.dkd import DKD
from gendd.methods.feature import Feature
from gendd.methods.finetune import Finetune
from gendd.methods.gendd import GenDD
from gendd.methods.ikl import IKL
from gendd.methods.kd import KD
from gendd.methods.kl import KL
from gendd.methods.pretrain import Pretrain
from gendd.methods.regression import Regression
from gendd.methods.simkd import SimKD
from gendd.methods.srd import SRD
from gendd.methods.vkd import VkD

# Those that the programs know, in the order of reports.
METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Classification,
        KD,
        DKD,
        IKL,
        KL,
        DIST,
        Feature,
        SRD,
        VkD,
        SimKD,
        Regression,
        Pretrain,
        GenDD,
        Finetune,
    )
}


def get_method(name: str) -> type[Method]:
    """Raises Refusal with the nearest known names."""
    if name not in METHODS:
        raise unknown_name(name, METHODS)
    return METHODS[name]
