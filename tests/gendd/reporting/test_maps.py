"""The picture of feature maps: its colors, and its place in the report."""

import torch

from gendd.reporting.maps import colored


def test_colors_are_the_teachers_principal_components():
    """A map that varies along one direction has one bright channel, and a student's copy the same colors."""
    torch.manual_seed(0)
    direction = torch.nn.functional.normalize(torch.rand(6), dim=0)
    teacher = torch.randn(4, 1, 5, 5) * 10 * direction.view(1, 6, 1, 1) + 0.01 * torch.randn(4, 6, 5, 5) + 3
    ours, theirs = colored(teacher, teacher[:, :, :3, :3])
    assert ours.shape == (4, 5, 5, 3) and ours.min() == 0 and ours.max() == 1
    torch.testing.assert_close(theirs, ours[:, :3, :3])
    along = (teacher * direction.view(1, 6, 1, 1)).sum(1)
    order = along.flatten().argsort()
    first = ours[..., 0].flatten()[order]
    assert (first.diff() > -1e-2).all()


def test_map_of_two_channels_leaves_a_color_dark():
    ours, _ = colored(torch.randn(2, 2, 3, 3), torch.randn(2, 2, 1, 1))
    assert ours.shape == (2, 3, 3, 3) and (ours[..., 2] == 0).all()
