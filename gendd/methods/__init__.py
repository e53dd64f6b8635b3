"""Training methods, one per file: the options, the requirements, the task and the outputs of its model."""

from gendd.core.errors import InvalidValue, unknown_name
from gendd.core.own_code import imported
from gendd.methods.base import Method
from gendd.methods.classification import Classification
from gendd.methods.dist import DIST
from gendd.methods.dkd import DKD
from gendd.methods.feature import Feature
from gendd.methods.finetune import Finetune
from gendd.methods.gendd import GenDD
from gendd.methods.ikl import IKL
from gendd.methods.kd import KD
from gendd.methods.kd_head import KDHead
from gendd.methods.kl import KL
from gendd.methods.pretrain import Pretrain
from gendd.methods.regression import Regression
from gendd.methods.simkd import SimKD
from gendd.methods.srd import SRD
from gendd.methods.vkd import VkD

# The methods of the programs, in the order of reports.
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
        KDHead,
        Regression,
        Pretrain,
        GenDD,
        Finetune,
    )
}


def get_method(name: str) -> type[Method]:
    """Return the method of this name, or the user's class package.module:Class.

    Raises:
        InvalidValue: the name is unknown (the message lists the nearest names), or the class cannot be a method.
    """
    if ":" in name:
        return _own_method(name)
    if name not in METHODS:
        raise unknown_name(name, METHODS)
    return METHODS[name]


def _own_method(name: str) -> type[Method]:
    kind = imported(name, "Class")
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise InvalidValue(name, "is not a class that derives from gendd.methods.base.Method; derive it from Method")
    if kind in METHODS.values():
        return kind
    if kind.build is Method.build:
        raise InvalidValue(name, "does not define build(self, context); add it, so that it returns the task")
    try:
        kind()
    except TypeError as error:
        raise InvalidValue(name, f"cannot be created without arguments ({error}); give each field a default") from error
    # The run folder records this name, and later programs find the class by it.
    kind.name = name
    return kind
