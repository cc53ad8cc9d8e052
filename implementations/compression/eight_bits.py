"""8-bit weights and activations where a layer is used several times, as the proposal network's is on every level of a pyramid.

torch.ao gives such a layer one int8 kernel, whose answers all have the range of its last use. With FPN that is the coarsest level, where activations
are small: on the finer ones they were cut off, and objectness lost more than half of itself. Here the ranges of all uses are joined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from implementations.compression.elsewhere import Elsewhere, compress_elsewhere
from implementations.compression.int8 import ACTIVATION_RANGE, Int8Part, _observers, _prepared
from implementations.compression.model import Compression, build_compressed

if TYPE_CHECKING:
    from bench.spec import Request


@dataclass(frozen=True)
class EightBits:
    """What was done to a detector, the ranges of a layer's uses joined."""

    plan: Compression | Elsewhere

    @property
    def images(self) -> int:
        """Of the training split, for the ranges of activations."""
        return self.plan.images

    @property
    def bits(self) -> tuple[int, int]:
        """Of a weight and of an activation."""
        return self.plan.bits

    @property
    def kernels(self) -> str:
        """What runs."""
        return self.plan.kernels

    @property
    def faster(self) -> bool:
        """Whether any kernel that runs has less to do than that of the dense detector."""
        return self.plan.faster

    def calibrate(self, detector: Any, images: Sequence[Tensor]) -> None:
        """Find the ranges of activations, and join those of layers that are used several times; UserError without images."""
        self.plan.calibrate(detector, images)
        join_ranges(detector)

    def stored_bytes(self, detector: nn.Module) -> int:
        """The length of the detector's compressed file."""
        return self.plan.stored_bytes(detector)


def build_eight_bits(request: Request, **arguments: Any) -> Any:
    """The detector of `build_compressed`, on int8 kernels with joined ranges."""
    detector: Any = build_compressed(request, **arguments)
    detector.compression = EightBits(detector.compression)
    return detector


def eight_bits_elsewhere(detector: Any, **plan: Any) -> Any:
    """What `compress_elsewhere` does to another paper's detector, in place, with joined ranges."""
    compress_elsewhere(detector, **plan)
    detector.compression = EightBits(detector.compression)
    return detector


def join_ranges(detector: nn.Module) -> int:
    """Give all uses of a layer one range that holds them all, in place; how many layers are used several times."""
    joined = 0
    for part in [module for module in detector.modules() if isinstance(module, Int8Part)]:
        groups = uses(part)
        for places in groups:
            part.ranges[places] = torch.tensor(union(part.ranges[places].tolist()), dtype=part.ranges.dtype)
        if groups:
            part.lower()
        joined += len(groups)
    return joined


def uses(part: Int8Part) -> list[list[int]]:
    """For each layer that is used several times, the rows of `ranges` that are of its answers."""
    prepared = _prepared(part.source, part.inputs)
    rows = {id(observer): place for place, observer in enumerate(_observers(prepared).values())}
    found: dict[str, list[int]] = defaultdict(list)
    for node in prepared.graph.nodes:
        if node.op != "call_module" or id(prepared.get_submodule(node.target)) not in rows:
            continue
        source = node.args[0]
        if source.op == "call_module" and id(prepared.get_submodule(source.target)) not in rows:
            found[str(source.target)].append(rows[id(prepared.get_submodule(node.target))])
    return [places for places in found.values() if len(places) > 1]


def union(ranges: Sequence[Sequence[float]]) -> tuple[float, float]:
    """(scale, zero point) whose numbers span those of all the given, zero among them, as torch's own observer has it."""
    low, high = ACTIVATION_RANGE
    least = min(0.0, *((low - zero) * scale for scale, zero in ranges))
    most = max(0.0, *((high - zero) * scale for scale, zero in ranges))
    scale = (most - least) / (high - low)
    return scale, float(low - round(least / scale))
