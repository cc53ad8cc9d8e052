"""The ground truth of a batch as padded tensors, so that assignment is one matrix operation for all images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.types import Batch, Target


@dataclass(frozen=True)
class Truth:
    """Ground truth in the pixels of the network's input; G is the largest number of objects of an image, at least 1."""

    boxes: Tensor  # (B, G, 4)
    labels: Tensor  # (B, G) int64, 1..C; 0 where padded (0 is background inside detectors)
    valid: Tensor  # (B, G) bool: a real object that is no crowd
    crowd: Tensor  # (B, G) bool: a real crowd region
    seeds: tuple[int, ...]  # of each image's random draws


def collate(targets: Sequence[Target], batch: Batch) -> Truth:
    """Scale each image's boxes as the image was scaled, and pad."""
    device = batch.pixels.device
    ratio = torch.tensor([[w / ow, h / oh] for (h, w), (oh, ow) in zip(batch.sizes, batch.originals, strict=True)], device=device)
    boxes = pad_sequence([target.boxes for target in targets], batch_first=True).to(device)
    labels = pad_sequence([target.labels + 1 for target in targets], batch_first=True).to(device)
    crowd = pad_sequence([target.crowd for target in targets], batch_first=True).to(device)
    if boxes.shape[1] == 0:  # no image of the batch has an object
        boxes, labels, crowd = boxes.new_zeros(len(targets), 1, 4), labels.new_zeros(len(targets), 1), crowd.new_zeros(len(targets), 1)
    boxes = boxes * torch.cat((ratio, ratio), 1).unsqueeze(1)
    return Truth(boxes, labels, (labels > 0) & ~crowd, crowd, tuple(target.seed for target in targets))
