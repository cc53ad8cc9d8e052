"""Which candidate stands for which object: by overlap, for a whole batch at once, without a loop over boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from implementations.layers.boxes import area, intersection, iou

if TYPE_CHECKING:
    from implementations.layers.targets import Truth

CROWD_SHARE = 0.5  # a candidate that lies in a crowd region by more than this share of itself is neither positive nor negative


@dataclass(frozen=True)
class Matches:
    """For each candidate the object it stands for, and whether it counts."""

    index: Tensor  # (B, N) int64 into the image's objects; meaningful where label is 1
    label: Tensor  # (B, N) int8: 1 positive, 0 negative, -1 neither


@dataclass(frozen=True)
class Thresholds:
    """Positive from `high` on, negative below `low`; with `rescue` each object's best candidates are positive whatever their overlap."""

    high: float
    low: float
    rescue: bool = False


def match(candidates: Tensor, truth: Truth, thresholds: Thresholds) -> Matches:
    """Match candidates (N, 4), shared by the images, or (B, N, 4), to each image's objects (Faster R-CNN, section 3.1.2)."""
    overlap = iou(truth.boxes, candidates).masked_fill_(~truth.valid.unsqueeze(-1), -1)  # (B, G, N)
    best, index = overlap.max(1)
    label = (best >= thresholds.high).to(torch.int8)
    label[(best < thresholds.high) & (best >= thresholds.low)] = -1
    if thresholds.rescue:
        label, index = rescue(overlap, label, index)
    if truth.crowd.any():
        inside = intersection(truth.boxes, candidates) / area(candidates).clamp(min=1e-9).unsqueeze(-2)
        drowned = (inside.masked_fill(~truth.crowd.unsqueeze(-1), 0) > CROWD_SHARE).any(1)
        label = label.masked_fill(drowned & (label == 0), -1)
    return Matches(index, label)


def rescue(overlap: Tensor, label: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Give each object all candidates that tie for its largest overlap; where two objects want one, the later has it."""
    top = overlap.amax(2, keepdim=True)
    wanted = (overlap == top) & (top > 0)
    order = torch.arange(1, overlap.shape[1] + 1, device=overlap.device).view(1, -1, 1)
    last = (wanted * order).amax(1)  # (B, N), 0: nobody wants it
    found = last > 0
    return label.masked_fill(found, 1), torch.where(found, last - 1, index)


def matched(values: Tensor, index: Tensor) -> Tensor:
    """The objects' values (B, G, ...) at each candidate's index (B, N) -> (B, N, ...)."""
    if values.dim() == 2:
        return values.gather(1, index)
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
