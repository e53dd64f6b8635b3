"""The rows of a teacher cache: what comes back, and how large it is."""

import torch

from gendd.distillation.cached_rows import Float16Rows, Int8Maps


def test_float16_rows_equal_rounded_values():
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    rows = Float16Rows(7)
    stored = rows.encode(values)
    assert stored.shape == (5, rows.row_bytes) == (5, 14)
    assert torch.equal(rows.decode(stored), values.half().float())


def test_int8_maps_are_exact_to_half_a_step_of_each_channel():
    """One channel is a thousand times as large as the others, as in transformers."""
    values = torch.randn(6, 9, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1000.0, 1, 1, 1, 1])
    rows = Int8Maps(9, 5)
    stored = rows.encode(values.flatten(1))
    assert stored.shape == (6, rows.row_bytes) == (6, 5 * 9 + 2 * 5)
    error = (rows.decode(stored).view_as(values) - values).abs()
    step = values.abs().amax(1, keepdim=True) / 127
    assert (error <= 0.51 * step + 1e-3 * values.abs()).all()


def test_int8_maps_keep_zeros_and_show_what_does_not_fit():
    rows = Int8Maps(4, 2)
    assert not rows.decode(rows.encode(torch.zeros(1, 8))).any()
    assert not rows.decode(rows.encode(torch.full((1, 8), 1e9))).isfinite().all()
    assert not rows.decode(rows.encode(torch.full((1, 8), float("nan")))).isfinite().all()
