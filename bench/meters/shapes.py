"""Outputs of common operators on the meta device without asking torch, which decomposes many of them in Python, a thousand times as slowly.

It matters: the decompositions import torch's compiler, so the first of them alone takes two seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Args = tuple[Any, ...]


def known_output(name: str, args: Args) -> Any:
    """What the operator would return for contiguous float tensors on meta; None where torch must be asked. In-place kinds are always asked."""
    rule = OUTPUTS.get(name)
    return rule(args) if rule and args else None


def _plain(value: Any) -> bool:
    """A tensor on meta of which the shape says all."""
    return isinstance(value, Tensor) and value.is_meta and value.is_floating_point() and value.is_contiguous()


def _unary(args: Args) -> Tensor | None:
    numbers = all(value is None or isinstance(value, (int, float, str)) for value in args[1:])
    return torch.empty_like(args[0]) if _plain(args[0]) and numbers else None


def _binary(args: Args) -> Tensor | None:
    one, other = args[:2]
    if isinstance(other, (int, float)):
        return _unary(args[:2])
    if not (_plain(one) and _plain(other) and one.dtype == other.dtype):
        return None
    if one.shape == other.shape:
        return torch.empty_like(one)
    return torch.empty(torch.broadcast_shapes(one.shape, other.shape), dtype=one.dtype, device="meta")  # type: ignore[no-untyped-call]


def _batch_norm(args: Args) -> tuple[Tensor, Tensor, Tensor] | None:
    training = args[5]
    return None if training or not _plain(args[0]) else (torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0))


def _cat(args: Args) -> Tensor | None:
    tensors, dim = args[0], args[1] if len(args) > 1 else 0
    if not all(_plain(one) and one.dim() == tensors[0].dim() and one.dtype == tensors[0].dtype for one in tensors):
        return None
    shape = list(tensors[0].shape)
    shape[dim] = sum(int(one.shape[dim]) for one in tensors)
    return torch.empty(shape, dtype=tensors[0].dtype, device="meta")


def _matrix_product(args: Args) -> Tensor | None:
    left, right = args[-2:]
    known = all(isinstance(one, Tensor) and one.is_meta and one.dim() == 2 and one.dtype == left.dtype for one in (left, right))
    return torch.empty(left.shape[0], right.shape[1], dtype=left.dtype, device="meta") if known else None


def _reduce(args: Args) -> Tensor | None:
    tensor, dims, kept = args[0], args[1] if len(args) > 1 else None, bool(args[2]) if len(args) > 2 else False
    if not (_plain(tensor) and dims and len(args) <= 3):
        return None
    gone = {dim % tensor.dim() for dim in dims}
    shape = [1 if place in gone else side for place, side in enumerate(tensor.shape) if kept or place not in gone]
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


OUTPUTS: dict[str, Callable[[Args], Any]] = {
    **dict.fromkeys(("aten::relu", "aten::sigmoid", "aten::clamp", "aten::clamp_min"), _unary),
    **dict.fromkeys(("aten::add", "aten::sub", "aten::mul", "aten::div"), _binary),
    **dict.fromkeys(("aten::mean", "aten::amax"), _reduce),
    **dict.fromkeys(("aten::mm", "aten::addmm"), _matrix_product),
    "aten::native_batch_norm": _batch_norm,
    "aten::cat": _cat,
}
