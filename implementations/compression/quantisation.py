"""8-bit weights (Section 2, "quantize our parameters to 8 bits"): symmetric, a scale for each unit, -127 to 127. The paper states no scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from implementations.compression.blocks import Layer

LARGEST = 127


@dataclass(frozen=True)
class Int8:
    """A tensor of 8-bit integers with a scale for each unit."""

    values: Tensor  # (units, ...) int8
    scales: Tensor  # (units,) float32, above 0

    def dequantised(self) -> Tensor:
        """The numbers that it stands for, float32: the same bits wherever it is computed."""
        return self.values.float() * self.scales.view(-1, *[1] * (self.values.dim() - 1))


def quantised(weight: Tensor) -> Int8:
    """The nearest 8-bit numbers; a unit of zeros has scale 1."""
    largest = weight.detach().float().flatten(1).abs().amax(1)
    scales = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    rounded = (weight.detach().float() / scales.view(-1, *[1] * (weight.dim() - 1))).round().clamp(-LARGEST, LARGEST)
    return Int8(rounded.to(torch.int8), scales)


def quantise_weights(layers: Sequence[Layer]) -> None:
    """Put each weight on its 8-bit grid, in place. Biases and norms stay float32."""
    for layer in layers:
        layer.module.weight.data.copy_(quantised(layer.module.weight).dequantised())


def regained(weight: Tensor) -> Int8 | None:
    """The 8-bit numbers of a weight that lies on such a grid, bit for bit; None for one that does not."""
    if weight.dim() < 2 or weight.dtype != torch.float32 or weight.numel() == 0:
        return None
    found = quantised(weight)
    return found if _same(found, weight) else _regained_scale(weight, found)


def _regained_scale(weight: Tensor, found: Int8) -> Int8 | None:
    """The scale is the largest number / 127, up to the rounding of the division: one of the floats beside it."""
    best = found.scales.clone()
    settled = _same_units(found, weight)
    for direction in (-torch.inf, torch.inf):
        near = torch.nextafter(found.scales, torch.full_like(found.scales, direction))
        trial = Int8(found.values, near)
        fits = _same_units(trial, weight) & ~settled
        best = torch.where(fits, near, best)
        settled |= fits
    return Int8(found.values, best) if bool(settled.all()) else None


def _same_units(found: Int8, weight: Tensor) -> Tensor:
    return (found.dequantised().flatten(1).view(torch.int32) == weight.detach().contiguous().flatten(1).view(torch.int32)).all(1)


def _same(found: Int8, weight: Tensor) -> bool:
    return bool(_same_units(found, weight).all())


def compact_state(module: nn.Module) -> Mapping[str, Tensor | Int8]:
    """A module's tensors by name, those on an 8-bit grid as integers."""
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    return {name: regained(tensor) or tensor for name, tensor in state.items()}
