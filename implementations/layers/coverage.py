"""Can a detector learn these objects at all? How many have a candidate that training counts as positive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.types import Batch, Target
from implementations.layers.boxes import iou
from implementations.layers.images import padded, resized
from implementations.layers.matching import match
from implementations.layers.targets import Truth, collate

if TYPE_CHECKING:
    from implementations.layers.two_stage import TwoStage


def positive_candidates(detector: TwoStage, targets: Sequence[Target], size: tuple[int, int]) -> float:
    """Share 0..1 of the objects of images of `size` for which an anchor is a positive of the proposal network."""
    anchors, truth = laid_out(detector, targets, size)
    matches = match(anchors, truth, detector.config.rpn.thresholds)
    places = torch.arange(truth.boxes.shape[1]).view(1, -1, 1)
    stands = (matches.index.unsqueeze(1) == places) & (matches.label == 1).unsqueeze(1)  # (B, G, N)
    return share(stands.any(2), truth)


def near_candidates(detector: TwoStage, targets: Sequence[Target], size: tuple[int, int], overlap: float) -> float:
    """Share 0..1 of the objects that some anchor overlaps at least that much, the rescue left out."""
    anchors, truth = laid_out(detector, targets, size)
    return share(iou(truth.boxes, anchors).amax(2) >= overlap, truth)


def share(met: Tensor, truth: Truth) -> float:
    """Share of the valid objects that are met."""
    return float((met & truth.valid).sum() / truth.valid.sum().clamp(min=1))


def laid_out(detector: TwoStage, targets: Sequence[Target], size: tuple[int, int]) -> tuple[Tensor, Truth]:
    """The detector's anchors (N, 4) on images of `size`, and the objects in the same pixels."""
    config = detector.config
    inside = resized(size, config.shorter, config.longer)
    canvas = (padded(inside[0]), padded(inside[1]))
    grids = [tuple(-(-side // stride) for side in canvas) for stride in config.strides]
    grids += [tuple(-(-side // 2) for side in grids[-1])]  # the pyramid's top
    levels = tuple((grid[0], grid[1]) for grid in grids[: len(config.rpn.anchor_sizes)])
    anchors = detector.rpn.anchors(levels, canvas, torch.device("cpu"))
    batch = Batch(torch.empty(0, 3, *canvas), (inside,) * len(targets), (size,) * len(targets))
    return anchors, collate(targets, batch)
