"""The feature pyramid (FPN, section 3) on plain lists of maps, with torchvision's names of its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class TopDown(nn.Module):
    """Lateral 1x1 convolutions, a path from coarse to fine that adds them, and a 3x3 convolution on each sum.

    torchvision's own module computes the same; importing it takes as long as importing torch, which every count of costs would wait for.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(count, width, 1)) for count in channels)
        self.layer_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(width, width, 3, padding=1)) for _ in channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """C2 to C5 -> P2 to P5, fine to coarse."""
        inner = [block(x) for block, x in zip(self.inner_blocks, maps, strict=True)]
        for i in range(len(inner) - 1, 0, -1):
            inner[i - 1] = inner[i - 1] + F.interpolate(inner[i], size=inner[i - 1].shape[-2:], mode="nearest")
        return [block(x) for block, x in zip(self.layer_blocks, inner, strict=True)]


class Pyramid(nn.Module):
    """P2 to P5 of one width, and a subsampled level on top for the proposals."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.fpn = TopDown(channels, width)

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """C2 to C5 -> P2 to P6."""
        levels = self.fpn(*maps)
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]
