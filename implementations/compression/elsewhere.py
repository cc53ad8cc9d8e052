"""The method on detectors of other papers, found by the parts that they have; `compress` does it for the baselines of this suite.

Other detectors hold what no baseline has: a refinement module, positions in the place of RoIs, parts side by side. A part that can be traced runs on
int8 kernels whole. One that cannot (key parts that are gathered by their places, taps that are moved) does in pieces, each as large as can be traced,
which costs a conversion before and behind each. What stays float32 or in pieces is named in the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from bench.types import Unavailable, UserError
from implementations.compression.blocks import all_layers, layers_of
from implementations.compression.int8 import Int8Part, fold_norms, require_engine
from implementations.compression.model import Compression
from implementations.compression.pruning import hold_zeros, prune
from implementations.compression.quantisation import quantise_weights
from implementations.compression.removal import remove_zero_units
from implementations.layers.backbones import freeze

GUIDES = "aligned"  # what finds the taps that a deformable convolution moves: an eighth of a cell counts there, so it stays float32
TOLD = ("channels", "levels")  # plain attributes of a part that its detector asks for


@dataclass(frozen=True)
class Elsewhere:
    """What was done to another paper's detector: a Compression, and what stayed float32, or in pieces, although it says int8."""

    plan: Compression
    float32: tuple[str, ...] = ()

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
        """What runs, and what of it is not int8."""
        return f"{self.plan.kernels}; float32: {', '.join(self.float32)}" if self.float32 else self.plan.kernels

    @property
    def faster(self) -> bool:
        """Whether any kernel that runs has less to do than that of the dense detector."""
        return self.plan.faster

    def calibrate(self, detector: Any, images: Sequence[Tensor]) -> None:
        """Find the ranges of activations where the detector needs them; UserError without images."""
        self.plan.calibrate(detector, images)

    def stored_bytes(self, detector: nn.Module) -> int:
        """The length of the detector's compressed file."""
        return self.plan.stored_bytes(detector)


def compress_elsewhere(detector: Any, *, tuned: bool = False, **plan: Any) -> Any:
    """Do what `plan` (the fields of Compression) says to any detector, in place, after what was done to it before; both are named on it.

    Int8 parts then need `detector.compression.calibrate`. On the meta device only zeros are counted; the rest is Unavailable there.
    """
    chosen = Compression(**plan)
    on_meta = next(detector.parameters()).is_meta
    if on_meta and (chosen.removed or chosen.precision != "float32"):
        raise Unavailable("what it costs is a matter of its weights: run it, and its record holds its bytes and multiply-adds")
    layers, kept = layers_of(detector, chosen.block), ()
    prune(layers, chosen.sparsity, chosen.kind)
    if chosen.removed:
        remove_zero_units(detector, layers)
    if chosen.precision == "int8":
        kept = lower(detector)
    elif chosen.precision == "int8 weights":
        quantise_weights(all_layers(detector))
    if tuned and not on_meta:
        hold_zeros(layers)
        freeze(detector.backbone, 2)
    before = getattr(detector, "compression", None)
    detector.compression = Elsewhere(joined(before.plan if before is not None else None, chosen), kept)
    return detector


def joined(before: Compression | None, after: Compression) -> Compression:
    """Both as one plan: what was pruned before, at the precision of now. UserError for two prunings."""
    if before is None or not before.sparsity:
        return after
    if after.sparsity:
        raise UserError("two prunings of one detector: its record names one; allowed: a pruning, then a precision; prune once")
    return replace(before, precision=after.precision, images=after.images)


# ---- int8, part by part


def lower(detector: Any) -> tuple[str, ...]:
    """Put every part on int8 kernels, norms folded and weights on their grid, in place; the names of what stays float32."""
    require_engine()
    fold_norms(detector)
    quantise_weights(all_layers(detector))
    kept: list[str] = []
    for name, inputs in parts_of(detector):
        kept += [] if _whole(detector, name, inputs) else _in_pieces(detector, name)
    if not any(isinstance(module, Int8Part) for module in detector.modules()):
        raise UserError(f"{type(detector).__name__}: nothing of it can be traced for int8; use 8-bit weights alone")
    return tuple(kept)


def parts_of(detector: Any) -> list[tuple[str, int]]:
    """The parts that learn by name, each with the number of maps that it is given."""
    levels, regions = _pyramid(detector), getattr(detector, "regions", None)
    read = len(getattr(detector.backbone, "channels", None) or detector.config.channels)
    wanted = [("backbone", 1), ("neck", read), ("rpn.head", _proposing(detector)), ("refinement.head", levels)]
    wanted += [(f"regions.{name}", 1) for name, _ in (regions.named_children() if regions is not None else ())]
    wanted += [("head", levels)]
    return [(name, count) for name, count in wanted if _learns(detector, name)]


def _pyramid(detector: Any) -> int:
    """Maps that a dense head reads: P3 to P7."""
    return 5 if hasattr(detector, "refinement") or hasattr(detector, "head") else 1


def _proposing(detector: Any) -> int:
    rpn = getattr(detector.config, "rpn", None)
    return len(rpn.anchor_sizes) if rpn is not None else 0


def _learns(detector: nn.Module, name: str) -> bool:
    try:
        return any(True for _ in detector.get_submodule(name).parameters())
    except AttributeError:
        return False


def _whole(detector: nn.Module, name: str, inputs: int) -> bool:
    """Lower one part as it is; False where it cannot be traced, or is a list that nothing calls."""
    part = detector.get_submodule(name)
    if isinstance(part, nn.ModuleList):
        return False
    try:
        lowered = Int8Part(ranges_apart(part), inputs)
    except Unavailable:
        return False
    for attribute in TOLD:
        if hasattr(part, attribute):
            setattr(lowered, attribute, getattr(part, attribute))
    _put(detector, name, lowered)
    return True


def _in_pieces(detector: nn.Module, name: str) -> list[str]:
    """Lower what a part holds, each piece as large as can be traced; the names of what stays float32 or in pieces."""
    part = detector.get_submodule(name)
    pieces = [f"{name}.{child}" for child, module in part.named_children() if any(True for _ in module.parameters())]
    if not pieces or GUIDES in name.rpartition(".")[2]:
        return [name]
    kept = [] if isinstance(part, nn.ModuleList) else [f"{name} (in pieces)"]
    for piece in pieces:
        kept += [] if GUIDES not in piece and _whole(detector, piece, 1) else _in_pieces(detector, piece)
    return kept


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    root.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], module)


def ranges_apart(part: nn.Module) -> nn.Module:
    """The part, in place, with inner maps that stand side by side joined in float32: torch's int8 kernel squeezes all into the first one's range.

    `torch.concat` is `torch.cat` by a name for which there is no int8 kernel. What a part joins last is its answer, which is float32 anyhow.
    """
    for name in [name for name, module in part.named_modules() if name and _joins(module)]:
        inner = part.get_submodule(name)
        graph = fx.Tracer().trace(inner)
        for node in graph.nodes:
            if node.op == "call_function" and node.target is torch.cat:
                node.target = torch.concat
        _put(part, name, fx.GraphModule(inner, graph))
    return part


def _joins(module: nn.Module) -> bool:
    """Whether its own forward puts maps side by side."""
    return "cat" in getattr(getattr(type(module).forward, "__code__", None), "co_names", ())
