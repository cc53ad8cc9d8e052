"""The Xception-like net of Light-Head R-CNN, Table 7, in the readings that its words allow, and its pretraining as a classifier.

The table gives channels, strides and repetitions, and 145M for the whole; the text says "we replace all convolution layer in bottle-neck structure
with channel-wise convolution" and that there is no pre-activation. The block itself is not drawn and its code was never released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Batch, UserError
from implementations.layers.backbones import Norm, fixed_norm
from implementations.layers.images import normalise
from implementations.layers.parts import Part

if TYPE_CHECKING:
    from bench.spec import Xception

NARROWING = 4  # output channels over inner channels of a bottleneck


@dataclass(frozen=True)
class Reading:
    """One way to fill the bottleneck 1x1, 3x3, 1x1 and its striding entry."""

    early: bool = False  # the stride stands in the first 1x1; else in the 3x3
    middle: Literal["depthwise", "separable"] = "depthwise"
    ends: Literal["pointwise", "separable"] = "pointwise"  # of the first and last convolution
    entry: Literal["concat", "pointwise", "separable"] = "concat"  # shortcut of a striding block: the pooled input beside, or a projection added


READINGS: MappingProxyType[str, Reading] = MappingProxyType(
    {
        "A": Reading(),  # ShuffleNet's unit with one group: the simplest, and the stages are ShuffleNet's
        "B": Reading(early=True, middle="separable"),
        "C": Reading(early=True, entry="separable"),
        "D": Reading(early=True, entry="pointwise"),
        "E": Reading(entry="pointwise"),
        "F": Reading(early=True, middle="separable", ends="separable", entry="separable"),  # the literal sentence
    }
)


class Normed(nn.Module):
    """A convolution without bias and its normalisation, folded into one where its statistics are fixed."""

    def __init__(self, conv: nn.Conv2d, norm: Norm) -> None:
        super().__init__()
        self.conv, self.bn, self.kind = conv, fixed_norm(conv.out_channels, norm), norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        conv, norm = self.conv, self.bn
        if self.kind == "batch" or x.is_meta:
            return norm(conv(x))
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        return F.conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def pointwise(channels: int, out: int, step: int, norm: Norm) -> Normed:
    """1x1."""
    return Normed(nn.Conv2d(channels, out, 1, stride=step, bias=False), norm)


def depthwise(channels: int, step: int, norm: Norm) -> Normed:
    """3x3, each channel for itself."""
    return Normed(nn.Conv2d(channels, channels, 3, stride=step, padding=1, groups=channels, bias=False), norm)


def separable(channels: int, out: int, step: int, norm: Norm) -> nn.Sequential:
    """3x3 channel by channel, then 1x1."""
    return nn.Sequential(depthwise(channels, step, norm), pointwise(channels, out, 1, norm))


class Block(nn.Module):
    """A bottleneck of Table 7; ReLU behind the first convolution and behind the sum or the concatenation."""

    def __init__(self, channels: int, out: int, step: int, *, reading: Reading, norm: Norm) -> None:
        super().__init__()
        inner = out // NARROWING
        steps = (step, 1) if reading.early else (1, step)
        end = pointwise if reading.ends == "pointwise" else separable
        self.concat = step > 1 and reading.entry == "concat"
        self.first = end(channels, inner, steps[0], norm)
        self.middle = depthwise(inner, steps[1], norm) if reading.middle == "depthwise" else separable(inner, inner, steps[1], norm)
        self.last = end(inner, out - channels if self.concat else out, 1, norm)
        self.shortcut = shortcut(channels, out, step, reading=reading, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / step, W / step)."""
        found, beside = self.last(self.middle(self.first(x).relu())), self.shortcut(x)
        return (torch.cat((beside, found), 1) if self.concat else beside + found).relu()


def shortcut(channels: int, out: int, step: int, *, reading: Reading, norm: Norm) -> nn.Module:
    """What stands beside the bottleneck: the input itself, its 3x3 average pooling, or a projection of it."""
    if step == 1:
        return nn.Identity()
    if reading.entry == "concat":
        return nn.AvgPool2d(3, stride=step, padding=1)
    return (pointwise if reading.entry == "pointwise" else separable)(channels, out, step, norm)


class XceptionLike(nn.Module):
    """The body. Its stages bear the names that a ResNet's have, so that "stage 1 and 2 are fixed" fixes conv1 and layer1, Table 7's Stage2."""

    def __init__(self, spec: Xception, *, outputs: int = 2, norm: Norm = "frozen") -> None:
        super().__init__()
        if spec.reading not in READINGS:
            raise UserError(f"Xception: reading is {spec.reading!r}; allowed: {', '.join(READINGS)}; name one of them")
        reading, channels = READINGS[spec.reading], spec.channels[0]
        self.conv1 = Normed(nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False), norm)
        for i, (out, blocks) in enumerate(zip(spec.channels[1:], spec.blocks, strict=True)):
            steps = (2, *(1,) * (blocks - 1))
            stage = [Block(channels if j == 0 else out, out, step, reading=reading, norm=norm) for j, step in enumerate(steps)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
            channels = out
        self.channels, self.outputs = spec.channels[-outputs:], outputs
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # fan in: the other would all but silence a channel that stands for itself
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps at strides 8, 16, 32, the last `outputs` of them; 16 is C4, 32 is C5."""
        x = F.max_pool2d(self.conv1(x).relu(), 3, stride=2, padding=1)
        maps = []
        for i in range(3):
            x = self.get_submodule(f"layer{i + 1}")(x)
            maps.append(x)
        return maps[-self.outputs :]


class XceptionClassifier(nn.Module):
    """The whole of Table 7: the body, global average pooling, FC. Its norms use the batch's statistics."""

    def __init__(self, spec: Xception, classes: int) -> None:
        super().__init__()
        self.backbone = XceptionLike(spec, outputs=1, norm="batch")
        self.fc = nn.Linear(self.backbone.channels[-1], classes)

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Images of one size, normalised as the detectors do."""
        sizes = tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images)
        return Batch(normalise(torch.stack(list(images))), sizes, sizes)

    def network(self, batch: Batch) -> Tensor:
        """Class logits (B, classes)."""
        return self.fc(self.backbone(batch.pixels)[-1].mean((2, 3)))

    def forward(self, images: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The cross entropy against labels (B,) int64."""
        return {"class": F.cross_entropy(self.network(self.prepare(images)).float(), labels)}

    def parts(self, height: int, width: int) -> tuple[Part, ...]:
        """The net taken apart for its cost, all of it counted."""
        body = Part("backbone", self.backbone, ((1, 3, height, width),), head=True)
        return (body, Part("fc", self.fc, ((1, self.fc.in_features),), head=True))
