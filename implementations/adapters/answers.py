"""What foreign detectors answer, made ours: labels from 0 without background, boxes inside the image, best first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.types import Detections

DROPPED = -1  # in a label map: what is no class of the data (background, a gap in the numbering)


def shifted(outputs: int) -> tuple[int, ...]:
    """The label map of a framework whose label 0 is background: 1..C become 0..C-1."""
    return (DROPPED, *range(outputs - 1))


def answer(boxes: Tensor, scores: Tensor, labels: Tensor, *, size: tuple[int, int], label_map: Sequence[int] = ()) -> Detections:
    """One image's detections from a framework's boxes (N, 4) x1 y1 x2 y2 in pixels of the image, scores (N,) and labels (N,).

    `size`: (height, width) of the image as given. `label_map`: ours for each of theirs, DROPPED for what is left out; empty: they are ours.
    """
    labels = labels.long()
    if label_map:
        labels = torch.tensor(label_map, device=labels.device)[labels]
    kept = labels >= 0
    boxes, scores, labels = boxes[kept].float(), scores[kept].float(), labels[kept]
    order = scores.argsort(descending=True, stable=True)
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    return Detections(boxes[order].clamp(min=0).minimum(limit), scores[order].clamp(0, 1), labels[order])
