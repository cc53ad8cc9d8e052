"""R-FCN's second stage: maps for each class and place in the object, pooled place by place, and a vote (Dai et al., 2016, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from implementations.layers.heads import HeadOutput, HeadShape

SAMPLES = 2  # bilinear samples of a bin, a side


class Reduction(nn.Module):
    """A 1x1 convolution and ReLU that narrow the last stage's map."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1)
        nn.init.kaiming_uniform_(self.conv.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, H, W)."""
        return F.relu(self.conv(x))


class PositionMaps(nn.Module):
    """Score maps, side * side for each class and background, and as many for each of the 4 class-agnostic offsets."""

    def __init__(self, channels: int, width: int, shape: HeadShape) -> None:
        super().__init__()
        cells = shape.side**2
        self.reduction = Reduction(channels, width)
        self.score_maps = nn.Conv2d(width, (shape.classes + 1) * cells, 1)
        self.box_maps = nn.Conv2d(width, 4 * shape.box_classes * cells, 1)
        for layer, deviation in ((self.score_maps, 0.01), (self.box_maps, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, (classes + 1 + 4) * side * side, H, W), scores first."""
        x = self.reduction(x)
        return torch.cat((self.score_maps(x), self.box_maps(x)), 1)


@dataclass(frozen=True)
class PositionAlign:
    """Position-sensitive RoIAlign: bin (i, j) of each output reads only its own map."""

    side: int
    stride: int

    def __call__(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """The last map (B, D * side * side, H, W) and RoIs (R, 5) -> (R, D, side, side)."""
        from torchvision.ops import ps_roi_align  # here, not above: it takes as long to import as torch, and costs are counted without it

        return ps_roi_align(maps[-1].float(), rois, self.side, 1 / self.stride, SAMPLES)


class Vote(nn.Module):
    """The mean over the bins is the answer; nothing is learned."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:  # noqa: ARG002 - the interface of heads
        """(R, classes + 1 + 4, S, S) -> scores and offsets."""
        mean = features.mean((2, 3))
        return HeadOutput(mean[:, : self.classes + 1], mean[:, self.classes + 1 :])
