"""Which anchors stand for which objects: one anchor a position, valid scale ranges, central positive areas (section 3.2). No loop over boxes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from implementations.layers.boxes import area, large_enough
from implementations.layers.matching import Matches
from implementations.layers.targets import Truth

GridSizes = tuple[tuple[int, int], ...]
LEAST_SIDE = 1e-3  # px: what no offsets can mean


@dataclass(frozen=True)
class Ranges:
    """What the labels depend on, in pixels of the network's input; the paper's own where nothing is given."""

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)  # of P3 to P7
    basic: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)  # S_l = 4 x 2^l, and the anchor's side too: areas from 32^2 to 512^2
    eta: tuple[float, float] = (1.0, 2.0)  # objects from S_l x eta_1 to S_l x eta_2 belong to level l
    central: float = 0.3  # the positive area's share of an object's length and width


@dataclass(frozen=True)
class AnchorGrid:
    """Every anchor of a batch, level by level, row by row."""

    boxes: Tensor  # (N, 4) px
    level: Tensor  # (N,) int64, 0 is P3

    @property
    def centres(self) -> Tensor:
        """(N, 2) x y in px."""
        return 0.5 * (self.boxes[:, :2] + self.boxes[:, 2:])


@lru_cache(maxsize=256)
def anchor_grid(grids: GridSizes, ranges: Ranges, device: str) -> AnchorGrid:
    """One square anchor at each position (i, j) of each map, centred at stride x (i, j): where RoIAlign too sees that position."""
    with torch.inference_mode(mode=False):  # what testing made first, training reads later
        centres = [_centres(grid, stride) for grid, stride in zip(grids, ranges.strides, strict=True)]
        half = [torch.full((len(one), 1), side / 2) for one, side in zip(centres, ranges.basic, strict=True)]
        boxes = torch.cat([torch.cat((centre - by, centre + by), 1) for centre, by in zip(centres, half, strict=True)])
        level = torch.cat([torch.full((len(one),), i) for i, one in enumerate(centres)])
        return AnchorGrid(boxes.to(device), level.to(device))


def _centres(grid: tuple[int, int], stride: int) -> Tensor:
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) * stride for side in grid), indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)


def levels_of(scale: Tensor, ranges: Ranges) -> Tensor:
    """On which levels objects of a scale (...) in px are learnt: (..., L) bool. Both ends of a range belong to it; what is outside goes to an end."""
    low, high = (torch.tensor([side * eta for side in ranges.basic], device=scale.device) for eta in ranges.eta)
    inside = (scale[..., None] >= low) & (scale[..., None] <= high)
    inside[..., 0] |= scale < low[0]
    inside[..., -1] |= scale > high[-1]
    return inside


def assign(anchors: AnchorGrid, truth: Truth, sizes: Tensor, ranges: Ranges) -> Matches:
    """The object that each anchor stands for: of those whose level and positive area hold the anchor, the smallest.

    Anchors whose centre lies in the padding, or in a crowd region and in no positive area, are neither; objects of no extent have none.
    `sizes` (B, 2) are heights and widths.
    """
    real = truth.valid & large_enough(truth.boxes, LEAST_SIDE)
    allowed = levels_of(area(truth.boxes).clamp(min=0).sqrt(), ranges)[..., anchors.level]  # (B, G, N)
    stands = allowed & _holds(truth.boxes, anchors.centres, ranges.central) & real.unsqueeze(-1)
    size = area(truth.boxes).unsqueeze(-1).expand(stands.shape).masked_fill(~stands, torch.inf)
    best, index = size.min(1)
    label = torch.isfinite(best).to(torch.int8)
    if truth.crowd.any():
        drowned = (_holds(truth.boxes, anchors.centres, 1.0) & truth.crowd.unsqueeze(-1)).any(1)
        label = label.masked_fill(drowned & (label == 0), -1)
    return Matches(index, label.masked_fill(~inside_image(anchors, sizes), -1))


def _holds(boxes: Tensor, points: Tensor, share: float) -> Tensor:
    """Whether the central part of boxes (B, G, 4), shrunk to `share` of both sides, holds points (N, 2), its edge included: (B, G, N)."""
    away = (points - 0.5 * (boxes[..., None, :2] + boxes[..., None, 2:])).abs()
    return (away <= 0.5 * share * (boxes[..., None, 2:] - boxes[..., None, :2])).all(-1)


def inside_image(anchors: AnchorGrid, sizes: Tensor) -> Tensor:
    """Which anchors have their centre in the image, not in the padding: (B, N), from sizes (B, 2) as height, width."""
    return (anchors.centres < sizes.flip(-1).unsqueeze(1)).all(-1)
