"""What `leandet compress` and `leandet expand` do to a trained detector and its file: found by bench by this module's name."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.types import UserError
from implementations.compression.blocks import BLOCKS
from implementations.compression.eight_bits import EightBits, eight_bits_elsewhere
from implementations.compression.elsewhere import Elsewhere, compress_elsewhere, joined
from implementations.compression.model import BITS, Compression
from implementations.compression.pruning import KINDS
from implementations.compression.quantisation import Int8
from implementations.compression.smaller import Narrowed, narrow_elsewhere, then_eight_bits
from implementations.compression.storage import read_compressed, save_detector

CHANNELS = "channels"  # taken out with all that gives and reads them


@dataclass(frozen=True)
class Wish:
    """What a user asks for, as typed."""

    block: str = "both"
    sparsity: str = "0"
    kind: str = "weights"
    remove: bool = False
    precision: str = "float32"
    images: int = 64  # of the training split, for the ranges of activations


def plan_of(wish: Wish) -> Compression:
    """The same as a plan; UserError, naming the option, for what there is not."""
    for option, given, allowed in (("block", wish.block, BLOCKS), ("kind", wish.kind, (*KINDS, CHANNELS)), ("precision", wish.precision, BITS)):
        if given not in allowed:
            raise UserError(f"--{option} {given!r}: unknown; allowed: {', '.join(allowed)}; give one of these")
    if wish.remove and wish.kind != "units":
        why = "they are taken out anyhow" if wish.kind == CHANNELS else "single weights leave no unit to take out"
        raise UserError(f"--remove with --kind {wish.kind}: {why}; allowed: with --kind units; leave it out, or give that")
    if wish.images < 1:
        raise UserError(f"--images {wish.images}: no images to calibrate on; allowed: 1 or more, 64 are usual; give one of these")
    if wish.kind == CHANNELS and not sparsity_of(wish.sparsity):
        raise UserError(f"--kind {CHANNELS} with --sparsity {wish.sparsity}: none would go; allowed: above 0; give 0.3 for 30 %, or leave --kind out")
    return Compression(wish.block, sparsity_of(wish.sparsity), wish.kind, wish.remove, wish.precision, wish.images)


def sparsity_of(text: str) -> float:
    """The share that becomes zero, 0..1; UserError for anything else."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise UserError(f"--sparsity {text!r}: allowed: a number from 0 to 1, the share that becomes zero; give 0.3 for 30 %")
    return found


def compressed(detector: Any, plan: Compression) -> Any:
    """Do what the plan says, in place, after what the detector's own row did to it; all of it is named on the detector.

    Int8 parts then need `detector.compression.calibrate`. UserError for what cannot follow what was done before, Unavailable where a package or a
    kernel is not there.
    """
    before = _before(detector)
    if plan == Compression(images=plan.images):
        detector.compression = getattr(detector, "compression", None) or Elsewhere(plan)
        return detector
    whole = _whole(before, plan)
    if plan.kind == CHANNELS:
        narrow_elsewhere(detector, block=plan.block, share=plan.sparsity)
    if isinstance(getattr(detector, "compression", None), Narrowed):
        return _after_narrowing(detector, plan)
    detector.compression = None  # what was done before stands in `whole`
    make = eight_bits_elsewhere if plan.precision == "int8" else compress_elsewhere
    make(detector, **{each.name: getattr(plan, each.name) for each in fields(plan)})
    done: Any = detector.compression
    detector.compression = EightBits(replace(done.plan, plan=whole)) if isinstance(done, EightBits) else replace(done, plan=whole)
    return detector


def _after_narrowing(detector: Any, plan: Compression) -> Any:
    """Put what is left of a detector's channels on 8 bits, where that is asked."""
    done: Narrowed = detector.compression
    if plan.precision == "int8":
        return then_eight_bits(detector, done, precision=plan.precision, images=plan.images)
    if plan.precision != "float32":
        detector.compression = None
        compress_elsewhere(detector, precision=plan.precision)
        detector.compression = replace(done, then=detector.compression)
    return detector


def _before(detector: Any) -> Compression | None:
    """What a detector's own row did to it, taken out of what wraps it."""
    found = getattr(detector, "compression", None)
    while found is not None and not isinstance(found, Compression):
        found = found.plan
    return found


def _whole(before: Compression | None, plan: Compression) -> Compression:
    if before is None:
        return plan
    only_bits = not plan.sparsity and not plan.removed
    if before.precision != "float32" or (before.removed and not only_bits):
        done = before.precision if before.precision != "float32" else "units taken out"
        raise UserError(
            f"this run is compressed already ({done}); allowed: storing it as it is; leave the options out, or name the run it starts from"
        )
    if plan.removed and before.sparsity and before.kind != "units":
        raise UserError("--remove: this run's weights are pruned one by one, which leaves no unit to take out; leave --remove out")
    return replace(joined(before, plan), removed=plan.removed)


def store(detector: nn.Module, path: Path) -> int:
    """Write a detector's file, and read it back; its length in bytes."""
    return save_detector(detector, path)


def expanded(path: Path) -> dict[str, Tensor]:
    """The tensors of a compressed file, each in a memory of its own; 8-bit numbers as the float32 that they stand for, bit for bit."""
    return {name: value.dequantised() if isinstance(value, Int8) else value for name, value in read_compressed(path).items()}
