"""The feature pyramid (FPN, section 3), torchvision's, on plain lists of maps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool


class Pyramid(nn.Module):
    """P2 to P5 of one width, and a subsampled level on top for the proposals."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(channels), width, extra_blocks=LastLevelMaxPool())

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """C2 to C5 -> P2 to P6."""
        return list(self.fpn(OrderedDict((str(i), x) for i, x in enumerate(maps))).values())
