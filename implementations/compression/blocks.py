"""Which layers of a detector belong to the paper's blocks (Section 2, "backbone, a proposal generator and ROI heads"), and what goes with a layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from bench.types import UserError

BLOCKS: dict[str, tuple[str, ...]] = {  # block -> attributes of a detector that it holds; the pyramid is detectron2's backbone too
    "backbone": ("backbone", "neck"),
    "head": ("regions", "head"),  # of two stages, of one
    "both": ("backbone", "neck", "regions", "head"),
}
# The last layers: their units are the classes and the sides of a box, so no unit of theirs can be removed. Their weights are pruned like others.
ANSWERS = ("cls_score", "bbox_pred", "cls_logits", "score_maps", "box_maps", "predict", "score", "box")


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with the normalisation that follows it, if there is one."""

    name: str
    module: nn.Conv2d | nn.Linear
    norm: nn.BatchNorm2d | None

    @property
    def answers(self) -> bool:
        """Whether its units are what the detector says, and so no neurons to remove."""
        return self.name.rpartition(".")[2] in ANSWERS

    @property
    def attached(self) -> tuple[Tensor, ...]:
        """What one unit has one number of beside its weights: the bias, and scale and shift of the norm; all zero, the unit says zero."""
        tensors = (self.module.bias, *((self.norm.weight, self.norm.bias) if self.norm is not None else ()))
        return tuple(tensor for tensor in tensors if tensor is not None)


def layers_of(detector: nn.Module, block: str) -> tuple[Layer, ...]:
    """Every convolution and linear layer of a block, in the order of the detector's names; UserError for a block that it does not have."""
    if block not in BLOCKS:
        raise UserError(f"block {block!r}: unknown; allowed: {', '.join(BLOCKS)}; give one of these")
    wanted = tuple(name for name in BLOCKS[block] if isinstance(getattr(detector, name, None), nn.Module))
    there = [key for key in ("backbone", "head") if any(isinstance(getattr(detector, name, None), nn.Module) for name in BLOCKS[key])]
    if block not in {*there, *(("both",) if len(there) > 1 else ())}:
        raise UserError(f"block {block!r}: {type(detector).__name__} has no such block; allowed: {', '.join(there) or 'none'}; prune another")
    return tuple(layer for name in wanted for layer in _layers(detector.get_submodule(name), f"{name}."))


def all_layers(detector: nn.Module) -> tuple[Layer, ...]:
    """Every convolution and linear layer of a detector."""
    return tuple(_layers(detector, ""))


def _layers(module: nn.Module, prefix: str) -> Iterator[Layer]:
    for name, inner in module.named_modules():
        if isinstance(inner, nn.Conv2d | nn.Linear):
            yield Layer(prefix + name, inner, _norm_after(module, name, inner))


def _norm_after(root: nn.Module, name: str, layer: nn.Conv2d | nn.Linear) -> nn.BatchNorm2d | None:
    """The batch norm that is defined right after a convolution of as many channels: how every net here is written."""
    parent = root.get_submodule(name.rpartition(".")[0])
    children = list(parent.children())
    place = next((index for index, child in enumerate(children) if child is layer), len(children))
    after = children[place + 1] if place + 1 < len(children) else None
    same = isinstance(after, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d) and after.num_features == layer.out_channels
    return after if same and isinstance(after, nn.BatchNorm2d) else None
