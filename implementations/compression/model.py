"""Compressed Object Detection: pruning and 8-bit quantisation of a trained detector, as transforms of any detector of this suite.

Rows start from the weights of another row: load them, prune (pruning.py), optionally take zero units out (removal.py), optionally put weights, or
weights and activations, on 8 bits (quantisation.py, int8.py). A row that is tuned afterwards keeps its zeros (hold_zeros).

What the paper does not say, and what is done here:
- whether Table 1 pruned weights or units: its rows are weights here, and every column has a row with units as well;
- whether it was trained on after pruning: one-shot and tuned are both rows;
- how units are taken out: rows `units-*` rank units as the paper does and leave channels that others share; rows `channels-*` rank whole channels by
  torch-pruning's measure (squares of all weights that give or read one, relative to the mean of those that go together) and take them out;
- the number of classes: 20, as its 41.4 M parameters need 12 to 29; the proposal network is never pruned, as its three blocks have it;
- what is pruned in a block: weights of convolutions and linear layers; biases and norms stay. "Columns" are the weights of one unit, with its bias
  and the scale and shift of its norm, so that a pruned unit says zero; the units of the last layers are classes and box sides and stay;
- norms: detectron2 freezes scale and shift, so they are buffers here and no parameters; its FREEZE_AT holds conv1 and the first stage when tuning;
- 8 bits: symmetric, a scale for each unit for weights; for activations minimum and maximum over 64 training images, an unsigned 7-bit range;
- "weight sharing" of the abstract is described nowhere, and no row of ours pretends to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.types import Unavailable, UserError
from implementations.baselines.cascade_rcnn import cascade_rcnn
from implementations.baselines.faster_rcnn import faster_rcnn_c4, faster_rcnn_fpn
from implementations.baselines.rfcn import rfcn
from implementations.compression.blocks import all_layers, layers_of
from implementations.compression.int8 import calibrate, to_int8
from implementations.compression.pruning import hold_zeros, prune
from implementations.compression.quantisation import quantise_weights
from implementations.compression.removal import remove_zero_units
from implementations.compression.storage import stored_bytes
from implementations.layers.backbones import freeze

if TYPE_CHECKING:
    from bench.spec import Request
    from implementations.layers.two_stage import TwoStage

DETECTORS: Mapping[str, Callable[[Request], Any]] = MappingProxyType(
    {"fpn": faster_rcnn_fpn, "c4": faster_rcnn_c4, "rfcn": rfcn, "cascade": cascade_rcnn},
)
BITS: Mapping[str, tuple[int, int]] = MappingProxyType({"float32": (32, 32), "int8 weights": (8, 32), "int8": (8, 8)})  # of weights, of activations


@dataclass(frozen=True)
class Compression:
    """What is done to a trained detector."""

    block: str = "both"  # a key of BLOCKS
    sparsity: float = 0.0  # 0..1, of the block's weights or units
    kind: str = "weights"  # or "units"
    removed: bool = False  # units that are zero are taken out
    precision: str = "float32"  # a key of BITS
    images: int = 64  # of the training split, for the ranges of activations

    def __post_init__(self) -> None:
        """UserError for what there is not."""
        if self.precision not in BITS:
            raise UserError(f"precision {self.precision!r}: unknown; allowed: {', '.join(BITS)}; give one of these")
        if self.removed and self.kind != "units":
            raise UserError("removed=True with kind='weights': single weights leave no unit to take out; allowed: kind='units'; give that")

    @property
    def bits(self) -> tuple[int, int]:
        """Of a weight and of an activation."""
        return BITS[self.precision]

    @property
    def kernels(self) -> str:
        """What runs: the reason for which a saving may or may not be seen on a clock."""
        if self.precision == "int8":
            return "int8 kernels"
        zeros = "smaller float32 layers" if self.removed else "dense float32 kernels, which multiply zeros as they do other numbers"
        return zeros if self.sparsity or self.removed else "dense float32 kernels"

    @property
    def faster(self) -> bool:
        """Whether any kernel that runs has less to do than that of the dense detector."""
        return self.removed or self.precision == "int8"

    def calibrate(self, detector: Any, images: Sequence[Tensor]) -> None:
        """Find the ranges of activations where the detector needs them; UserError without images."""
        if self.precision == "int8":
            calibrate(detector, images)

    def stored_bytes(self, detector: nn.Module) -> int:
        """The length of the detector's compressed file."""
        return stored_bytes(detector)


def compress(detector: Any, plan: Compression) -> Any:
    """Do it, in place, and leave the plan on the detector as `compression`; works on any detector with a backbone and a second stage.

    Int8 parts then need `plan.calibrate`. On the meta device only the zeros are counted: the rest needs magnitudes, so it is Unavailable there.
    """
    layers = layers_of(detector, plan.block)
    if next(detector.parameters()).is_meta and (plan.removed or plan.precision != "float32"):
        raise Unavailable("what it costs is a matter of its weights: run it, and its record holds its bytes and multiply-adds")
    prune(layers, plan.sparsity, plan.kind)
    if plan.removed:
        remove_zero_units(detector, layers)
    if plan.precision == "int8":
        to_int8(detector)
    elif plan.precision == "int8 weights":
        quantise_weights(all_layers(detector))
    detector.compression = plan
    return detector


# ---- builders


def fix_norms(detector: nn.Module) -> None:
    """Make scale and shift of every batch norm buffers, as those of detectron2's frozen norms are: stored, not learnt, not counted."""
    for norm in [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]:
        for name in ("weight", "bias"):
            tensor = norm.get_parameter(name).detach()
            delattr(norm, name)
            norm.register_buffer(name, tensor)


def build_dense(request: Request, *, detector: str = "fpn") -> TwoStage:
    """The detector that the others start from; UserError for one that there is not."""
    if detector not in DETECTORS:
        raise UserError(f"detector {detector!r}: unknown; allowed: {', '.join(DETECTORS)}; give one of these")
    built: TwoStage = DETECTORS[detector](request)
    fix_norms(built)
    return built


def build_compressed(request: Request, *, source: str, detector: str = "fpn", tuned: bool = False, **plan: Any) -> TwoStage:
    """The detector of row `source`, compressed; `plan` are the fields of Compression. Without that row's weights it has the sizes and no meaning."""
    built = build_dense(request, detector=detector)
    if source in request.inputs:
        load_source(built, request.inputs[source])
    chosen = Compression(**plan)
    if tuned:
        if chosen.precision != "float32" or chosen.removed:
            raise UserError(f"tuned=True with {chosen.precision}, removed={chosen.removed}: allowed: float32 and masks; transform the tuned row")
        compress(built, chosen)
        if not next(built.parameters()).is_meta:
            hold_zeros(layers_of(built, chosen.block))
            freeze(built.backbone, 2)
        return built
    compressed: TwoStage = compress(built, chosen)
    return compressed


def build_pruned_units(request: Request, **arguments: Any) -> TwoStage:
    """As build_compressed, for units. Unavailable on the meta device: small units are pruned first, so a share of units is no share of weights."""
    if torch.empty(0).is_meta:
        raise Unavailable("how many weights a share of the units holds is a matter of their norms: run it, and its record holds its sizes")
    return build_compressed(request, **arguments)


def load_source(detector: nn.Module, path: Path) -> None:
    """Fill a detector with the weights of the row that it starts from; UserError names the first tensor that does not fit."""
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); run the row that this one starts from again") from error
    own = detector.state_dict()
    wrong = sorted(name for name in own.keys() | stored.keys() if name not in own or name not in stored or own[name].shape != stored[name].shape)
    if wrong:
        raise UserError(
            f"{path}: {wrong[0]} is missing, unknown or of another shape; the weights of this very detector are needed; run its row first"
        )
    detector.load_state_dict(stored)


def build_backbone(request: Request) -> Any:
    """The backbone with its pyramid alone, for its share of the parameters (Section 2); it is counted and never run."""
    return _BackboneAlone(build_dense(request))


class _BackboneAlone(nn.Module):
    """What `leandet cost` asks a detector for, of the backbone alone."""

    def __init__(self, detector: TwoStage) -> None:
        super().__init__()
        self.config = detector.config
        self.backbone, self.neck = detector.backbone, detector.neck
        self._whole = [detector]  # in a list: no part of this module

    def parts(self, height: int, width: int) -> tuple[Any, ...]:
        """The parts that are not the proposal network's or the second stage's."""
        return tuple(part for part in self._whole[0].parts(height, width) if part.name in {"backbone", "neck"})
