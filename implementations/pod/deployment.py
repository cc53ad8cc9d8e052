"""What a phase-two network is once it has learnt: plain convolutions with fixed integral dilations, norms folded in; and its graphs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import UserError
from implementations.layers.backbones import Bottleneck, ResNet
from implementations.pod.decomposition import DecomposedConv
from implementations.pod.global_scale import GlobalScaleConv, folded
from implementations.pod.model import ScaledBottleneck


@torch.no_grad()
def fused(conv: nn.Conv2d, factor: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution with a factor and a bias of each output channel folded in."""
    made = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)  # type: ignore[arg-type]  # tuples
    made.weight.copy_(conv.weight * factor.view(-1, 1, 1, 1))
    assert made.bias is not None
    made.bias.copy_(bias)
    return made


def normed_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution and its norm as one convolution."""
    return fused(conv, *folded(norm))


class Abreast(nn.Module):
    """Convolutions on the same map, their outputs side by side."""

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the outputs, joined along the channels."""
        return torch.cat([conv(x) for conv in self.convs], 1)


class PlainBlock(nn.Module):
    """A bottleneck of plain convolutions with biases; the 3x3 may be two side by side."""

    def __init__(self, block: Bottleneck | ScaledBottleneck, name: str) -> None:
        super().__init__()
        self.conv1, self.conv3 = normed_conv(block.conv1, block.bn1), normed_conv(block.conv3, block.bn3)
        self.conv2 = plain_conv2(block, name)
        down = block.downsample
        self.downsample = None if down is None else normed_conv(down[0], down[1])  # type: ignore[arg-type]  # a convolution and its norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 4 * inner, H / step, W / step)."""
        out = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def plain_conv2(block: Bottleneck | ScaledBottleneck, name: str) -> nn.Module:
    """The middle of a block; UserError for one that still predicts its scale."""
    conv, norm = block.conv2, block.bn2
    if isinstance(conv, GlobalScaleConv):
        raise UserError(f"{name}: its scale is predicted for each image, which no plain convolution does; decompose it first (an FD row)")
    if isinstance(conv, nn.Conv2d):
        return normed_conv(conv, norm)
    assert isinstance(conv, DecomposedConv)
    sizes = [part.channels for part in conv.plan.parts]
    factor, bias = (values.split(sizes) for values in folded(norm))
    parts = [fused(part, scale, shift) for part, scale, shift in zip(conv.parts, factor, bias, strict=True)]  # type: ignore[arg-type]  # convolutions
    return parts[0] if len(parts) == 1 else Abreast(parts)


class PlainResNet(nn.Module):
    """A body of plain blocks."""

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.outputs = net.outputs
        self.stem = nn.Sequential(normed_conv(net.conv1, net.bn1), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
        self.stages = nn.ModuleList(plain_stage(net.get_submodule(f"layer{i + 1}"), i + 2) for i in range(net.stages))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps of the last stages."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-self.outputs :]


def plain_stage(stage: nn.Module, number: int) -> nn.Sequential:
    """A stage (conv2 to conv5 by number) of plain blocks."""
    return nn.Sequential(*(PlainBlock(block, f"R{number}{place + 1}") for place, block in enumerate(stage.children())))  # type: ignore[arg-type]  # blocks


def plain_convolutions(detector: Any) -> Any:
    """A copy of a baseline or an FD detector that holds convolutions and nothing else where there were blocks; it computes the same.

    UserError names the block that cannot be one.
    """
    made = copy.deepcopy(detector).eval()
    made.backbone = PlainResNet(made.backbone)
    head = getattr(getattr(made, "regions", None), "head", None)
    if hasattr(head, "layer4"):
        head.layer4 = plain_stage(head.layer4, 5)
    return made
