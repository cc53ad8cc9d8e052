"""Global magnitude pruning (Section 2, "Pruning", Equation 1): of weights by absolute value, of units (columns) by their L2 norm.

The k per cent that go are the smallest of a whole block, not of each layer. torch.nn.utils.prune computes the same and holds 13 copies of the model
for it; here magnitudes are sorted once, without indices, and every sparsity masks in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from bench.types import UserError
from implementations.compression.blocks import Layer

KINDS = ("weights", "units")


def share(sparsity: float, total: int) -> int:
    """How many of `total` go at a sparsity in 0..1; UserError outside."""
    if not 0 <= sparsity <= 1:
        raise UserError(f"sparsity {sparsity}: allowed: 0 to 1, the share that becomes zero; give 0.3 for 30 %")
    return round(sparsity * total)


def ranked(tensors: Iterable[Tensor]) -> np.ndarray:
    """All absolute values, ascending, (N,) float32: one copy of the tensors, sorted in place."""
    found = list(tensors)
    flat = np.empty(sum(tensor.numel() for tensor in found), np.float32)
    start = 0
    for tensor in found:
        place = flat[start : start + tensor.numel()]
        np.abs(tensor.detach().cpu().reshape(-1).numpy(), out=place)
        start += tensor.numel()
    flat.sort()
    return flat


@torch.no_grad()
def zero_smallest(tensors: Sequence[Tensor], order: np.ndarray, count: int) -> None:
    """Set the `count` smallest absolute values to zero, in place; of equal ones the first go. `order` is `ranked` of these tensors, masked or not."""
    if count == 0:
        return
    limit = float(order[count - 1])
    left = count
    for tensor in tensors:
        below = tensor.abs() < limit
        tensor.masked_fill_(below, 0.0)
        left -= int(below.sum())
    for tensor in tensors:
        if left <= 0 or limit == 0:
            return
        tied = (tensor.abs().reshape(-1) == limit).nonzero()[:left, 0]
        tensor.view(-1)[tied] = 0.0
        left -= len(tied)


def prune_weights(layers: Sequence[Layer], sparsity: float) -> int:
    """Set the smallest share of all weights of these layers to zero; how many."""
    return next(sweep_weights(layers, (sparsity,)))


def sweep_weights(layers: Sequence[Layer], sparsities: Sequence[float]) -> Iterator[int]:
    """Rising sparsities from one sorting: after each `next` the weights are pruned to that sparsity; yields how many are zero."""
    weights = [_contiguous(layer.module) for layer in layers]
    total = sum(weight.numel() for weight in weights)
    counts = [share(sparsity, total) for sparsity in sparsities]
    if counts != sorted(counts):
        raise UserError(f"sparsities {list(sparsities)}: what is zero stays zero, so they must rise; sort them")
    order = ranked(weights)
    for count in counts:
        zero_smallest(weights, order, count)
        yield count


def _contiguous(module: nn.Conv2d | nn.Linear) -> Tensor:
    """Its weight, laid out as it is indexed: ties go in that order, and a view of it is the tensor itself."""
    if not module.weight.is_contiguous():
        module.weight.data = module.weight.data.contiguous()
    return module.weight


def unit_norms(layer: Layer) -> Tensor:
    """The L2 norm of each unit's weights, (units,)."""
    return layer.module.weight.detach().flatten(1).norm(dim=1)


def prune_units(layers: Sequence[Layer], sparsity: float) -> int:
    """Set the units with the smallest norms of all these layers to zero, with their bias and the norm behind them; how many.

    The layers that answer are left out: their units are classes and box sides, and no neurons.
    """
    inner = [layer for layer in layers if not layer.answers]
    least = torch.finfo(torch.float32).tiny  # a unit that is zero already goes first, and is seen to go
    marks = [unit_norms(layer).clamp_min(least) for layer in inner]
    count = share(sparsity, sum(len(mark) for mark in marks))
    zero_smallest(marks, ranked(marks), count)
    with torch.no_grad():
        for layer, mark in zip(inner, marks, strict=True):
            gone = mark == 0
            for tensor in (layer.module.weight, *layer.attached):
                tensor[gone] = 0.0
    return count


def prune(layers: Sequence[Layer], sparsity: float, kind: str = "weights") -> int:
    """Prune in place; how many weights or units went. UserError for another kind or a sparsity outside 0..1."""
    if kind not in KINDS:
        raise UserError(f"kind {kind!r}: unknown; allowed: {', '.join(KINDS)}; give one of these")
    share(sparsity, 0)
    if any(layer.module.weight.is_meta for layer in layers):
        return keep_share(layers, sparsity)
    return (prune_weights if kind == "weights" else prune_units)(layers, sparsity)


def hold_zeros(layers: Sequence[Layer]) -> None:
    """Let what is zero stay zero while the detector learns: its gradient is zero, so neither SGD nor AdamW moves it.

    A bias stays zero where the whole unit is zero.
    """
    for layer in layers:
        weight, bias = layer.module.weight, layer.module.bias
        kept = weight.detach() != 0
        weight.register_hook(partial(_masked, kept))
        if bias is not None:
            bias.register_hook(partial(_masked, kept.flatten(1).any(1) | (bias.detach() != 0)))


def _masked(kept: Tensor, gradient: Tensor) -> Tensor:
    return gradient * kept.to(gradient.device)


def zeros(layers: Sequence[Layer]) -> int:
    """How many weights are zero."""
    return sum(int((layer.module.weight == 0).sum()) for layer in layers)


# ---- on the meta device, where there are sizes and no magnitudes


def keep_share(layers: Sequence[Layer], sparsity: float) -> int:
    """Let each weight's parameter be its share of what is left, so that parameters and bytes are counted without the zeros.

    The layer still sees the full shape, as its multiply-adds are those of all its weights. How many are left out, exact for the whole.
    """
    left_out, before = 0, 0
    for layer in layers:
        module, weight = layer.module, layer.module.weight
        before += weight.numel()
        gone = share(sparsity, before) - left_out
        left_out += gone
        if gone:
            del module.weight
            module.register_parameter("kept", nn.Parameter(weight.detach().new_empty(weight.numel() - gone)))
            module.weight = weight.detach()  # type: ignore[assignment]  # a plain attribute: its shape, and no parameter
    return left_out
