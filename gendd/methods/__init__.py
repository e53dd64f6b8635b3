"""Training methods, each a file that builds a `Task`. The programs know those in `METHODS`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gendd.config import HeadConfig, SamplingConfig, field_names
from gendd.errors import unknown_name
from gendd.methods import (
    classification,
    dist,
    dkd,
    feature,
    finetune,
    gendd,
    ikl,
    kd,
    kl,
    pretrain,
    regression,
    simkd,
    srd,
    vkd,
)
from gendd.methods.base import Task, TaskContext

HEAD, SAMPLING = set(field_names(HeadConfig)), set(field_names(SamplingConfig))
MIXED = {"contraction", "feature_mixup"}
WEIGHTED = {"temperature", "alpha", "beta"}
DECOUPLED = {*WEIGHTED, "distill_warmup_epochs"}
DISTILLED = {"label_share", "logit_standardization", *DECOUPLED}
NETWORK = {"token_dim", "width", "depth", "trunk_depth", "prediction", "noise_path"}


@dataclass(frozen=True)
class Method:
    """
    Args:
        unlabeled: whether it can do without any label (--unlabeled); labeled: whether it ever reads one.
        feature: when its training reads the teacher's pooled feature, which --teacher-cache holds; without labels:
            where the teacher stands in for those that are not known.
        reads: the flags among those of single methods that its training depends on.
    """

    build: Callable[[TaskContext], Task]
    needs_teacher: bool = True
    unlabeled: bool = False
    labeled: bool = True
    feature: Literal["always", "without labels", "never"] = "never"
    reads: frozenset[str] = frozenset()

    def reads_feature(self, lacks_labels: bool) -> bool:
        return self.feature == "always" or (lacks_labels and self.feature == "without labels")

    @property
    def ignores(self) -> set[str]:
        """Flags that change nothing in what it trains."""
        return (HEAD | SAMPLING | MIXED | DISTILLED) - self.reads


METHODS = {
    "classification": Method(classification.build, needs_teacher=False),
    "kd": Method(kd.build, feature="always", reads=frozenset({"temperature", "label_share", "logit_standardization"})),
    "dkd": Method(dkd.build, feature="always", reads=frozenset({*DECOUPLED, "logit_standardization"})),
    "ikl": Method(ikl.build, feature="always", reads=frozenset(DECOUPLED)),
    "kl": Method(kl.build, unlabeled=True, labeled=False, feature="always", reads=frozenset({"temperature"})),
    "dist": Method(dist.build, feature="always", reads=frozenset(WEIGHTED)),
    "feature": Method(feature.build, feature="always", reads=frozenset({"beta"})),
    "srd": Method(srd.build, feature="always", reads=frozenset({"beta"})),
    "vkd": Method(vkd.build, feature="always", reads=frozenset({"beta"})),
    "simkd": Method(simkd.build, unlabeled=True, feature="always"),
    "regression": Method(regression.build, unlabeled=True, feature="always", reads=frozenset(NETWORK | MIXED)),
    "pretrain": Method(pretrain.build, unlabeled=True, feature="without labels"),
    "gendd": Method(gendd.build, unlabeled=True, feature="always", reads=frozenset(HEAD | MIXED)),
    "finetune": Method(finetune.build, unlabeled=True, feature="without labels", reads=frozenset(HEAD | SAMPLING)),
}


def get_method(name: str) -> Method:
    """Raises UserError with the nearest known names."""
    if name not in METHODS:
        raise unknown_name("--method", name, METHODS)
    return METHODS[name]
