import torch

from gendd.networks.tensors import checksum_of


def test_checksum_of_tensors_ignores_their_order_only():
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.bfloat16)}
    same = checksum_of(weights)
    assert checksum_of(dict(reversed(weights.items()))) == same
    for changes in (
        {"b": torch.tensor(4)},
        {"b": torch.tensor(3, dtype=torch.int32)},
        {"a": torch.arange(6.0).view(3, 2)},
        {"a": weights["a"].double()},
        {"d": torch.tensor(3)},
    ):
        assert checksum_of(weights | changes) != same


def test_checksum_of_half_precision_is_that_of_float32():
    weights = {"a": torch.randn(3, 2).bfloat16(), "b": torch.randn(4).half()}
    assert checksum_of(weights) == checksum_of({name: value.float() for name, value in weights.items()})
