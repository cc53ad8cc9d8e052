"""The staggered feature pyramid (section 3.1): P2 to P7 in training, P3 to P7 at inference, where P2 need not even be built."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

COARSEST = 5  # the level of C5


class StaggeredPyramid(nn.Module):
    """FPN on C2 to C5 or on C3 to C5, with P6 by a stride-2 convolution on C5 and P7 by ReLU and another on P6 (RetinaNet's modification)."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        """`channels` of the maps there are, the last of them C5."""
        super().__init__()
        self.levels = range(COARSEST + 1 - len(channels), COARSEST + 1)
        for level, count in zip(self.levels, channels, strict=True):
            self.add_module(f"lateral{level}", nn.Conv2d(count, width, 1))
            self.add_module(f"output{level}", nn.Conv2d(width, width, 3, padding=1))
        self.output6 = nn.Conv2d(channels[-1], width, 3, stride=2, padding=1)
        self.output7 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        he(self)

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """C2 (or C3) to C5 -> P2 (or P3) to P7. Given fewer maps than it was built for, it leaves the finest levels out."""
        levels = self.levels[-len(maps) :]
        sums = [self.get_submodule(f"lateral{level}")(x) for level, x in zip(levels, maps, strict=True)]
        for i in range(len(sums) - 1, 0, -1):
            sums[i - 1] = sums[i - 1] + F.interpolate(sums[i], size=sums[i - 1].shape[-2:], mode="nearest")
        p6 = self.output6(maps[-1])
        return [*(self.get_submodule(f"output{level}")(x) for level, x in zip(levels, sums, strict=True)), p6, self.output7(F.relu(p6))]


def he(module: nn.Module) -> None:
    """He initialisation of convolutions and linear layers, biases zero: FPN and T-head (section 4.1)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
