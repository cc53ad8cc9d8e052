"""Detectors whose channels were taken out (narrowing.py), as rows: one-shot, tuned, or with more done to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from bench.types import Unavailable
from implementations.compression.eight_bits import eight_bits_elsewhere
from implementations.compression.model import Compression, build_dense, load_source
from implementations.compression.narrowing import Taken, narrow, tell_channels
from implementations.compression.storage import stored_bytes
from implementations.layers.backbones import freeze
from implementations.layers.weights import fill

if TYPE_CHECKING:
    from bench.spec import Request


@dataclass(frozen=True)
class Narrowed:
    """What was done to a detector: a share of a block's channels taken out, and what of it stayed as it was."""

    plan: Compression
    taken: Taken
    images: int = 0  # of the training split: no range is looked for

    @property
    def bits(self) -> tuple[int, int]:
        """Of a weight and of an activation."""
        return self.plan.bits

    @property
    def kernels(self) -> str:
        """What runs, and what of it is as wide as before."""
        return f"{self.plan.kernels}; as wide as before: {', '.join(self.taken.whole)}" if self.taken.whole else self.plan.kernels

    @property
    def faster(self) -> bool:
        """Smaller layers have less to do."""
        return self.plan.faster

    def calibrate(self, detector: Any, images: Sequence[Tensor]) -> None:
        """Nothing: all stays float32."""

    def stored_bytes(self, detector: nn.Module) -> int:
        """The length of the detector's compressed file."""
        return stored_bytes(detector)


def narrow_elsewhere(detector: Any, *, block: str = "both", share: float, tuned: bool = False) -> Any:
    """Take a share of a block's channels out of any detector, in place, and name it there; a tuned one then learns all but its first stages.

    UserError for a block that it lacks or a share outside 0..1; Unavailable on the meta device, where there are no magnitudes.
    """
    if next(detector.parameters()).is_meta:
        raise Unavailable("which channels go is a matter of its weights: run it, and its record holds its bytes and multiply-adds")
    taken = narrow(detector, block, share)
    detector.compression = Narrowed(Compression(block, share, kind="units", removed=True), taken)
    if tuned:
        freeze(detector.backbone, 2)
    return detector


def build_narrowed(request: Request, *, source: str, detector: str = "fpn", **plan: Any) -> Any:
    """The detector of row `source` with channels taken out; `plan` are the arguments of narrow_elsewhere."""
    built = build_dense(request, detector=detector)
    if source in request.inputs:
        load_source(built, request.inputs[source])
    return narrow_elsewhere(built, **plan)


def build_after_narrowing(request: Request, *, source: str, detector: str = "fpn", **plan: Any) -> Any:
    """The detector of row `source`, whose channels were taken out, with more done to it; `plan` are the arguments of eight_bits_elsewhere."""
    built = build_dense(request, detector=detector)
    if torch.empty(0).is_meta:
        raise Unavailable("how wide its layers are stands in its weights: run it, and its record holds its bytes and multiply-adds")
    if source in request.inputs:
        fill_narrowed(built, request.inputs[source])
    return eight_bits_elsewhere(built, **plan)


def fill_narrowed(detector: Any, path: Path) -> None:
    """Fill a detector with weights of narrower layers than it was built with; UserError names the first tensor that does not fit."""
    with safe_open(path, "pt") as stored:
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118 - no mapping
    fit(detector, shapes)
    fill(detector, path)


def fit(detector: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Let convolutions, linear layers and norms be as wide as these tensors are; their values are void afterwards."""
    for name, module in detector.named_modules():
        shape = shapes.get(f"{name}.weight", ())
        if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d) or tuple(module.weight.shape) == shape or len(shape) != module.weight.dim():
            continue
        _resize(module, shape)
    tell_channels(detector)


def _resize(module: nn.Conv2d | nn.Linear | nn.BatchNorm2d, shape: tuple[int, ...]) -> None:
    """Give a layer tensors of that shape."""
    for tensors in (module._parameters, module._buffers):  # noqa: SLF001 - torch has no other word for both
        for name, tensor in tensors.items():
            if tensor is not None and tensor.dim():
                empty = tensor.new_zeros(shape if name == "weight" else shape[:1])
                tensors[name] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    if isinstance(module, nn.BatchNorm2d):
        module.num_features = shape[0]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    else:
        apart = module.groups == module.in_channels > 1
        module.groups = shape[0] if apart else module.groups
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
