"""POD's global scale learner against torchvision's deformable convolution, dilated convolution, and the formula written out."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from bench.types import UserError
from implementations.pod.global_scale import GlobalScaleConv, ScalePredictor, interpolation, of_images, sampled_conv


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def deformed(x, weight, scales, stride=1):
    """The oracle: offsets that move the taps of a plain 3x3 from 1 to the scale, the same at every place."""
    batch, _, height, width = x.shape
    taps = torch.tensor([-1.0, 0.0, 1.0])
    down = ((scales[:, 0] - 1)[:, None] * taps)[:, :, None].expand(-1, 3, 3)
    right = ((scales[:, 1] - 1)[:, None] * taps)[:, None, :].expand(-1, 3, 3)
    offsets = torch.stack((down, right), 3).reshape(batch, 18, 1, 1)
    return deform_conv2d(x, offsets.expand(-1, -1, -(-height // stride), -(-width // stride)), weight, stride=stride, padding=1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(16, 16), (7, 9), (12, 5), (1, 6)])
def test_it_is_a_deformable_convolution_whose_offsets_are_one_scale(stride, size):
    x, weight = torch.randn(4, 8, *size, requires_grad=True), torch.randn(6, 8, 3, 3, requires_grad=True)
    scales = (torch.rand(4, 2) * 9 + 0.02).requires_grad_()
    mine, other = sampled_conv(x, weight, scales, stride), deformed(x, weight, scales, stride)
    torch.testing.assert_close(mine, other, atol=1e-4, rtol=0)
    push = torch.randn_like(mine)
    gradients = [torch.autograd.grad((one * push).sum(), (x, weight, scales)) for one in (mine, other)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (3, 5), (9, 2)])
def test_at_integral_scales_it_is_the_dilated_convolution(stride, dilation):
    x, weight = torch.randn(2, 8, 13, 11), torch.randn(6, 8, 3, 3) / 8
    scales = torch.tensor([dilation] * 2, dtype=torch.float32)
    wanted = F.conv2d(x, weight, stride=stride, padding=dilation, dilation=dilation)
    torch.testing.assert_close(sampled_conv(x, weight, scales, stride), wanted, atol=1e-5, rtol=0)


def test_at_integral_scales_the_gradient_is_that_of_the_deformable_convolution():
    """A scale of 1, where learning starts, must be able to move."""
    x, weight = torch.randn(2, 8, 9, 9), torch.randn(6, 8, 3, 3)
    scales = torch.ones(2, 2, requires_grad=True)
    push = torch.randn(2, 6, 9, 9)
    mine, other = (torch.autograd.grad((one(x, weight, scales) * push).sum(), scales)[0] for one in (sampled_conv, deformed))
    torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-4)
    assert (mine != 0).all()


def test_one_output_written_out():
    """y(h0, w0) of section 3.1 by four loops in double precision."""
    x, weight, (down, right) = torch.randn(1, 1, 6, 7).double(), torch.randn(1, 1, 3, 3).double(), (1.7, 2.9)
    found = sampled_conv(x, weight, torch.tensor([[down, right]], dtype=torch.float64))
    for h0, w0 in ((0, 0), (2, 3), (5, 6)):
        total = 0.0
        for i in range(3):
            for j in range(3):
                h, w = h0 + (i - 1) * down, w0 + (j - 1) * right
                for a in (math.floor(h), math.floor(h) + 1):
                    for b in (math.floor(w), math.floor(w) + 1):
                        if 0 <= a < 6 and 0 <= b < 7:
                            total += float(weight[0, 0, i, j] * x[0, 0, a, b]) * max(0, 1 - abs(h - a)) * max(0, 1 - abs(w - b))
        assert float(found[0, 0, h0, w0]) == pytest.approx(total, abs=1e-12)


def test_interpolation_weights_of_a_place_inside_sum_to_one():
    rows = interpolation(torch.tensor([1.3, 0.4]), 1, 12)
    assert rows.shape == (2, 12, 3, 12)
    assert torch.allclose(rows[:, 2:10].sum(3), torch.ones(2, 8, 3))
    assert rows[0, 0, 0].sum() == 0  # 1.3 cells above the first row
    assert rows[0, 5, 2].nonzero()[:, 0].tolist() == [6, 7]


def test_each_image_has_its_own_scale():
    x, weight = torch.randn(3, 4, 9, 9), torch.randn(5, 4, 3, 3)
    scales = torch.tensor([[1.0, 1.0], [2.5, 0.6], [4.1, 3.3]])
    together = sampled_conv(x, weight, scales)
    for place in range(3):
        torch.testing.assert_close(together[place], sampled_conv(x[place : place + 1], weight, scales[place : place + 1])[0], atol=1e-5, rtol=1e-5)


def test_the_predictor_pools_and_has_one_layer():
    predictor = ScalePredictor(6, start="he bias 1")
    x = torch.randn(2, 6, 4, 5)
    wanted = x.mean((2, 3)) @ predictor.linear.weight.T + 1
    torch.testing.assert_close(predictor(x), wanted)
    assert sum(p.numel() for p in predictor.parameters()) == 2 * 6 + 2


@pytest.mark.parametrize(("start", "bias", "spread"), [("plain", 1.0, False), ("he", 0.0, True), ("he bias 1", 1.0, True)])
def test_starts(start, bias, spread):
    layer = ScalePredictor(64, start=start).linear
    assert layer.bias.tolist() == [bias, bias]
    assert bool(layer.weight.abs().sum() > 0) == spread
    if spread:
        assert float(layer.weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.25)


def test_regions_of_an_image_share_their_mean_or_keep_their_own():
    x, members = torch.randn(5, 6, 3, 3), torch.tensor([0, 0, 2, 2, 2])
    own = ScalePredictor(6, start="he", sharing="roi")
    shared = ScalePredictor(6, start="he")
    shared.load_state_dict(own.state_dict())
    alone = own(x, members)
    torch.testing.assert_close(own(x), alone)
    torch.testing.assert_close(shared(x, members)[:2], alone[:2].mean(0).expand(2, 2))
    torch.testing.assert_close(shared(x, members)[2:], alone[2:].mean(0).expand(3, 2))
    assert of_images(alone, members)[1].tolist() == [0, 0]
    assert shared(x[:0], members[:0]).shape == (0, 2)


def test_the_module_starts_as_the_plain_convolution_with_its_norm():
    plain, norm = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight)
    x = torch.randn(2, 8, 9, 10)
    wanted = norm(plain(x))
    module = GlobalScaleConv(plain)
    assert module.weight is plain.weight
    torch.testing.assert_close(module(x, norm), wanted, atol=1e-5, rtol=1e-5)


def test_the_scale_learns_from_where_it_starts():
    """A target that is the convolution at scale (2.4, 1.6): gradient descent on the predictor alone comes near it."""
    x = F.interpolate(torch.randn(4, 3, 6, 6), size=(24, 24), mode="bilinear")
    weight = torch.randn(3, 3, 3, 3)
    scales = torch.ones(1, 2, requires_grad=True)
    wanted = sampled_conv(x, weight, torch.tensor([[2.4, 1.6]]).expand(4, 2))
    optimizer = torch.optim.Adam([scales], lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        (sampled_conv(x, weight, scales.expand(4, 2)) - wanted).square().mean().backward()
        optimizer.step()
    assert scales[0].tolist() == pytest.approx([2.4, 1.6], abs=0.05)


def test_options_that_do_not_exist_are_said():
    with pytest.raises(UserError, match=r"start is 'cold'; allowed: 'plain'"):
        ScalePredictor(4, start="cold")
    with pytest.raises(UserError, match=r"sharing is 'world'"):
        ScalePredictor(4, sharing="world")


def seconds(step, times):
    """The least processor time of a step: other programs on the machine lengthen it, nothing shortens it."""
    step()
    found = []
    for _ in range(times):
        began = time.process_time()
        step()
        found.append(time.process_time() - began)
    return min(found)


def test_it_is_at_least_four_times_as_fast_as_the_deformable_convolution():
    """64 channels at 16 x 16, batch 16, forward and backward."""
    x = torch.randn(16, 64, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, scales = torch.randn(64, 64, 3, 3, requires_grad=True), (torch.rand(16, 2) * 3).requires_grad_()
    ours = seconds(lambda: sampled_conv(x, weight, scales).sum().backward(), 5)
    theirs = seconds(lambda: deformed(x, weight, scales).sum().backward(), 2)
    assert ours < theirs / 4


def test_settings_are_values():
    from implementations.pod.model import Pod

    assert replace(Pod("c4", "gsl"), sharing="roi").sharing == "roi"
    with pytest.raises(UserError, match=r"Pod: detector is 'ssd'; allowed: 'c4', 'fpn', 'retina'; give one of them"):
        Pod("ssd", "gsl")
