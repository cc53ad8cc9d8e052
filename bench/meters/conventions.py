"""What counts as one multiply-add, and as one megabyte: the rules that papers count by, named, so that no figure travels without its rule."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from bench.meters.operators import NO_MACS, POOLING, PRODUCTS, SAMPLING, Formula, convolution_with_bias, nothing
from bench.types import UserError


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether it is torchvision's FrozenBatchNorm2d. Without torchvision imported there is none, and importing it would take as long as torch."""
    misc = sys.modules.get("torchvision.ops.misc")
    return misc is not None and isinstance(module, misc.FrozenBatchNorm2d)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm of any kind, the frozen one too."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or is_frozen_norm(module)  # noqa: SLF001 - the three kinds have no public name


def is_relu(module: nn.Module) -> bool:
    """Whether it is an nn.ReLU; a functional one cannot be told apart from arithmetic."""
    return isinstance(module, nn.ReLU)


@dataclass(frozen=True)
class Convention:
    """A counting rule: a formula an operator, what a call of a module adds to its operators, and which operators are known to be none."""

    name: str
    meaning: str
    formulas: Mapping[str, Formula]
    modules: tuple[tuple[Callable[[nn.Module], bool], Callable[[Tensor], int]], ...] = ()  # (which modules, what a call adds, given its output)
    none: frozenset[str] = field(default=NO_MACS)


def _twice(out: Tensor) -> int:
    return 2 * out.numel()


def _once(out: Tensor) -> int:
    return out.numel()


MAC = Convention(
    "mac",
    "weights x output positions of convolutions and linear layers, and both products of attention; sampling, norms, activations, pooling: 0",
    PRODUCTS | dict.fromkeys(SAMPLING.keys() - PRODUCTS.keys(), nothing),
)
MAC_SAMPLING = Convention(
    "mac+sampling", "as mac, and 4 for each bilinear sample of RoIAlign, deformable convolution and interpolation", PRODUCTS | SAMPLING
)
MMDET = Convention(
    "mmdet",
    "as mac, and 1 an element for convolution biases, 2 for batch norm, 1 for nn.ReLU modules (functional ones: 0), 1 for each element pooled; "
    "linear biases and RoIAlign: 0",
    {**MAC.formulas, "aten::convolution": convolution_with_bias, **POOLING},
    ((is_batch_norm, _twice), (is_relu, _once)),
)
CONVENTIONS: dict[str, Convention] = {rule.name: rule for rule in (MAC, MAC_SAMPLING, MMDET)}


def convention(name: str | Convention) -> Convention:
    """The rule of that name; UserError lists the names there are."""
    if isinstance(name, Convention):
        return name
    if name not in CONVENTIONS:
        raise UserError(f"convention {name!r} is not known; there are {', '.join(sorted(CONVENTIONS))} (bench/meters/conventions.py)")
    return CONVENTIONS[name]


def first_tensor(out: Any) -> Tensor | None:
    """The tensor that an operator or module returned, or the first of several; None if it returned none."""
    if isinstance(out, Tensor):
        return out
    if isinstance(out, (tuple, list)):
        return next((item for item in out if isinstance(item, Tensor)), None)
    return None
