"""The agreement of an exported file with the original, by hand."""

import pytest
import torch

from gendd.export.check import Agreement


def test_agreement_of_known_results():
    """The second image has another most likely class, and its two results are orthogonal."""
    original = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    exported = torch.tensor([[6.0, 8.0, 0.0], [0.0, 2.0, 0.0]])
    found = Agreement.of(original, exported, is_logits=True)
    assert (found.images, found.difference, found.greatest) == (2, 4, 4)
    assert (found.cosine, found.top1) == (pytest.approx(0.5), 50)
    assert Agreement.of(original, exported, is_logits=False).top1 is None
