"""Sections 3.2 and 3.3: a fractional scale as one or two integral dilations, and what weights their convolutions start from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Unusable, UserError
from implementations.pod.global_scale import checked, folded

Inherit = Literal["centre", "sum"]
NEAR = 0.05  # of an integer: closer scales are taken for it
ROUNDING = 1e-6  # 0.95 counts as near, although 1 - 0.95 is above 0.05 in binary


@dataclass(frozen=True)
class SubConv:
    """One convolution of a decomposition. A dilation of 0 is a kernel side of 1."""

    dilation: tuple[int, int]
    channels: int  # of the output

    @property
    def kernel(self) -> tuple[int, int]:
        """(height, width), 3 or 1 each."""
        return (3 if self.dilation[0] else 1, 3 if self.dilation[1] else 1)


@dataclass(frozen=True)
class Decomposition:
    """What takes the place of a 3x3 convolution with scales (d_h, d_w): the one of the lower dilations first."""

    parts: tuple[SubConv, ...]
    alpha: float  # the split factor: the upper part's share of the output channels before rounding; 0 where nothing is split


def decompose(scales: tuple[float, float], channels: int, *, name: str = "") -> Decomposition:
    """The rules of section 3.2 for scales (d_h, d_w) of a convolution with so many output channels.

    Unusable, which names the block, for scales that are not finite and positive, and for a part that would have no channel.
    """
    if not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise Unusable(f"{name or 'decompose'}: scales {_shown(scales)}; allowed: finite and positive; train the row that learns them again")
    nearest = [round(scale) for scale in scales]
    split = [abs(scale - whole) > NEAR + ROUNDING for scale, whole in zip(scales, nearest, strict=True)]
    if not any(split):
        return Decomposition((SubConv((nearest[0], nearest[1]), channels),), 0.0)
    lower, upper = ([side(scale) if apart else whole for scale, whole, apart in zip(scales, nearest, split, strict=True)] for side in (_floor, _ceil))
    fractions = [scale - _floor(scale) for scale, apart in zip(scales, split, strict=True) if apart]
    alpha = sum(fractions) / len(fractions)
    above = math.floor(alpha * channels + 0.5)
    if not 0 < above < channels:
        raise Unusable(
            f"{name or 'decompose'}: scales {_shown(scales)} split {channels} channels into {channels - above} and {above}; "
            "allowed: at least one each; take a wider net"
        )
    return Decomposition((SubConv((lower[0], lower[1]), channels - above), SubConv((upper[0], upper[1]), above)), alpha)


def _floor(scale: float) -> int:
    return math.floor(scale)


def _ceil(scale: float) -> int:
    return math.floor(scale) + 1


def _shown(scales: tuple[float, float]) -> str:
    return f"({scales[0]:g}, {scales[1]:g})"


def transferred(weight: Tensor, plan: Decomposition, *, inherit: Inherit = "centre") -> list[Tensor]:
    """The weights (O, C, 3, 3) of a convolution, shared out to a decomposition's parts (section 3.3, Figures 4 and 5).

    The first part takes the first output channels. A kernel side of 1 takes the weights of the centre ("centre": the corresponding position), or
    the sum over that side ("sum": what a dilation of 0 computes).
    """
    checked("inherit", inherit, get_args(Inherit))
    shared = weight.split([part.channels for part in plan.parts])
    return [_narrowed(own, part.kernel, inherit) for own, part in zip(shared, plan.parts, strict=True)]


def _narrowed(weight: Tensor, kernel: tuple[int, int], inherit: Inherit) -> Tensor:
    for dim, side in zip((2, 3), kernel, strict=True):
        if side == 1:
            weight = weight.narrow(dim, 1, 1) if inherit == "centre" else weight.sum(dim, keepdim=True)
    return weight.clone(memory_format=torch.contiguous_format)


def _same_dilations(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """UserError for weights of other dilations: their shapes alone need not differ."""
    given, own = state.get(f"{prefix}dilations"), module.get_buffer("dilations")
    if given is not None and given.tolist() != own.tolist():
        place = prefix.removesuffix(".")
        raise UserError(
            f"{place}: weights of dilations {given.tolist()}, built for {own.tolist()}; the averages that they were trained with are needed"
        )


class DecomposedConv(nn.Module):
    """The convolutions of a decomposition, side by side: fixed integral dilations and nothing else."""

    def __init__(self, plain: nn.Conv2d, plan: Decomposition, *, inherit: Inherit = "centre") -> None:
        """In the place of `plain`, from whose weights it starts."""
        super().__init__()
        self.plan, self.stride = plan, int(plain.stride[0])
        self.parts = nn.ModuleList(self._part(plain.in_channels, part) for part in plan.parts)
        self.register_buffer("dilations", torch.tensor([part.dilation for part in plan.parts]))  # so that a file of weights says what it is of
        self.register_load_state_dict_pre_hook(_same_dilations)
        self.inherit_from(plain.weight, inherit)

    def _part(self, channels: int, part: SubConv) -> nn.Conv2d:
        padding = (part.dilation[0], part.dilation[1])
        dilation = (max(1, padding[0]), max(1, padding[1]))  # of a side of 1 any dilation is the same
        return nn.Conv2d(channels, part.channels, part.kernel, stride=self.stride, padding=padding, dilation=dilation, bias=False)

    @torch.no_grad()
    def inherit_from(self, weight: Tensor, inherit: Inherit = "centre") -> None:
        """Take over the weights (O, C, 3, 3) of the convolution that was decomposed."""
        for own, given in zip(self.parts, transferred(weight, self.plan, inherit=inherit), strict=True):
            own.weight.copy_(given)

    def forward(self, x: Tensor, norm: nn.BatchNorm2d, members: Tensor | None = None) -> Tensor:  # noqa: ARG002 - as a GlobalScaleConv is called
        """(B, C, H, W) -> (B, O, H / stride, W / stride), normalised."""
        if x.is_meta:
            counted: Tensor = norm(self._joined([part(x) for part in self.parts]))
            return counted
        factor, bias = folded(norm)
        outputs, first = [], 0
        for conv, part in zip(self.parts, self.plan.parts, strict=True):
            own = slice(first, first + part.channels)  # no split(): the exporter folds slices of constants, and a deployed graph holds convolutions
            weight = conv.weight * factor[own].view(-1, 1, 1, 1)
            outputs.append(F.conv2d(x, weight, bias[own], conv.stride, conv.padding, conv.dilation))
            first += part.channels
        return self._joined(outputs)

    def _joined(self, outputs: list[Tensor]) -> Tensor:
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
