"""Our tensors under the names of mmdet, detectron2 and torchvision: Faster R-CNN, RetinaNet and Cascade R-CNN on R50-FPN, tensor by tensor.

Beside the names: mmdet and detectron2 put background last and give it no box; torchvision's RetinaNet has an output for it that nothing trains;
detectron2 lists the anchors of a cell side by side, the others shape by shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

STAGES = 3  # of Cascade R-CNN
SHAPES, SIDES = 3, 3  # of a RetinaNet cell's anchors
NEVER = -100.0  # a logit that no threshold lets through

_TWO_FC = {"fc6": "0", "fc7": "1"}
Names = tuple[tuple[str, str], ...]  # a pattern of our whole name -> theirs

_MMDET: Names = (
    (r"backbone\.(.+)", r"backbone.\1"),
    (r"neck\.fpn\.inner_blocks\.(\d)\.0\.(.+)", r"neck.lateral_convs.\1.conv.\2"),
    (r"neck\.fpn\.layer_blocks\.(\d)\.0\.(.+)", r"neck.fpn_convs.\1.conv.\2"),
    (r"neck\.p6\.(.+)", r"neck.fpn_convs.3.conv.\1"),
    (r"neck\.p7\.(.+)", r"neck.fpn_convs.4.conv.\1"),
    (r"rpn\.head\.conv\.(.+)", r"rpn_head.rpn_conv.\1"),
    (r"rpn\.head\.cls_logits\.(.+)", r"rpn_head.rpn_cls.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"rpn_head.rpn_reg.\1"),
    *((rf"regions\.head\.{name}\.(.+)", rf"roi_head.bbox_head.shared_fcs.{place}.\1") for name, place in _TWO_FC.items()),
    *((rf"regions\.heads\.(\d)\.{name}\.(.+)", rf"roi_head.bbox_head.\1.shared_fcs.{place}.\2") for name, place in _TWO_FC.items()),
    (r"regions\.head\.predictor\.cls_score\.(.+)", r"roi_head.bbox_head.fc_cls.\1"),
    (r"regions\.head\.predictor\.bbox_pred\.(.+)", r"roi_head.bbox_head.fc_reg.\1"),
    (r"regions\.heads\.(\d)\.predictor\.cls_score\.(.+)", r"roi_head.bbox_head.\1.fc_cls.\2"),
    (r"regions\.heads\.(\d)\.predictor\.bbox_pred\.(.+)", r"roi_head.bbox_head.\1.fc_reg.\2"),
    (r"head\.class_subnet\.convs\.(\d)\.(.+)", r"bbox_head.cls_convs.\1.conv.\2"),
    (r"head\.box_subnet\.convs\.(\d)\.(.+)", r"bbox_head.reg_convs.\1.conv.\2"),
    (r"head\.class_subnet\.predict\.(.+)", r"bbox_head.retina_cls.\1"),
    (r"head\.box_subnet\.predict\.(.+)", r"bbox_head.retina_reg.\1"),
)


def _detectron2(first: int) -> Names:
    """`first`: the stage that the pyramid's first map comes from."""
    body = "backbone.bottom_up"
    stages = [
        (rf"backbone\.layer{stage - 1}\.(\d+)\.{ours}\.(.+)", rf"{body}.res{stage}.\1.{theirs}.\2")
        for stage in (2, 3, 4, 5)
        for ours, theirs in (
            *((f"conv{place}", f"conv{place}") for place in (1, 2, 3)),
            *((f"bn{place}", f"conv{place}.norm") for place in (1, 2, 3)),
            (r"downsample\.0", "shortcut"),
            (r"downsample\.1", "shortcut.norm"),
        )
    ]
    levels = [
        (rf"neck\.fpn\.{ours}_blocks\.{level}\.0\.(.+)", rf"backbone.fpn_{theirs}{level + first}.\1")
        for level in range(6 - first)
        for ours, theirs in (("inner", "lateral"), ("layer", "output"))
    ]
    heads = [
        (rf"{ours}\.(\d)\.{name}\.(.+)" if many else rf"{ours}\.{name}\.(.+)", theirs)
        for many, ours in ((False, r"regions\.head"), (True, r"regions\.heads"))
        for name, part in (
            ("fc6", "box_head{0}.fc1"),
            ("fc7", "box_head{0}.fc2"),
            (r"predictor\.cls_score", "box_predictor{0}.cls_score"),
            (r"predictor\.bbox_pred", "box_predictor{0}.bbox_pred"),
        )
        for theirs in ("roi_heads." + part.format(r".\1" if many else "") + (r".\2" if many else r".\1"),)
    ]
    subnets = [
        (rf"head\.{ours}_subnet\.convs\.{depth}\.(.+)", rf"head.{theirs}_subnet.{2 * depth}.\1")
        for ours, theirs in (("class", "cls"), ("box", "bbox"))
        for depth in range(4)
    ]
    return (
        (r"backbone\.conv1\.(.+)", rf"{body}.stem.conv1.\1"),
        (r"backbone\.bn1\.(.+)", rf"{body}.stem.conv1.norm.\1"),
        *stages,
        *levels,
        (r"neck\.(p6|p7)\.(.+)", r"backbone.top_block.\1.\2"),
        (r"rpn\.head\.conv\.(.+)", r"proposal_generator.rpn_head.conv.\1"),
        (r"rpn\.head\.cls_logits\.(.+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
        (r"rpn\.head\.bbox_pred\.(.+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
        *heads,
        *subnets,
        (r"head\.class_subnet\.predict\.(.+)", r"head.cls_score.\1"),
        (r"head\.box_subnet\.predict\.(.+)", r"head.bbox_pred.\1"),
    )


_TORCHVISION: Names = (
    (r"backbone\.(.+)", r"backbone.body.\1"),
    (r"neck\.fpn\.(.+)", r"backbone.fpn.\1"),
    (r"neck\.(p6|p7)\.(.+)", r"backbone.fpn.extra_blocks.\1.\2"),
    (r"rpn\.head\.conv\.(.+)", r"rpn.head.conv.0.0.\1"),
    (r"rpn\.head\.(cls_logits|bbox_pred)\.(.+)", r"rpn.head.\1.\2"),
    (r"regions\.head\.(fc6|fc7)\.(.+)", r"roi_heads.box_head.\1.\2"),
    (r"regions\.head\.predictor\.(.+)", r"roi_heads.box_predictor.\1"),
    (r"head\.class_subnet\.convs\.(\d)\.(.+)", r"head.classification_head.conv.\1.0.\2"),
    (r"head\.box_subnet\.convs\.(\d)\.(.+)", r"head.regression_head.conv.\1.0.\2"),
    (r"head\.class_subnet\.predict\.(.+)", r"head.classification_head.cls_logits.\1"),
    (r"head\.box_subnet\.predict\.(.+)", r"head.regression_head.bbox_reg.\1"),
)


def theirs_named(state: Mapping[str, Tensor], library: str, kind: str) -> dict[str, Tensor]:
    """Our state as a library's own: "torchvision", "mmdet" or "detectron2"; `kind`: "faster_rcnn", "retinanet" or "cascade_rcnn"."""
    names = {"torchvision": _TORCHVISION, "mmdet": _MMDET, "detectron2": _detectron2(3 if kind == "retinanet" else 2)}[library]
    return {_their_name(name, names): _theirs(name, tensor, library) for name, tensor in state.items()}


def _their_name(name: str, names: Names) -> str:
    found = next((re.sub(pattern, theirs, name) for pattern, theirs in names if re.fullmatch(pattern, name)), None)
    assert found is not None, f"{name}: no rule names it"
    return found


def _theirs(name: str, tensor: Tensor, library: str) -> Tensor:
    """A tensor with background where the library has it, and a cell's anchors in its order."""
    if ".predictor." in name and library != "torchvision":
        if "cls_score" in name:
            return torch.cat((tensor[1:], tensor[:1]))
        return tensor if len(tensor) == 4 else tensor[4:]  # class-agnostic boxes have none of background
    if ".predict." in name and name.startswith("head."):
        anchors = tensor.reshape(SHAPES, SIDES, -1, *tensor.shape[1:])
        if library == "detectron2":
            return anchors.transpose(0, 1).flatten(0, 2)
        if library == "torchvision" and "class_subnet" in name:
            background = torch.full_like(anchors[:, :, :1], NEVER if tensor.ndim == 1 else 0.0)
            return torch.cat((background, anchors), 2).flatten(0, 2)
    return tensor


def fits(theirs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """What of a library's own state a converted one leaves out, adds or has in another shape, in words; counters of norms apart."""
    for name in sorted(theirs.keys() | state.keys()):
        if name.endswith("num_batches_tracked"):
            continue
        if name not in state:
            yield f"{name}: nothing of ours becomes it"
        elif name not in theirs:
            yield f"{name}: it has no such tensor"
        elif theirs[name].shape != state[name].shape:
            yield f"{name}: {tuple(theirs[name].shape)} there, {tuple(state[name].shape)} from ours"
