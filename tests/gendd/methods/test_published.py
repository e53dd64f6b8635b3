"""The method of a checkpoint file without a configuration."""

from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.methods.published import method_of


def test_method_of_a_published_head_fits_its_tensors():
    """Its sampling is the one of docs/evaluation.md."""
    head = SplitTokenHead(64, 12, token_dim=16, width=32, **PAPER | {"depth": 2})
    method = method_of({f"head.{name}": value for name, value in head.state_dict().items()})
    assert method.name == "gendd" and not method.standardizes(None)
    assert {name: value.shape for name, value in SplitTokenHead(64, 12, **method.fitting(64)).state_dict().items()} == {
        name: value.shape for name, value in head.state_dict().items()
    }
    sampling = {"sampler": "deterministic", "steps": 4, "num_samples": 1, "guidance": 2.0, "start": 800}
    assert method.sampling() == sampling
    method.check_sampling()


def test_method_of_plain_weights_is_classification():
    assert method_of({"fc.weight": None}).name == "classification"
