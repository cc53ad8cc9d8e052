"""How wide layers are, told by the shapes of weights: a net whose channels were taken out is built wide and then made to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from implementations.compression.blocks import ANSWERS

SIDE = 128  # px of the image that a detector's parts are tried with: every level of a pyramid has a cell
Shapes = Mapping[str, tuple[int, ...]]  # of tensors by name


def misfit(detector: nn.Module, shapes: Shapes) -> str:
    """The first tensor that no narrower form of the detector explains: missing, unknown, wider, or another number of answers; empty if none."""
    own = {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}
    return next((name for name in sorted(own.keys() | shapes.keys()) if not _explained(name, own.get(name), shapes.get(name))), "")


def _explained(name: str, own: tuple[int, ...] | None, given: tuple[int, ...] | None) -> bool:
    if own is None or given is None or len(own) != len(given):
        return False
    answers = name.rpartition(".")[0].rpartition(".")[2] in ANSWERS
    return all(new <= old for new, old in zip(given, own, strict=True)) and (not answers or given[:1] == own[:1])


def fit(detector: Any, shapes: Shapes) -> None:
    """Let convolutions, linear layers and norms be as wide as these tensors are; where one changes, values are void until it is filled."""
    changed = False
    for name, module in detector.named_modules():
        shape = shapes.get(f"{name}.weight", ())
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and len(shape) == module.weight.dim() and tuple(module.weight.shape) != shape:
            _resize(module, shape)
            changed = True
    if changed:
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


def tell_channels(detector: Any) -> None:
    """Let the detector know how many channels its backbone's maps have now."""
    with torch.no_grad():
        image = torch.zeros(1, 3, SIDE, SIDE).to(next(detector.parameters()))
        channels = tuple(int(one.shape[1]) for one in detector.backbone(image))
    if hasattr(detector.backbone, "channels"):
        detector.backbone.channels = channels
    for one in (detector, *getattr(detector, "plain", ())):
        if hasattr(one.config, "channels"):
            one.config = replace(one.config, channels=channels)
