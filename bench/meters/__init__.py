"""Cost meters: the unit is in the name, and each is given a detector's counted parts. A new meter is one function and one line here."""

from __future__ import annotations

from collections.abc import Callable

from bench.meters.bytes import size_rule
from bench.meters.counted import Counted
from bench.meters.params import count_params

Meter = Callable[[Counted], float]


def params_m(counted: Counted) -> float:
    """Parameters in millions (1e6)."""
    return count_params(*counted.modules.values()) / 1e6


def size_mb(counted: Counted) -> float:
    """Megabytes by the rule's size convention."""
    return size_rule(counted.rule.size)(counted.modules)


def macs_fixed_g(counted: Counted) -> float:
    """Multiply-adds that an image costs without any RoI, in 1e9."""
    return counted.fixed.macs / 1e9


def macs_per_roi_g(counted: Counted) -> float:
    """Multiply-adds that each RoI adds, in 1e9."""
    return counted.per_roi.macs / 1e9


def macs_g(counted: Counted) -> float:
    """Multiply-adds at the rule's number of RoIs, in 1e9."""
    return counted.total.macs / 1e9


METERS: dict[str, Meter] = {
    "params_m": params_m,
    "size_mb": size_mb,
    "macs_g": macs_g,
    "macs_fixed_g": macs_fixed_g,
    "macs_per_roi_g": macs_per_roi_g,
}
