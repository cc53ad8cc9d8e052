"""RoIAlign by matrix products against torchvision's operator, forwards and backwards."""

import pytest
import torch
from torchvision.ops import roi_align

from implementations.layers import dense_align


def rois(count, batch, size, generator):
    corner = torch.rand(count, 2, generator=generator) * size * 1.2 - size * 0.1
    extent = torch.exp(torch.rand(count, 2, generator=generator) * 5)
    image = torch.randint(0, batch, (count, 1), generator=generator).float()
    return torch.cat([image, corner, corner + extent], 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_equals_the_operator_and_its_gradient(seed, samples):
    generator = torch.Generator().manual_seed(seed)
    boxes = rois(40, 3, 96, generator)
    maps = torch.randn(3, 16, 24, 20, generator=generator)
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    mine = dense_align.align(ours, boxes, 7, 0.25, samples)
    other = roi_align(theirs, boxes, (7, 7), 0.25, samples)
    assert torch.allclose(mine, other, atol=1e-4)
    push = torch.randn(mine.shape, generator=generator)
    (mine * push).sum().backward()
    (other * push).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-3)


def test_a_constant_map_stays_constant_and_a_far_box_is_zero():
    boxes = torch.tensor([[0, 4.0, 4.0, 20.0, 20.0], [0, 900.0, 900.0, 990.0, 990.0]])
    found = dense_align.align(torch.full((1, 1, 8, 8), 3.0), boxes, 7, 0.25, 2)
    assert torch.allclose(found[0], torch.full((1, 7, 7), 3.0))
    assert found[1].abs().max() == 0


def test_no_boxes_give_no_features():
    assert dense_align.align(torch.zeros(1, 4, 8, 8), torch.zeros(0, 5), 7, 0.25, 2).shape == (0, 4, 7, 7)
