"""RoIAlign as a weighted sum of rows of a table: a position of a map whose channels lie last in memory is a row.

Each bin is the mean of samples x samples bilinear ones, of four positions each: 16 rows for the papers' 2 x 2. `embedding_bag` sums rows of a table
at the speed of memory; torchvision's operator walks the map channel by channel (on one core 600 RoIs of a 200 x 304 map with 256 channels, 7 x 7:
10 ms against 298).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from implementations.layers.pooling import SAMPLES, PyramidAlign


def neighbours(start: Tensor, extent: Tensor, *, side: int, length: int, samples: int) -> tuple[Tensor, Tensor]:
    """Of each sample along one axis the two positions it lies between and their weights: both (R, side, samples * 2).

    `start` and `extent` (R,) are the RoIs' in cells. As in torchvision, what lies beyond one cell outside the map counts as nothing.
    """
    grid = torch.arange(side, device=start.device)[:, None] + (torch.arange(samples, device=start.device) + 0.5) / samples  # (side, samples)
    place = start[:, None, None] + grid * (extent / side)[:, None, None]
    inside = (place >= -1) & (place <= length)
    place = place.clamp(0, length - 1)
    low = place.floor()
    share = place - low
    positions = torch.stack((low, (low + 1).clamp(max=length - 1)), 3).long()
    weights = torch.stack((1 - share, share), 3) * inside[..., None]
    return positions.flatten(2), weights.flatten(2)


def row_align(features: Tensor, rois: Tensor, side: int, scale: float, samples: int) -> Tensor:
    """RoIAlign (not 'aligned', torchvision's default) of a map (B, C, H, W) at RoIs (R, 5) image x1 y1 x2 y2 -> (R, C, side, side), channels last.

    For inference: sums of bfloat16 rows are taken in float32.
    """
    _, channels, height, width = features.shape
    count = len(rois)
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    start, extent = rois[:, 1:3] * scale, ((rois[:, 3:5] - rois[:, 1:3]) * scale).clamp_min(1)
    x, x_weights = neighbours(start[:, 0], extent[:, 0], side=side, length=width, samples=samples)
    y, y_weights = neighbours(start[:, 1], extent[:, 1], side=side, length=height, samples=samples)
    first = rois[:, 0].long() * (height * width)
    rows = first[:, None, None, None, None] + y[:, :, None, :, None] * width + x[:, None, :, None, :]  # (R, side, side, 2 * samples, 2 * samples)
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :] / samples**2
    shape = (count * side * side, -1) if count else (0, 4 * samples**2)
    bins = F.embedding_bag(rows.view(shape), table, mode="sum", per_sample_weights=weights.reshape(shape).to(table.dtype))
    return bins.view(count, side, side, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class RowAlign:
    """RoIAlign on one map of that stride."""

    side: int
    stride: int

    def __call__(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps (the last is read) and RoIs (R, 5) -> (R, C, side, side)."""
        return row_align(maps[-1], rois, self.side, 1 / self.stride, SAMPLES)


@dataclass(frozen=True)
class PyramidRowAlign(PyramidAlign):
    """RoIAlign on the level that suits each RoI."""

    def __call__(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps, one for each stride or more, and RoIs (R, 5) -> (R, C, side, side)."""
        level = self.level(rois)
        found = maps[0].new_empty(len(rois), self.side, self.side, maps[0].shape[1])
        for i, stride in enumerate(self.strides):
            where = (level == i).nonzero()[:, 0]
            found[where] = row_align(maps[i], rois[where], self.side, 1 / stride, SAMPLES).permute(0, 2, 3, 1)
        return found.permute(0, 3, 1, 2)
