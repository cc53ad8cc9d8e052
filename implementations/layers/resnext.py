"""ResNeXt (Xie et al., 2017) 64x4d by depth and width, with torchvision's names: each 3x3 in as many groups as the stem has channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from implementations.layers.backbones import EXPANSION, fixed_norm, init_resnet, normed

if TYPE_CHECKING:
    from bench.spec import Backbone

Frozen = Literal["frozen"]
GROUP_WIDTH = 4  # channels of each group in the first stage; "64x4d": 64 groups of 4
FROZEN: Frozen = "frozen"  # statistics of every norm


def grouped_normed(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """A grouped convolution and its norm of fixed statistics as one convolution; apart on the meta device, as `normed` has them."""
    if x.is_meta:
        return norm(conv(x))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    return F.conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class GroupedBottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1 with a shortcut (ResNeXt, Figure 3c); the stride stands in the 3x3."""

    def __init__(self, channels: int, inner: int, out: int, *, groups: int, step: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = fixed_norm(inner, FROZEN)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=step, padding=1, groups=groups, bias=False)
        self.bn2 = fixed_norm(inner, FROZEN)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = fixed_norm(out, FROZEN)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if channels != out or step != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride=step, bias=False), fixed_norm(out, FROZEN))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / step, W / step)."""
        out = self.relu(normed(x, self.conv1, self.bn1, FROZEN))
        out = self.relu(grouped_normed(out, self.conv2, self.bn2))
        out = normed(out, self.conv3, self.bn3, FROZEN)
        shortcut = x if self.downsample is None else normed(x, self.downsample[0], self.downsample[1], FROZEN)
        return self.relu(out.add_(shortcut))


class ResNeXt(nn.Module):
    """The body. Gives the outputs of its last stages, as `ResNet` does."""

    def __init__(self, spec: Backbone, *, outputs: int = 4) -> None:
        super().__init__()
        self.outputs, groups = outputs, spec.width
        self.conv1 = nn.Conv2d(3, spec.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = fixed_norm(spec.width, FROZEN)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = spec.width
        for i, blocks in enumerate(spec.blocks):
            inner, out = (groups * GROUP_WIDTH) << i, (spec.width << i) * EXPANSION
            first = GroupedBottleneck(channels, inner, out, groups=groups, step=1 if i == 0 else 2)
            rest = [GroupedBottleneck(out, inner, out, groups=groups, step=1) for _ in range(blocks - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))
            channels = out
        self.channels = tuple((spec.width << i) * EXPANSION for i in range(4))[-outputs:]
        init_resnet(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps at strides 4, 8, 16, 32, the last `outputs` of them."""
        x = self.maxpool(self.relu(normed(x, self.conv1, self.bn1, FROZEN)))
        maps = []
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
            maps.append(x)
        return maps[-self.outputs :]
