"""Random samples of candidates, drawn for each image from its own seed: batch mates and the number of processes change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PURPOSES = 16  # more than the draws that training makes for one image


@dataclass(frozen=True)
class Sample:
    """Chosen candidates of each image, positives first."""

    index: Tensor  # (B, S) int64
    valid: Tensor  # (B, S) bool: false where an image has too few candidates


@dataclass(frozen=True)
class Quota:
    """How many candidates an image, and at most which share of them positive."""

    count: int
    positive: float

    @property
    def positives(self) -> int:
        """The most positives of an image."""
        return int(self.count * self.positive)


def lots(seeds: Sequence[int], count: int, *, purpose: int, device: torch.device) -> Tensor:
    """Uniform numbers (B, count) in 0..1, each row from its image's seed and from what they are for.

    The first numbers of a row do not depend on the count, so that padding to batch mates changes nothing.
    """
    generator = torch.Generator()
    drawn = torch.empty(len(seeds), count)
    for row, seed in zip(drawn, seeds, strict=True):
        generator.manual_seed((seed * PURPOSES + purpose) % 2**63)
        row.uniform_(generator=generator)
    return drawn.to(device)


def sample(label: Tensor, lot: Tensor, quota: Quota) -> Sample:
    """Choose by lot: label (B, N) is 1 positive, 0 negative, -1 neither; negatives fill what the positives leave."""
    positive = label == 1
    rank = lot.masked_fill(~positive, -1)
    k = min(quota.positives, rank.shape[1])
    top, where = rank.topk(k, 1)
    score = lot.masked_fill(label != 0, -1).scatter(1, where, torch.where(top >= 0, top + 2, lot.masked_fill(label != 0, -1).gather(1, where)))
    value, index = score.topk(min(quota.count, score.shape[1]), 1)
    return Sample(index, value >= 0)
