"""Light-Head R-CNN's layers against torchvision's operators and slow references: large separable convolution, and the pooling of regions."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor

import pytest
import torch
from torch import nn
from torchvision.ops import ps_roi_pool, roi_align

from bench.meters.macs import count_macs
from implementations.layers.pooling import PyramidAlign
from implementations.layers.position_sensitive import PositionAlign
from implementations.light_head.model import LargeSeparable, LightHead, PlainPool, PositionPool, PyramidPositionAlign


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


# ---- Figure 3


def separable(channels=6, out=10, **options):
    torch.manual_seed(0)
    return LargeSeparable(channels, out, replace(LightHead(kernel=5, mid=3), **options))


@pytest.mark.parametrize("branches", [1, 2])
def test_large_separable_convolution_is_a_square_one_of_low_rank(branches):
    """k x 1 then 1 x k without anything between is one k x k kernel: sum over C_mid of the outer products; branches are summed, then ReLU."""
    net, x = separable(branches=branches), torch.randn(2, 6, 9, 11)
    total = 0
    for first, second in net.branches:
        one, other = first.weight.squeeze(), second.weight.squeeze()  # (mid, C, k), (out, mid, k)
        tall_first = first.kernel_size == (5, 1)
        kernel = torch.einsum("mci,omj->ocij", one, other) if tall_first else torch.einsum("mcj,omi->ocij", one, other)
        total = total + nn.functional.conv2d(x, kernel, padding=2)
    torch.testing.assert_close(net(x), total.relu(), atol=1e-5, rtol=1e-4)


def test_the_text_has_one_order_and_the_code_both():
    assert [[conv.kernel_size for conv in branch] for branch in separable().branches] == [[(5, 1), (1, 5)]]
    assert [[conv.kernel_size for conv in branch] for branch in separable(branches=2).branches] == [[(5, 1), (1, 5)], [(1, 5), (5, 1)]]


@pytest.mark.parametrize(("branches", "net", "stated"), [
    (2, (2048, 256, (50, 75)), (19.49, 73.1)),
    (1, (2048, 256, (50, 75)), (9.75, 36.5)),
    (2, (576, 64, (25, 38)), (2.05, 1.94)),
    (1, (576, 64, (25, 38)), (1.02, 0.97)),
])  # fmt: skip
def test_cost_of_thin_maps(branches, net, stated):
    """15 (C C_mid + C_mid C_out) weights a branch, each used at every position. Stated: millions, GMAC."""
    channels, mid, grid = net
    with torch.device("meta"):
        net = LargeSeparable(channels, 490, LightHead(mid=mid, branches=branches))
    weights = branches * 15 * (channels * mid + mid * 490)
    assert sum(p.numel() for p in net.parameters()) == weights + branches * (mid + 490)
    counted = count_macs(net, torch.empty(1, channels, *grid, device="meta")).macs
    assert counted == weights * grid[0] * grid[1]
    assert (weights / 1e6, counted / 1e9) == pytest.approx(stated, rel=0.005)


# ---- RoI warping


def rois_on(side, count=12, batch=2):
    """RoIs in pixels of a map of stride 4, some of them beyond its edge."""
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(count, 2, generator=generator) * side * 4 - 4
    image = torch.randint(0, batch, (count, 1), generator=generator).float()
    return torch.cat((image, corner, corner + 4 + torch.rand(count, 2, generator=generator) * side * 3), 1)


def touched(start, end, bin_, cells):
    """The cells that a bin of seven touches, from a RoI's side in pixels at stride 4; at least a tenth of a cell is a RoI."""
    start, extent = round(start) / 4, max(0.1, round(end) / 4 - round(start) / 4)
    first, last = start + bin_ * extent / 7, start + (bin_ + 1) * extent / 7
    return [cell for cell in range(cells) if cell + 1 > floor(first) and cell < ceil(last) and cell >= floor(first)]


def test_position_sensitive_pooling_against_a_slow_one():
    """Bin (i, j) of output d is the mean of the cells it touches on map d * 49 + i * 7 + j."""
    maps, rois = torch.randn(2, 2 * 49, 10, 12), rois_on(10)
    found = PositionPool(7, 4)([maps], rois)
    assert found.shape == (len(rois), 2, 7, 7)
    for r, (image, x0, y0, x1, y1) in enumerate(rois.tolist()):
        for i in range(7):
            for j in range(7):
                rows, columns = touched(y0, y1, i, 10), touched(x0, x1, j, 12)
                for d in range(2):
                    cells = [float(maps[int(image), d * 49 + i * 7 + j, y, x]) for y in rows for x in columns]
                    assert found[r, d, i, j].item() == pytest.approx(sum(cells) / len(cells) if cells else 0, abs=1e-5)


def test_position_sensitive_pooling_of_whole_cells_is_torchvisions():
    """Where corners are whole cells both round alike; torchvision leaves out a map's last row and column, so one more is given to it."""
    maps = torch.randn(2, 3 * 49, 16, 16).requires_grad_()
    rois = torch.cat((torch.tensor([[0.0], [1], [1]]), torch.tensor([[0.0, 0, 64, 64], [8, 4, 36, 60], [20, 20, 48, 48]])), 1)
    other = ps_roi_pool(nn.functional.pad(maps, (0, 1, 0, 1)), rois, 7, 0.25)
    mine = PositionPool(7, 4)([maps], rois)
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
    push = torch.randn(mine.shape)
    gradients = [torch.autograd.grad((one * push).sum(), maps)[0] for one in (mine, other)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_position_sensitive_alignment_is_roi_align_on_each_bins_own_map():
    """Torchvision's position-sensitive kind is of the sort that it calls aligned: half a cell is taken off."""
    maps, rois = torch.randn(2, 3 * 49, 10, 14), rois_on(10)
    every = roi_align(maps, rois, 7, 0.25, 2, aligned=True).view(len(rois), 3, 7, 7, 7, 7)  # output, own bin, bin
    own = torch.einsum("rdijij->rdij", every)
    torch.testing.assert_close(PositionAlign(7, 4)([maps], rois), own, atol=1e-5, rtol=1e-4)


def test_plain_pooling_takes_the_maximum_of_each_bin():
    maps = torch.arange(64.0).view(1, 1, 8, 8)
    found = PlainPool(2, 4)([maps], torch.tensor([[0.0, 0, 0, 28, 28], [0, 8, 8, 20, 20]]))
    assert found[0, 0].tolist() == [[27, 31], [59, 63]]  # 8 x 8 cells in four 4 x 4
    assert found[1, 0].tolist() == [[27, 29], [43, 45]]  # cells 2 to 5 each way


def test_a_pyramid_is_pooled_level_by_level():
    levels = PyramidAlign(7, (4, 8, 16, 32), 56.0)
    maps = [torch.randn(2, 49, side, side) for side in (32, 16, 8, 4)]
    rois = rois_on(32, 30)
    found = PyramidPositionAlign(levels)(maps, rois)
    level = levels.level(rois)
    assert len(level.unique()) > 2
    for i in level.unique().tolist():
        torch.testing.assert_close(found[level == i], PositionAlign(7, levels.strides[i])([maps[i]], rois[level == i]))
    assert PyramidPositionAlign(levels)(maps, torch.zeros(0, 5)).shape == (0, 1, 7, 7)


@pytest.mark.parametrize("pool", [PositionPool(7, 4), PlainPool(7, 4)])
def test_pooling_takes_bfloat16_maps(pool):
    maps = torch.randn(1, 49, 8, 8).bfloat16().requires_grad_()
    pool([maps], torch.tensor([[0.0, 0, 0, 28, 28]])).sum().backward()
    assert maps.grad.float().abs().sum() > 0
