"""Detectors whose channels were taken out (narrowing.py), as rows: one-shot, tuned, or with more done to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bench.types import Unavailable, UserError
from implementations.compression.eight_bits import EightBits, eight_bits_elsewhere
from implementations.compression.elsewhere import Elsewhere
from implementations.compression.model import Compression, build_dense, load_source
from implementations.compression.narrowing import Taken, narrow
from implementations.compression.storage import stored_bytes
from implementations.compression.widths import fit, misfit
from implementations.layers.backbones import freeze
from implementations.layers.weights import fill

if TYPE_CHECKING:
    from bench.spec import Request


NAMED = 3  # layers at most that `kernels` names; the record has all


@dataclass(frozen=True)
class Narrowed:
    """What was done to a detector: a share of a block's channels taken out, what of it stayed as wide, and what was done after that."""

    plan: Compression  # its units are the channels
    taken: Taken | None  # None where the widths were read from a file
    then: Elsewhere | EightBits | None = None

    @property
    def images(self) -> int:
        """Of the training split, for the ranges of activations."""
        return self.then.images if self.then else 0

    @property
    def bits(self) -> tuple[int, int]:
        """Of a weight and of an activation."""
        return (self.then or self.plan).bits

    @property
    def kernels(self) -> str:
        """What runs, and what of it is as wide as before."""
        whole = self.taken.whole if self.taken else ()
        more = f" and {len(whole) - NAMED} others" if len(whole) > NAMED else ""
        kept = f"; as wide as before: {', '.join(whole[:NAMED])}{more}" if whole else ""
        return f"{self.then.kernels} on smaller layers{kept}" if self.then else f"{self.plan.kernels}{kept}"

    @property
    def faster(self) -> bool:
        """Smaller layers have less to do."""
        return True

    def calibrate(self, detector: Any, images: Sequence[Tensor]) -> None:
        """Find the ranges of activations where the detector needs them; UserError without images."""
        if self.then:
            self.then.calibrate(detector, images)

    def stored_bytes(self, detector: nn.Module) -> int:
        """The length of the detector's compressed file."""
        return stored_bytes(detector)


def plan_of_channels(block: str, share: float) -> Compression:
    """What a record says of them: units of the block that were taken out."""
    return Compression(block, share, kind="units", removed=True)


def narrow_elsewhere(detector: Any, *, block: str = "both", share: float, tuned: bool = False) -> Any:
    """Take a share of a block's channels out of any detector, in place, and name it there; a tuned one then learns all but its first stages.

    From then on it takes its widths from the weights that it is filled with. UserError for a block that it lacks or a share outside 0..1;
    Unavailable on the meta device, where there are no magnitudes, and where not one channel can go.
    """
    if next(detector.parameters()).is_meta:
        raise Unavailable("which channels go is a matter of its weights: run it, and its record holds its bytes and multiply-adds")
    taken = narrow(detector, block, share)
    if share and not taken.channels:
        raise Unavailable(f"no channel of this {type(detector).__name__} can be taken out: torch-pruning cannot follow its layers; prune its weights")
    detector.compression = Narrowed(plan_of_channels(block, share), taken)
    detector.register_load_state_dict_pre_hook(_as_wide_as_stored)
    if tuned:
        freeze(detector.backbone, 2)
    return detector


def _as_wide_as_stored(detector: nn.Module, stored: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """What it starts from decides which channels go; where that is not at hand, its own weights still say how wide it is."""
    if not prefix:
        fit(detector, {name: tuple(tensor.shape) for name, tensor in stored.items()})


def build_narrowed(request: Request, *, source: str, detector: str = "fpn", **plan: Any) -> Any:
    """The detector of row `source` with channels taken out; `plan` are the arguments of narrow_elsewhere."""
    built = build_dense(request, detector=detector)
    if source in request.inputs:
        load_source(built, request.inputs[source])
    return narrow_elsewhere(built, **plan)


def build_after_narrowing(request: Request, *, source: str, share: float, block: str = "both", detector: str = "fpn", **plan: Any) -> Any:
    """The detector of row `source`, whose channels were taken out, on 8 bits; `plan` are the arguments of eight_bits_elsewhere."""
    if torch.empty(0).is_meta:
        raise Unavailable("how wide its layers are stands in its weights: run it, and its record holds its bytes and multiply-adds")
    built = build_dense(request, detector=detector)
    if source in request.inputs:
        fill_narrowed(built, request.inputs[source])
    return then_eight_bits(built, Narrowed(plan_of_channels(block, share), None), **plan)


def then_eight_bits(detector: Any, done: Narrowed, **plan: Any) -> Any:
    """Put a detector whose channels were taken out on int8 kernels, in place; both are named on it."""
    detector.compression = None
    eight_bits_elsewhere(detector, **plan)
    detector.compression = replace(done, then=detector.compression)
    return detector


def fill_narrowed(detector: Any, path: Path) -> None:
    """Fill a detector with weights of narrower layers than it was built with; UserError names the file, or the first tensor that does not fit."""
    try:
        with safe_open(path, "pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); run the row that this one starts from again") from error
    wrong = misfit(detector, shapes)
    if wrong:
        raise UserError(f"{path}: {wrong} is missing, unknown or wider; allowed: weights of this very detector, narrower or not; run its row first")
    fit(detector, shapes)
    fill(detector, path)
