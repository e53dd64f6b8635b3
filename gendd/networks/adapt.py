"""Adaptation of weights to a network: from a larger module, or from another image size."""

import sys
from collections import Counter

from torch import Tensor, nn

from gendd.core.errors import InvalidValue

Tensors = dict[str, Tensor]


def of_one_network(expected: Tensors, tensors: Tensors, source: str) -> tuple[Tensors, list[str]]:
    """Extract a network's tensors from a larger module, such as Lightning's, and remove their prefix.

    Other tensors, such as weights of the module's loss, are left out.

    Returns:
        The tensors and a note for the plan. Without a prefix: all tensors, unchanged, and no note.

    Raises:
        InvalidValue: several networks of the module fit equally well.
    """
    matches = _matches_by_prefix(expected, tensors)
    best = max(matches.values(), default=(0, 0))
    if best[0] <= max(matches.get("", (0, 0))[0], len(expected) // 2):
        return tensors, []
    prefix, *others = sorted(name for name, found in matches.items() if found == best)
    if others:
        raise InvalidValue(
            source,
            f"holds {1 + len(others)} networks that fit, under {' and '.join([prefix, *others])}; "
            "save the state_dict of one alone",
        )
    inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return inner, [f"those under {prefix}"]


def _matches_by_prefix(expected: Tensors, tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Count, for each prefix, the tensors whose names match the network's, and those whose shapes match too."""
    named: Counter[str] = Counter()
    fitting: Counter[str] = Counter()
    for name, value in tensors.items():
        parts = name.split(".")
        for i in range(len(parts)):
            prefix, rest = "".join(f"{part}." for part in parts[:i]), ".".join(parts[i:])
            if rest in expected:
                named[prefix] += 1
                fitting[prefix] += value.shape == expected[rest].shape
    return {prefix: (named[prefix], fitting[prefix]) for prefix in named}


def as_timm_reads(network: nn.Module, prefix: str, tensors: Tensors) -> tuple[Tensors, list[str]]:
    """Convert tensors that do not fit the network at `prefix` by the `checkpoint_filter_fn` of its timm module.

    timm renames tensors, resizes position embeddings and leaves out computed tensors.

    Returns:
        The tensors and a note on resized ones, for the plan. If all tensors fit, they are returned unchanged.
    """
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    expected = network.state_dict()
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    fits = all(name in expected and value.shape == expected[name].shape for name, value in own.items())
    if fits or not adapt:
        return tensors, []
    try:
        adapted = adapt(own, network)
    except Exception:  # timm raises many kinds of errors at tensors of another network.
        return tensors, []
    others = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    resized = [name for name, value in adapted.items() if name in own and value.shape != own[name].shape]
    more = f" and {len(resized) - 1} more" if len(resized) > 1 else ""
    notes = [f"{prefix}{resized[0]}{more} resized"] if resized else []
    return others | {prefix + name: value for name, value in adapted.items()}, notes
