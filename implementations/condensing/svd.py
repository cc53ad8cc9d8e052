"""The baseline pruning of Table 2: fully connected layers factorised by a truncated SVD (Fast R-CNN, Section 3.1), without training.

The paper says "halve model size" and no more. Decided here: only the first fully connected layer is factorised (it holds nine tenths of the head; a
second one can be named), at the rank whose head is nearest to the wanted share of the baseline head's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.types import UserError
from implementations.baselines.faster_rcnn import faster_rcnn_fpn
from implementations.layers.heads import HeadFactory, HeadOutput, HeadShape, Predictor

if TYPE_CHECKING:
    from bench.spec import Request
    from implementations.layers.two_stage import TwoStage

FIRST: tuple[str, ...] = ("fc6",)


def halving_rank(shape: HeadShape, keep: float, layers: Sequence[str] = FIRST) -> int:
    """The rank at which the head has about `keep` of the two-layer head's parameters; at least 1, at most full rank."""
    inputs = {"fc6": shape.channels * shape.side**2, "fc7": shape.fc}
    outputs = shape.classes + 1 + 4 * shape.box_classes
    total = sum((size + 1) * shape.fc for size in inputs.values()) + (shape.fc + 1) * outputs
    unfactorised = total - sum(inputs[name] * shape.fc for name in layers)
    rank = round((keep * total - unfactorised) / sum(inputs[name] + shape.fc for name in layers))
    return max(1, min(rank, shape.fc, *(inputs[name] for name in layers)))


class Factorised(nn.Module):
    """A linear layer of low rank: V^T scaled by the singular values, then U with the bias."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, rank, bias=False)
        self.second = nn.Linear(rank, outputs)

    def forward(self, vector: Tensor) -> Tensor:
        """(R, inputs) -> (R, outputs)."""
        return self.second(self.first(vector))


class SvdHead(nn.Module):
    """The two-layer head with some of its fully connected layers factorised; its parameters bear the baseline head's names."""

    def __init__(self, shape: HeadShape, rank: int, layers: Sequence[str] = FIRST) -> None:
        super().__init__()

        def linear(name: str, inputs: int) -> nn.Module:
            return Factorised(inputs, shape.fc, rank) if name in layers else nn.Linear(inputs, shape.fc)

        self.fc6 = linear("fc6", shape.channels * shape.side**2)
        self.fc7 = linear("fc7", shape.fc)
        self.predictor = Predictor(shape.fc, shape)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:  # noqa: ARG002 - it has no loss of its own
        """(R, C, S, S) -> scores and deltas."""
        return self.predictor(self.fc7(self.fc6(features.flatten(1)).relu()).relu())


def svd_head(keep: float = 0.5, layers: Sequence[str] = FIRST) -> HeadFactory:
    """A factory of factorised heads with `keep` of the two-layer head's parameters."""
    if not 0 < keep <= 1 or not layers or not set(layers) <= {"fc6", "fc7"}:
        raise UserError(f"svd_head: keep={keep}, layers={layers}; allowed: 0 < keep <= 1 and layers out of fc6, fc7; give such")
    return lambda shape: SvdHead(shape, halving_rank(shape, keep, layers), layers)


def truncate(head_state: Mapping[str, Tensor], rank: int, layers: Sequence[str] = FIRST) -> dict[str, Tensor]:
    """The two-layer head's tensors -> SvdHead's: each named layer by its `rank` largest singular values, in float64."""
    state = dict(head_state)
    for name in layers:
        weight = state.pop(f"{name}.weight")
        left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
        state[f"{name}.first.weight"] = (values[:rank, None] * right[:rank]).to(weight.dtype).contiguous()
        state[f"{name}.second.weight"] = left[:, :rank].to(weight.dtype).contiguous()
        state[f"{name}.second.bias"] = state.pop(f"{name}.bias")
    return state


def factorise(detector: nn.Module, path: Path, layers: Sequence[str] = FIRST) -> None:
    """Fill a detector that has an SvdHead from the baseline's weights; UserError if the file is not that baseline's."""
    (prefix, head) = next((f"{name}.", module) for name, module in detector.named_modules() if isinstance(module, SvdHead))
    stored = load_file(path)
    inner = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    if any(f"{name}.weight" not in inner for name in layers):
        raise UserError(f"{path}: no {prefix}{layers[0]}.weight in it; the weights of an FPN with a two-layer head are needed; run that row first")
    rank = next(module for module in head.modules() if isinstance(module, Factorised)).first.out_features
    rest = {name: value for name, value in stored.items() if not name.startswith(prefix)}
    detector.load_state_dict(rest | {prefix + name: value for name, value in truncate(inner, rank, layers).items()})


def build_svd(request: Request, *, keep: float = 0.5, layers: Sequence[str] = FIRST) -> TwoStage:
    """FPN whose head is the baseline's, factorised; without the baseline's weights (cost only) it has the sizes and no meaning."""
    detector = faster_rcnn_fpn(request, head=svd_head(keep, layers))
    if request.inputs:
        (path,) = request.inputs.values()
        factorise(detector, path, layers)
    return detector
