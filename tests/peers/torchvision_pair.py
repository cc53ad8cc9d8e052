"""Detectors of ours and of torchvision with the same weights: random, but such that scores and boxes are spread as a trained net's are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from bench.scales import SCALES
from bench.spec import Request, Setting
from implementations.baselines.faster_rcnn import faster_rcnn_fpn

CLASSES = 20
RENAMED = {  # torchvision's prefix -> ours; every tensor falls under exactly one
    "backbone.body.": "backbone.",
    "backbone.fpn.": "neck.fpn.",
    "rpn.head.conv.0.0.": "rpn.head.conv.",
    "rpn.head.cls_logits.": "rpn.head.cls_logits.",
    "rpn.head.bbox_pred.": "rpn.head.bbox_pred.",
    "roi_heads.box_head.": "regions.head.",
    "roi_heads.box_predictor.": "regions.head.predictor.",
}


def renamed(name: str) -> str:
    (prefix,) = [prefix for prefix in RENAMED if name.startswith(prefix)]
    return RENAMED[prefix] + name.removeprefix(prefix)


def enliven(model: torch.nn.Module) -> None:
    """Random weights that give spread scores and boxes: norms with statistics of their own, damped branches, bold predictors."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif ".bn" in name and name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=generator)
        elif name.endswith("bn3.weight"):
            tensor.uniform_(0.1, 0.3, generator=generator)
        elif name.endswith(("cls_logits.weight", "bbox_pred.weight", "cls_score.weight")):
            tensor.normal_(0, 1, generator=generator)


def scale_outputs(model: torch.nn.Module, images: list[torch.Tensor]) -> None:
    """Divide each predictor's weights by what it gives on the images, so that it gives logits and offsets of the size of a trained net's."""
    wanted = {
        "rpn.head.cls_logits": 2.0,
        "rpn.head.bbox_pred": 0.3,
        "roi_heads.box_predictor.cls_score": 2.0,
        "roi_heads.box_predictor.bbox_pred": 0.7,
    }
    for name, deviation in wanted.items():  # the proposal network first: the rest reads its boxes
        layer, seen = model.get_submodule(name), []
        hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.flatten()))
        model(images)
        hook.remove()
        layer.weight.mul_(deviation / torch.cat(seen).std())


def photograph(height: int, width: int) -> torch.Tensor:
    """Smooth colour with detail at every size."""
    generator = torch.Generator().manual_seed(height * 10_000 + width)
    layers = [torch.rand(1, 3, -(-height // n), -(-width // n), generator=generator) for n in (64, 16, 4, 1)]
    grown = [torch.nn.functional.interpolate(layer, size=(height, width), mode="bilinear") for layer in layers]
    return torch.stack(grown).mean(0)[0]


def share_weights(ours: torch.nn.Module, theirs: torch.nn.Module, renamed: Callable[[str], str], drawn: Callable[[torch.Tensor], object]) -> None:
    """Draw weights for torchvision's detector, seeing a small photograph, and put all of them into ours by their names there."""
    full, theirs.transform.min_size = theirs.transform.min_size, (160,)
    with torch.no_grad():
        drawn(photograph(160, 224))
    theirs.transform.min_size = full
    weights = {renamed(name): tensor for name, tensor in theirs.state_dict().items()}
    assert set(weights) == set(ours.state_dict())
    ours.load_state_dict(weights, assign=True)


def torchvision_pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Ours and torchvision's Faster R-CNN R50-FPN in evaluation, with one set of random weights."""
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    with torch.device("meta"):
        ours = faster_rcnn_fpn(Request(Setting("voc", CLASSES, 800, 1333, "R50"), SCALES["paper"], CLASSES)).eval()
    share_weights(ours, theirs, renamed, lambda image: (enliven(theirs), scale_outputs(theirs, [image])))
    return ours, theirs
