"""Start from published checkpoints: Faster R-CNN R50-FPN of torchvision, detectron2 and mmdetection, tensor by tensor into ours (Section 1).

Names are mapped explicitly, every tensor is accounted for. What differs beside the names:
- torchvision: nothing but the norms' epsilon, which its COCO weights were trained with as 0;
- detectron2: background is the last class and has no box; images are BGR in 0..255 (put into conv1); its R50 strides in the first 1x1;
- mmdetection: background is the last class and has no box.
The two latter pool RoIs with half a pixel less and as many samples as a bin has cells, and do not round anchors: a detection moves by a fraction of a
pixel; features, proposals' logits and the head's answer to given features are theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.types import UserError
from implementations.layers.images import STD
from implementations.layers.pickled import read_state

EPS = 1e-5  # of our norms
COUNTER = "num_batches_tracked"  # of a norm that is never stepped: it may be there or not
STEM, CLASSES = "backbone.conv1.weight", "regions.head.predictor.cls_score.bias"  # of ours: what tells channels, what tells classes
RECORDED = Path(__file__).with_name("layouts")


@dataclass(frozen=True)
class Layout:
    """How a library names the tensors of its Faster R-CNN R50-FPN."""

    names: tuple[tuple[str, str], ...]  # a whole name as a pattern -> ours
    dropped: str = r"(?!)"  # what is no weight: means of pixels, anchors
    background_last: bool = False  # as a class; its boxes are then left out
    bgr_bytes: bool = False
    caffe: bool = False  # the step of a stage stands in its first 1x1


_ANY = r"(weight|bias)"
_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
LAYOUTS: Mapping[str, Layout] = {
    "torchvision": Layout(
        (
            (r"backbone\.body\.(.+)", r"backbone.\1"),
            (rf"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?:0\.)?{_ANY}", r"neck.fpn.\1_blocks.\2.0.\3"),
            (rf"rpn\.head\.conv\.(?:0\.0\.)?{_ANY}", r"rpn.head.conv.\1"),
            (rf"rpn\.head\.(cls_logits|bbox_pred)\.{_ANY}", r"rpn.head.\1.\2"),
            (rf"roi_heads\.box_head\.(fc6|fc7)\.{_ANY}", r"regions.head.\1.\2"),
            (rf"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.{_ANY}", r"regions.head.predictor.\1.\2"),
        )
    ),
    "detectron2": Layout(
        (
            (r"backbone\.bottom_up\.stem\.conv1\.weight", r"backbone.conv1.weight"),
            (rf"backbone\.bottom_up\.stem\.conv1\.norm\.{_NORM}", r"backbone.bn1.\1"),
            *(
                item
                for stage in (2, 3, 4, 5)
                for item in (
                    (rf"backbone\.bottom_up\.res{stage}\.(\d+)\.conv(\d)\.weight", rf"backbone.layer{stage - 1}.\1.conv\2.weight"),
                    (rf"backbone\.bottom_up\.res{stage}\.(\d+)\.conv(\d)\.norm\.{_NORM}", rf"backbone.layer{stage - 1}.\1.bn\2.\3"),
                    (rf"backbone\.bottom_up\.res{stage}\.(\d+)\.shortcut\.weight", rf"backbone.layer{stage - 1}.\1.downsample.0.weight"),
                    (rf"backbone\.bottom_up\.res{stage}\.(\d+)\.shortcut\.norm\.{_NORM}", rf"backbone.layer{stage - 1}.\1.downsample.1.\2"),
                    (rf"backbone\.fpn_lateral{stage}\.{_ANY}", rf"neck.fpn.inner_blocks.{stage - 2}.0.\1"),
                    (rf"backbone\.fpn_output{stage}\.{_ANY}", rf"neck.fpn.layer_blocks.{stage - 2}.0.\1"),
                )
            ),
            (rf"proposal_generator\.rpn_head\.conv\.{_ANY}", r"rpn.head.conv.\1"),
            (rf"proposal_generator\.rpn_head\.objectness_logits\.{_ANY}", r"rpn.head.cls_logits.\1"),
            (rf"proposal_generator\.rpn_head\.anchor_deltas\.{_ANY}", r"rpn.head.bbox_pred.\1"),
            (rf"roi_heads\.box_head\.fc1\.{_ANY}", r"regions.head.fc6.\1"),
            (rf"roi_heads\.box_head\.fc2\.{_ANY}", r"regions.head.fc7.\1"),
            (rf"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.{_ANY}", r"regions.head.predictor.\1.\2"),
        ),
        dropped=r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d",
        background_last=True,
        bgr_bytes=True,
        caffe=True,
    ),
    "mmdet": Layout(
        (
            (r"backbone\.(.+)", r"backbone.\1"),
            (rf"neck\.lateral_convs\.(\d)\.conv\.{_ANY}", r"neck.fpn.inner_blocks.\1.0.\2"),
            (rf"neck\.fpn_convs\.(\d)\.conv\.{_ANY}", r"neck.fpn.layer_blocks.\1.0.\2"),
            (rf"rpn_head\.rpn_conv\.{_ANY}", r"rpn.head.conv.\1"),
            (rf"rpn_head\.rpn_cls\.{_ANY}", r"rpn.head.cls_logits.\1"),
            (rf"rpn_head\.rpn_reg\.{_ANY}", r"rpn.head.bbox_pred.\1"),
            (rf"roi_head\.bbox_head\.shared_fcs\.0\.{_ANY}", r"regions.head.fc6.\1"),
            (rf"roi_head\.bbox_head\.shared_fcs\.1\.{_ANY}", r"regions.head.fc7.\1"),
            (rf"roi_head\.bbox_head\.fc_cls\.{_ANY}", r"regions.head.predictor.cls_score.\1"),
            (rf"roi_head\.bbox_head\.fc_reg\.{_ANY}", r"regions.head.predictor.bbox_pred.\1"),
        ),
        dropped=r"data_preprocessor\.(mean|std)",
        background_last=True,
    ),
}


def layout_of(library: str) -> Layout:
    """The layout of that library; UserError lists those there are."""
    if library not in LAYOUTS:
        raise UserError(f"checkpoint of {library!r}: unknown; allowed: {', '.join(LAYOUTS)}; give one of these")
    return LAYOUTS[library]


def our_name(name: str, library: str) -> str | None:
    """What a tensor is called here; empty for one that is no weight, None for one that no rule knows."""
    layout = layout_of(library)
    if re.fullmatch(layout.dropped, name):
        return ""
    return next((re.sub(pattern, ours, name) for pattern, ours in layout.names if re.fullmatch(pattern, name)), None)


def renamed(state: Mapping[str, Tensor], library: str) -> dict[str, Tensor]:
    """A library's weights under our names, and otherwise as they are; UserError for a tensor that its detector does not have, or has twice."""
    found = dict[str, Tensor]()
    for name, tensor in state.items():
        ours = our_name(name, library)
        if ours is None:
            raise UserError(f"{name}: no tensor of {library}'s Faster R-CNN R50-FPN; take surplus tensors out, or name the library that it is of")
        if ours in found:
            raise UserError(f"{name}: another tensor of {library}'s checkpoint has the same place under an older name; take one of them out")
        if ours:
            found[ours] = tensor.detach()
    return found


def converted(state: Mapping[str, Tensor], library: str, *, eps: float = EPS) -> dict[str, Tensor]:
    """A library's state dict under our names, background first, RGB in the normalisation of this suite; `eps` is the one of its norms.

    UserError for a tensor that the library's detector does not have, or whose shape is none of its.
    """
    return _converted(renamed(state, library), library, eps)


def _converted(named: Mapping[str, Tensor], library: str, eps: float) -> dict[str, Tensor]:
    layout = layout_of(library)
    return {name: _changed(name, tensor.float() if tensor.is_floating_point() else tensor, layout, eps) for name, tensor in named.items()}


def _changed(name: str, tensor: Tensor, layout: Layout, eps: float) -> Tensor:
    if layout.background_last and ".predictor." in name:
        _check(name, tensor, tensor.dim() > 0)
        return torch.cat((tensor[-1:], tensor[:-1]) if ".cls_score." in name else (torch.zeros_like(tensor[:4]), tensor))
    if layout.bgr_bytes and name == STEM:
        _check(name, tensor, tensor.dim() == 4 and tensor.shape[1] == 3)  # any other would be stretched to three channels
        return tensor.flip(1) * (255 * torch.tensor(STD)).view(1, 3, 1, 1)
    return tensor + (eps - EPS) if name.endswith("running_var") and eps != EPS else tensor


def _check(name: str, tensor: Tensor, fits: bool) -> None:
    if not fits:
        raise UserError(f"{name}: has shape {tuple(tensor.shape)}, which no Faster R-CNN R50-FPN has; give the checkpoint as it was published")


def classes_of(named: Mapping[str, Tensor]) -> int:
    """How many classes a state under our names is of, background not counted; UserError where it does not tell."""
    bias = named.get(CLASSES)
    if bias is None:
        raise UserError(f"{CLASSES}: missing from the checkpoint; is it an R50-FPN with two layers? give that one")
    _check(CLASSES, bias, bias.dim() == 1 and len(bias) > 1)
    return len(bias) - 1


def load_published(detector: nn.Module, state: Mapping[str, Tensor], library: str, *, eps: float = EPS) -> None:
    """Fill our Faster R-CNN R50-FPN; UserError names the first tensor that is missing, surplus or of another shape, and another class count."""
    named, own = renamed(state, library), detector.state_dict()
    if CLASSES not in own or STEM not in own:
        raise UserError(f"{type(detector).__name__}: no Faster R-CNN R50-FPN, so no published one loads into it; build that")
    _same_classes(named, own)
    for name in sorted(own.keys() | named.keys()):
        _placed(name, named, own, library)
    weights = _converted(named, library, eps)
    detector.load_state_dict({name: weights.get(name, tensor) for name, tensor in own.items()})
    if layout_of(library).caffe:
        stride_first(detector)


def _same_classes(named: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if CLASSES in named and classes_of(named) != classes_of(own):
        raise UserError(f"the checkpoint has {classes_of(named)} classes and the detector {classes_of(own)}; build it for {classes_of(named)}")


def _placed(name: str, named: Mapping[str, Tensor], own: Mapping[str, Tensor], library: str) -> None:
    """UserError for a tensor that is only in one of both, or there of another shape or kind than here; shapes are as published."""
    if name not in own:
        raise UserError(f"{name}: is in {library}'s checkpoint and not in the detector; is it an R50-FPN with two layers? build that")
    if name not in named:
        if name.endswith(COUNTER):
            return
        raise UserError(f"{name}: missing from {library}'s checkpoint; is it an R50-FPN with two layers? give that one")
    wanted, tensor = published_shape(name, own[name], layout_of(library)), named[name]
    if tuple(tensor.shape) != wanted:
        raise UserError(f"{name}: has shape {tuple(tensor.shape)} in the checkpoint, and {wanted} fits the detector; build the detector for it")
    if tensor.is_floating_point() != own[name].is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{name}: holds {kind} in the checkpoint; allowed: numbers like those of the detector; give it as it was published")


def published_shape(name: str, own: Tensor, layout: Layout) -> tuple[int, ...]:
    """The shape that a tensor of ours has in a library's checkpoint: without the box of the background where that library has none."""
    boxes = 4 if layout.background_last and ".predictor.bbox_pred." in name else 0
    return (own.shape[0] - boxes, *own.shape[1:]) if own.dim() else ()


def stride_first(detector: nn.Module) -> None:
    """Let each stage step in its first 1x1 instead of its 3x3, as MSRA's and detectron2's ResNets do; no weight changes."""
    for stage in ("layer2", "layer3", "layer4"):
        block = detector.get_submodule(f"backbone.{stage}.0")
        for name, step in (("conv1", 2), ("conv2", 1)):
            conv = block.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            conv.stride = (step, step)


# ---- files


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth, a .safetensors or a detectron2 .pkl, without running anything that it holds; UserError where it holds none."""
    return read_state(path, give="the .pth or .pkl as it was published")


def recorded_shapes(library: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a library's detector for COCO's 80 classes, as recorded in layouts/."""
    data = json.loads((RECORDED / f"{library}.json").read_text())
    return {name: tuple(shape) for name, shape in data["tensors"].items()}
