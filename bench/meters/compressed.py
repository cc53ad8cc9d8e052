"""Costs of a compressed detector: multiply-adds with and without its zeros, bit operations, bytes by arithmetic and bytes of a file.

A detector says what was done to it by its `compression`: `bits` of weights and activations, `kernels` in words, `faster`, `stored_bytes(detector)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from bench.meters.conventions import MAC, Convention
from bench.meters.counted import Part
from bench.meters.macs import MacCount, count_macs
from bench.meters.operators import Call, Formula

ROIS = 1000  # of the second stage, as in the cost records
FLOAT = 32  # bits of a number that is not quantised


def without_zeros(formula: Formula, weight: str) -> Formula:
    """The multiply-adds of an operator less those by a weight that is zero. Each weight is used equally often."""

    def counted(call: Call) -> int | None:
        dense, given = formula(call), call.given[weight]
        return None if dense is None else dense // max(1, given.numel()) * int(torch.count_nonzero(given))

    return counted


WEIGHTS = {  # operator -> the argument that is a weight
    "aten::convolution": "weight",
    "aten::_convolution": "weight",
    "aten::mkldnn_convolution": "weight",
    "aten::cudnn_convolution": "weight",
    "aten::linear": "weight",
    "aten::mkldnn_linear": "weight",
    "aten::addmm": "mat2",
    "aten::mm": "mat2",
    "aten::_addmm_activation": "mat2",
}
EFFECTIVE = Convention(
    "effective",
    "as mac, without the products by a weight that is zero: what a kernel that skips every zero would do, and none here does",
    {**MAC.formulas, **{name: without_zeros(MAC.formulas[name], weight) for name, weight in WEIGHTS.items()}},
)


@dataclass(frozen=True)
class CompressedCost:
    """What one image costs at its own size and ROIS regions."""

    dense: MacCount
    effective: MacCount
    bit_operations: int  # dense multiply-adds x bits of a weight x bits of an activation
    effective_bit_operations: int


def source_of(module: nn.Module) -> nn.Module:
    """The float32 module that an int8 part stands for: its multiply-adds are the same."""
    inner = getattr(module, "source", None)
    return inner if isinstance(inner, nn.Module) else module


def compressed_cost(detector: Any, *, rois: int = ROIS) -> CompressedCost:
    """Count the parts of a detector with its own weights, on an image of the size that it makes of one."""
    dense, effective, operations = MacCount(0), MacCount(0), [0, 0]
    for part in detector.parts(detector.config.shorter, detector.config.longer):
        times = rois if part.per_roi else 1
        counted = [_count(part, rule).times(times) for rule in (MAC, EFFECTIVE)]
        dense, effective = dense + counted[0], effective + counted[1]
        bits = _bits(detector, part)
        operations = [done + each.macs * bits for done, each in zip(operations, counted, strict=True)]
    return CompressedCost(dense, effective, operations[0], operations[1])


def _bits(detector: Any, part: Part) -> int:
    """Bits of a weight times bits of an activation. A part that stayed float32, or of which only layers run on int8, counts as float32 in and out."""
    weight, activation = detector.compression.bits
    lowered = source_of(part.module) is not part.module
    return int(weight) * (int(activation) if lowered or activation == FLOAT else FLOAT)


def _count(part: Part, rule: Convention) -> MacCount:
    """As bench.meters.counted counts a part, but anew each time: two detectors of equal shapes have other zeros."""
    module = source_of(part.module)
    weight = next(chain(module.parameters(), module.buffers()), torch.empty(0))
    inputs = (torch.zeros(shape, device=weight.device, dtype=weight.dtype) for shape in part.inputs)
    with layers_in_float(module):
        return count_macs(module, *inputs, rule=rule)


@contextmanager
def layers_in_float(module: nn.Module) -> Iterator[None]:
    """Let the float32 modules run in the place of the int8 layers that a part holds; afterwards each is as it was."""
    lowered = [(parent, name, child) for parent in module.modules() for name, child in parent.named_children() if source_of(child) is not child]
    for parent, name, child in lowered:
        parent.register_module(name, source_of(child))
    try:
        yield
    finally:
        for parent, name, child in lowered:
            parent.register_module(name, child)


def arithmetic_mb(detector: nn.Module, bits: int) -> float:
    """The paper's size: parameters that are not zero, x bits / 8 / 10^6; nothing for where they stand, scales or header."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in detector.parameters()) * bits / 8 / 1e6


def compressed_values(detector: Any) -> dict[str, float]:
    """The cost columns of a compressed detector, for its record; empty for any other."""
    plan = getattr(detector, "compression", None)
    if plan is None:
        return {}
    found, bits = compressed_cost(detector), plan.bits[0]
    arithmetic, stored = arithmetic_mb(detector, bits), plan.stored_bytes(detector) / 1e6
    return {
        "own_macs_g": found.dense.macs / 1e9,
        "own_effective_macs_g": found.effective.macs / 1e9,
        "own_bops_g": found.bit_operations / 1e9,
        "own_effective_bops_g": found.effective_bit_operations / 1e9,
        "own_arithmetic_mb": arithmetic,
        "own_stored_mb": stored,
        "own_stored_ratio": stored / arithmetic if arithmetic else 0.0,
    }
