"""Deformable convolution against torchvision's operator, the plain convolution, and arithmetic by hand."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from implementations.layers.deformable import DeformableConv, corners, rows_of, sampled


def case(kernel, *, spread, size=(6, 9), channels=5, batch=2):
    generator = torch.Generator().manual_seed(kernel)
    x = torch.randn(batch, channels, *size, generator=generator)
    offsets = spread * torch.randn(batch, size[0] * size[1], kernel * kernel, 2, generator=generator)
    torch.manual_seed(1)
    return x, offsets, DeformableConv(channels, 7, kernel)


def theirs(x, offsets, layer):
    moved = offsets.flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])
    return rows_of(deform_conv2d(x, moved, layer.weight, layer.bias, padding=layer.kernel // 2))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("spread", [0.3, 4.0, 50.0])
def test_it_is_torchvisions(kernel, spread):
    x, offsets, layer = case(kernel, spread=spread)
    torch.testing.assert_close(layer(x, offsets), theirs(x, offsets, layer), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_its_gradients_are_torchvisions(kernel):
    x, offsets, layer = case(kernel, spread=2.0)
    grads = []
    for run in (layer, lambda x, offsets: theirs(x, offsets, layer)):
        given = (x.clone().requires_grad_(), offsets.clone().requires_grad_())
        layer.zero_grad()
        (run(*given) * torch.arange(7.0)).sum().backward()
        grads.append([one.grad for one in given] + [layer.weight.grad.clone(), layer.bias.grad.clone()])
    for ours, other in zip(*grads, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
def test_without_offsets_it_is_the_plain_convolution(kernel):
    x, offsets, layer = case(kernel, spread=0.0)
    torch.testing.assert_close(layer(x, offsets), rows_of(F.conv2d(x, layer.weight, layer.bias, padding=kernel // 2)), atol=1e-5, rtol=1e-5)


def test_whole_steps_read_the_neighbours():
    """All taps moved by one cell down and one to the right: inside, the map that is moved by one the other way."""
    x, offsets, layer = case(3, spread=0.0)
    moved = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
    inside = (slice(None), slice(1, -2), slice(1, -2))
    found = layer(x, offsets + 1.0).unflatten(1, x.shape[2:])[inside]
    wanted = F.conv2d(moved, layer.weight, layer.bias, padding=1).permute(0, 2, 3, 1)[inside]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_four_corners_by_hand():
    """One tap at cell (1, 1) of 3 x 3, moved by (0.25, -0.5): rows 1 and 2 with 0.75 and 0.25, columns 0 and 1 with a half each."""
    offsets = torch.zeros(1, 9, 1, 2)
    offsets[0, 4, 0] = torch.tensor([0.25, -0.5])
    index, weights = corners(offsets, 1, (3, 3))
    assert index[0, 4, 0].tolist() == [3, 4, 6, 7]
    assert weights[0, 4, 0].tolist() == [0.375, 0.375, 0.125, 0.125]


@pytest.mark.parametrize("far", [1e9, -1e9, float("inf")])
def test_what_lies_outside_is_zero(far):
    x, offsets, _ = case(3, spread=0.0)
    assert (sampled(x, offsets + far, 3) == 0).all()


@torch.no_grad()
def test_places_are_read_in_float32_under_autocast():
    """Offsets of several cells: rounded to bfloat16 they would move a place by a 32nd of a cell, which shows beside the product's own rounding."""
    x, offsets, layer = case(3, spread=4.0, size=(24, 24), channels=64)
    exact = theirs(x, offsets, layer)
    image, place = torch.zeros(24 * 24, dtype=torch.long), torch.arange(24 * 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, rows = layer(x, offsets), layer.at(x, offsets[0], image, place)
        rounded = layer(x, offsets.bfloat16())
    error = float((whole.float() - exact).abs().mean())
    assert float((rows.float() - exact[0]).abs().mean()) == pytest.approx(error, rel=0.2)
    assert float((rounded.float() - exact).abs().mean()) > 2 * error


def test_the_product_follows_the_precision_at_hand():
    x, offsets, layer = case(3, spread=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x, offsets).dtype == torch.bfloat16
    assert layer(x, offsets).dtype == torch.float32
