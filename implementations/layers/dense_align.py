"""RoIAlign as two matrix products: exact, and on small maps many times as fast on a CPU as torchvision's loop, above all backwards.

Bilinear sampling is separable and linear, so a RoI's bins are `rows @ map @ columns` with two small matrices of weights. The cost grows with
the map's area, so large maps go to torchvision's operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LARGEST = 6000  # positions of a map up to which the products are the faster way: 60 x 80 still gains threefold, 200 x 304 loses


class Take(torch.autograd.Function):
    """Rows of x at places that are all different: its gradient is a plain copy, where that of indexing adds element by element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        """Rows (N, ...) at places (M,) int64, no two alike -> (M, ...)."""
        ctx.save_for_backward(places)
        ctx.rows = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Put the gradient's rows where they came from."""
        (places,) = ctx.saved_tensors
        grad = grads[0].contiguous()
        return grad.new_zeros((ctx.rows, *grad.shape[1:])).index_copy_(0, places, grad), None


def take(x: Tensor, places: Tensor) -> Tensor:
    """Rows of x at places that are all different."""
    return Take.apply(x, places)  # type: ignore[no-any-return, no-untyped-call]


def weights(start: Tensor, extent: Tensor, *, side: int, length: int, samples: int) -> Tensor:
    """How much of each of `length` cells each of `side` bins takes: (R, side, length), from starts and extents (R,) in cells.

    A sample beyond one cell outside the map counts zero; closer ones are clamped to it (torchvision's rule).
    """
    steps = (torch.arange(side * samples, device=start.device, dtype=start.dtype) + 0.5) / samples
    points = start[:, None] + steps * (extent / side)[:, None]  # (R, side * samples)
    inside = (points >= -1) & (points <= length)
    cells = torch.arange(length, device=start.device, dtype=start.dtype)
    taken = (1 - (points.clamp(0, length - 1)[:, :, None] - cells).abs()).clamp_min_(0) * inside[:, :, None]
    return taken.view(len(start), side, samples, length).mean(2)


def _slots(images: Tensor, batch: int) -> tuple[Tensor, int]:
    """For RoIs in any order, the place of each in a (batch, most) grid, and `most`."""
    order = torch.argsort(images, stable=True)
    counts = torch.bincount(images, minlength=batch)
    most = int(counts.max())
    first = counts.cumsum(0) - counts
    place = torch.empty_like(images)
    place[order] = torch.arange(len(images), device=images.device) - first[images[order]]
    return images * most + place, most


def _products(features: Tensor, slots: Tensor, most: int, matrices: tuple[Tensor, Tensor]) -> Tensor:
    batch, channels, height, width = features.shape
    rows, columns = matrices  # (R, S, H), (R, S, W)
    side = rows.shape[1]
    spread_rows = rows.new_zeros(batch * most, side, height).index_copy_(0, slots, rows).view(batch, most * side, height)
    spread_columns = columns.new_zeros(batch * most, side, width).index_copy_(0, slots, columns)
    flat = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    strips = torch.bmm(spread_rows, flat).view(batch * most * side, width, channels)
    bins = torch.bmm(spread_columns.repeat_interleave(side, 0), strips)  # (batch * most * S, S, C)
    return take(bins.view(batch * most, side, side, channels), slots).permute(0, 3, 1, 2)


def align(features: Tensor, rois: Tensor, side: int, scale: float, samples: int) -> Tensor:
    """RoIAlign (not 'aligned', torchvision's default) of a map (B, C, H, W) at RoIs (R, 5) image x1 y1 x2 y2 -> (R, C, side, side)."""
    if features.device.type != "cpu" or features.shape[2] * features.shape[3] > LARGEST or not len(rois):
        from torchvision.ops import roi_align  # here, not above: it takes as long to import as torch, and costs are counted without it

        return roi_align(features, rois, (side, side), scale, samples)
    start, end = rois[:, 1:3] * scale, rois[:, 3:5] * scale
    extent = (end - start).clamp_min(1)
    slots, most = _slots(rois[:, 0].long(), features.shape[0])
    columns = weights(start[:, 0], extent[:, 0], side=side, length=features.shape[3], samples=samples).to(features.dtype)
    rows = weights(start[:, 1], extent[:, 1], side=side, length=features.shape[2], samples=samples).to(features.dtype)
    return _products(features, slots, most, (rows, columns))
