"""The pooled feature and the classifier of a network with timm's interface."""

from torch import Tensor, nn


def pooled_feature(network: nn.Module, images: Tensor) -> Tensor:
    """Return the penultimate feature (B, D), the input of the classifier."""
    return network.forward_head(network.forward_features(images), pre_logits=True)


def feature_width(network: nn.Module) -> int:
    """Return the width D of `pooled_feature`."""
    return getattr(network, "head_hidden_size", None) or network.num_features


def frozen_copy(classifier: nn.Linear) -> nn.Linear:
    """Return a copy of a classifier that is not trained."""
    copy = nn.Linear(classifier.in_features, classifier.out_features, bias=classifier.bias is not None)
    copy.load_state_dict(classifier.state_dict())
    return copy.requires_grad_(False)


def has_classifier(network: nn.Module) -> bool:
    classifier = network.get_classifier()
    return isinstance(classifier, nn.Linear) and classifier.out_features > 0


def classifier_name(network: nn.Module) -> str | None:
    """Return the name of the classifier among the network's modules; None for several, as in distilled transformers."""
    return next((name for name, module in network.named_modules() if module is network.get_classifier()), None)
