"""Boxes: overlap, offsets and clipping. A box is x1 y1 x2 y2 in pixels; everything takes any leading dimensions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)  # a decoded side is at most 62.5 times its reference: exp would overflow early in training


def area(boxes: Tensor) -> Tensor:
    """Square pixels, (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Square pixels that each pair shares: (..., N, 4), (..., M, 4) -> (..., N, M)."""
    ax1, ay1, ax2, ay2 = (part.unsqueeze(-1) for part in a.unbind(-1))
    bx1, by1, bx2, by2 = (part.unsqueeze(-2) for part in b.unbind(-1))
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    return torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0).mul_(width)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each pair, 0..1; 0 where both are empty: (..., N, 4), (..., M, 4) -> (..., N, M)."""
    shared = intersection(a, b)
    union = (area(a).unsqueeze(-1) + area(b).unsqueeze(-2)).sub_(shared)
    return shared.div_(union.clamp_(min=1e-9))


def encode(boxes: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Offsets dx dy dw dh of `boxes` from `references`, times weights (Faster R-CNN, section 3.1.2)."""
    size = references[..., 2:] - references[..., :2]
    wanted = boxes[..., 2:] - boxes[..., :2]
    shift = ((boxes[..., :2] + 0.5 * wanted) - (references[..., :2] + 0.5 * size)) / size
    return torch.cat((shift, torch.log(wanted / size)), -1) * boxes.new_tensor(weights)


def decode(deltas: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """The boxes that offsets from `references` mean; the inverse of `encode` up to the limit on growth."""
    size = references[..., 2:] - references[..., :2]
    centre = references[..., :2] + 0.5 * size
    scaled = deltas / deltas.new_tensor(weights)
    centre = scaled[..., :2] * size + centre
    half = 0.5 * torch.exp(scaled[..., 2:].clamp(max=MAX_LOG_RATIO)) * size
    return torch.cat((centre - half, centre + half), -1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes cut at their image: boxes (..., 4), sizes (..., 2) as height, width, broadcast against the boxes."""
    limit = torch.cat((sizes.flip(-1), sizes.flip(-1)), -1)
    return torch.minimum(boxes.clamp(min=0), limit)


def large_enough(boxes: Tensor, least: float) -> Tensor:
    """Which boxes have both sides at least that long, in pixels."""
    return ((boxes[..., 2] - boxes[..., 0]) >= least) & ((boxes[..., 3] - boxes[..., 1]) >= least)
