"""Ours and torchvision's detectors with one set of random weights, image by image: how far scores and boxes are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.adapters import Wanted
from bench.types import Detections, detect
from implementations.adapters import torchvision

if TYPE_CHECKING:
    from bench.spec import Request

SCORE, PX = 1e-3, 1e-1  # how far apart an answer may be
FRCNN: Mapping[str, str] = {  # torchvision's prefix -> ours; every tensor falls under exactly one
    "backbone.body.": "backbone.",
    "backbone.fpn.": "neck.fpn.",
    "rpn.head.conv.0.0.": "rpn.head.conv.",
    "rpn.head.cls_logits.": "rpn.head.cls_logits.",
    "rpn.head.bbox_pred.": "rpn.head.bbox_pred.",
    "roi_heads.box_head.": "regions.head.",
    "roi_heads.box_predictor.": "regions.head.predictor.",
}
RETINA: Mapping[str, str] = {
    "backbone.body.": "backbone.",
    "backbone.fpn.extra_blocks.": "neck.",
    "backbone.fpn.inner_blocks.": "neck.fpn.inner_blocks.",
    "backbone.fpn.layer_blocks.": "neck.fpn.layer_blocks.",
    **{f"head.classification_head.conv.{depth}.0.": f"head.class_subnet.convs.{depth}." for depth in range(4)},
    "head.classification_head.cls_logits.": "head.class_subnet.predict.",
    **{f"head.regression_head.conv.{depth}.0.": f"head.box_subnet.convs.{depth}." for depth in range(4)},
    "head.regression_head.bbox_reg.": "head.box_subnet.predict.",
}


@dataclass(frozen=True)
class Pair:
    """A detector that both have."""

    name: str  # torchvision's
    prefixes: Mapping[str, str]  # of its tensors: torchvision's -> ours
    spread: tuple[tuple[str, float, float | None], ...]  # layer, deviation of its outputs, its bias (None: as it is), in the order they are read in


PAIRS = (
    Pair(
        "fasterrcnn_resnet50_fpn",
        FRCNN,
        (
            ("rpn.head.cls_logits", 2.0, None),
            ("rpn.head.bbox_pred", 0.3, None),
            ("roi_heads.box_predictor.cls_score", 2.0, None),
            ("roi_heads.box_predictor.bbox_pred", 0.7, None),
        ),
    ),
    Pair("retinanet_resnet50_fpn", RETINA, (("head.classification_head.cls_logits", 1.5, -4.0), ("head.regression_head.bbox_reg", 0.3, 0.0))),
)


@dataclass(frozen=True)
class Residual:
    """One detector on one image."""

    name: str
    size: tuple[int, int]  # of the image as given
    found: tuple[int, int]  # detections of ours and of theirs
    unpaired: int  # that have no counterpart of the same label within both tolerances
    score: float  # the largest difference among those that have, and among all when paired in order
    px: float

    @property
    def same(self) -> bool:
        """Whether every detection has its counterpart within the tolerances."""
        return self.found[0] == self.found[1] > 0 and not self.unpaired and self.score <= SCORE and self.px <= PX


def built_pair(pair: Pair, request: Request, build: Callable[[Request], Any]) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs, behind its adapter, with one set of random weights that spread scores and boxes as a trained net's are."""
    theirs = torchvision.build(Wanted(pair.name, request.classes, (request.setting.min_px, request.setting.max_px)))
    ours = build(request).eval()
    if not theirs.two_stage:
        theirs.model.detections_per_img = ours.config.detections  # torchvision's RetinaNet keeps 300, ours as its paper 100
    with torch.no_grad():
        enliven(theirs.model)
        _spread(theirs, pair)
    ours.load_state_dict(dict(_renamed(theirs.model.state_dict(), pair, request.classes)))
    return ours, theirs


def enliven(model: nn.Module) -> None:
    """Random weights: norms with statistics of their own, damped branches, bold predictors."""
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
        elif name.startswith("head.") and name.endswith("weight"):
            nn.init.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)


def _spread(detector: torchvision.TorchvisionDetector, pair: Pair) -> None:
    """Divide each predictor's weights by what it gives on a small picture, so that logits and offsets are of the size of a trained net's."""
    full, detector.model.transform.min_size = detector.model.transform.min_size, (160,)
    for name, deviation, shift in pair.spread:
        layer: Any = detector.model.get_submodule(name)
        seen: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.flatten()))
        detect(detector, [photograph(160, 224)])
        hook.remove()
        layer.weight.mul_(deviation / torch.cat(seen).std())
        if shift is not None:
            layer.bias.fill_(shift)
    detector.model.transform.min_size = full


def _renamed(state: Mapping[str, Tensor], pair: Pair, classes: int) -> Iterator[tuple[str, Tensor]]:
    """Their tensors under our names; RetinaNet's output for background, which ours does not have, is left out."""
    for name, tensor in state.items():
        (prefix,) = [prefix for prefix in pair.prefixes if name.startswith(prefix)]
        outputs = classes + 1
        dense = prefix.endswith("classification_head.cls_logits.")
        kept = tensor.reshape(-1, outputs, *tensor.shape[1:])[:, 1:].flatten(0, 1) if dense else tensor
        yield pair.prefixes[prefix] + name.removeprefix(prefix), kept


def photograph(height: int, width: int) -> Tensor:
    """(3, height, width) in 0..1: smooth colour with detail at every size."""
    generator = torch.Generator().manual_seed(height * 10_000 + width)
    layers = [torch.rand(1, 3, -(-height // n), -(-width // n), generator=generator) for n in (64, 16, 4, 1)]
    grown = [nn.functional.interpolate(layer, size=(height, width), mode="bilinear") for layer in layers]
    return torch.stack(grown).mean(0)[0]


def residuals(pair: Pair, request: Request, build: Callable[[Request], Any], sizes: Sequence[tuple[int, int]]) -> Iterator[Residual]:
    """Both on a picture of each size."""
    ours, theirs = built_pair(pair, request, build)
    for size in sizes:
        image = photograph(*size)
        with torch.inference_mode():
            yield compared(pair.name, size, detect(ours, [image])[0], detect(theirs, [image])[0])  # type: ignore[arg-type]  # both are detectors


def compared(name: str, size: tuple[int, int], ours: Detections, theirs: Detections) -> Residual:
    """Each of ours beside the one of theirs with its label that is nearest, each of theirs taken once; two equal scores may stand in either order."""
    free = torch.ones(len(theirs.scores), dtype=torch.bool)
    score, px, unpaired = 0.0, 0.0, abs(len(ours.scores) - len(theirs.scores))
    for box, value, label in zip(ours.boxes, ours.scores, ours.labels, strict=True):
        apart = torch.maximum((theirs.boxes - box).abs().amax(1) / PX, (theirs.scores - value).abs() / SCORE)
        apart[~free | (theirs.labels != label)] = torch.inf
        if not len(apart) or not torch.isfinite(apart.min()):
            unpaired += 1
            continue
        place = int(apart.argmin())
        free[place] = False
        score = max(score, float((theirs.scores[place] - value).abs()))
        px = max(px, float((theirs.boxes[place] - box).abs().max()))
    return Residual(name, size, (len(ours.scores), len(theirs.scores)), unpaired, score, px)


def builders() -> dict[str, Callable[[Request], Any]]:
    """Ours, by torchvision's name."""
    from implementations.baselines.faster_rcnn import faster_rcnn_fpn
    from implementations.baselines.retinanet import retinanet

    return {"fasterrcnn_resnet50_fpn": faster_rcnn_fpn, "retinanet_resnet50_fpn": retinanet}


def all_residuals(request: Request, sizes: Sequence[tuple[int, int]]) -> tuple[Residual, ...]:
    """Every pair on every size."""
    return tuple(residual for pair in PAIRS for residual in residuals(pair, request, builders()[pair.name], sizes))
