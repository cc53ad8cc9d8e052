"""Features of RoIs from one map or from the levels of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from implementations.layers.boxes import area
from implementations.layers.dense_align import align, take

SAMPLES = 2  # bilinear samples of a bin, a side


@dataclass(frozen=True)
class Align:
    """RoIAlign on one map of that stride."""

    side: int
    stride: int

    def __call__(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps (the last is read) and RoIs (R, 5) -> (R, C, side, side)."""
        return align(maps[-1], rois, self.side, 1 / self.stride, SAMPLES)


def _in_order(parts: Sequence[Tensor], places: Tensor) -> Tensor:
    """The RoIs of all levels (R, C, side, side), each from its place in the parts; the channels stay last in memory where all parts have them so."""
    if all(part.is_contiguous(memory_format=torch.channels_last) for part in parts if len(part)):
        return take(torch.cat([part.permute(0, 2, 3, 1) for part in parts]), places).permute(0, 3, 1, 2)
    return take(torch.cat(parts), places)


@dataclass(frozen=True)
class PyramidAlign:
    """RoIAlign on the level that suits each RoI (FPN, equation 1): side `canonical` goes to the map of stride 16."""

    side: int
    strides: tuple[int, ...]
    canonical: float  # px

    def level(self, rois: Tensor) -> Tensor:
        """The level's place in `strides` for each RoI (R,), int64."""
        octave = torch.floor(torch.log2(area(rois[:, 1:]).sqrt() / self.canonical) + 1e-6)
        return (octave + self.strides.index(16)).clamp(0, len(self.strides) - 1).long()

    def __call__(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps, one for each stride or more, and RoIs (R, 5) -> (R, C, side, side)."""
        level = self.level(rois)
        order = [(level == i).nonzero()[:, 0] for i in range(len(self.strides))]
        found = [
            align(maps[i], rois[where], self.side, 1 / stride, SAMPLES) for i, (where, stride) in enumerate(zip(order, self.strides, strict=True))
        ]
        back = torch.empty_like(level).scatter_(0, torch.cat(order), torch.arange(len(level), device=level.device))
        return _in_order(found, back)
