"""What mmdet and detectron2 define otherwise than we do: each difference a switch that gives a built model our definition for a while."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from implementations.baselines.faster_rcnn import STRIDES
from implementations.layers.anchors import cell_anchors
from implementations.layers.pooling import SAMPLES

RESIZE = "resize"  # switched by giving the picture resized as we do
ANCHORS = ("anchor sides", "anchor corners", "anchor steps")


@dataclass(frozen=True)
class Difference:
    """One difference in definition."""

    key: str
    ours: str
    theirs: str


@dataclass(frozen=True)
class Grid:
    """The anchors of a detector of ours, as their definition needs them."""

    sizes: tuple[tuple[float, ...], ...]  # px, of each level, as we cut them
    ratios: tuple[float, ...]
    strides: tuple[int, ...]  # px, of each level
    base: float  # px: the side of the smallest anchor before it is cut

    def exact(self, level: int) -> tuple[float, ...]:
        """The sides of a level before they are cut to whole pixels: octaves of the smallest and equal parts of an octave."""
        count = len(self.sizes[level])
        return tuple(self.base * 2.0**level * 2 ** (place / count) for place in range(count))


DIFFERENCES: dict[str, Difference] = {
    each.key: each
    for each in (
        Difference(RESIZE, "sides rounded down", "sides rounded to the nearest pixel"),
        Difference("anchor sides", "cut to whole pixels", "as they come (32 x 2^(1/3) = 40.32)"),
        Difference("anchor corners", "rounded to whole pixels", "as they come"),
        Difference("anchor steps", "the input's side // cells, as torchvision", "the stride, also where it does not divide the input"),
        Difference("RoI half pixel", "RoIs at cells' corners (aligned=False)", "RoIs half a cell earlier (aligned=True)"),
        Difference("RoI samples", "two a bin's side", "as many as a bin has cells (sampling_ratio=0)"),
        Difference("class offsets", "suppression class by class, or with offsets where boxes are few", "offsets of the largest coordinate, always"),
        Difference("P7's ReLU", "P7 from P6 behind a ReLU", "P7 from P6 as it is"),
        Difference("stages' scores", "the mean of the stages' probabilities", "the softmax of the mean of their logits"),
        Difference("stages' deviations", "1/30 and 1/15 for the third stage", "0.033 and 0.067"),
        Difference("cut at the image", "before suppression", "after it"),
        Difference("empty boxes", "kept, as torchvision: a box pressed flat at the image's edge", "dropped from what was found"),
        Difference("stages' stride", "in the 3x3 of a stage's first block", "in its first 1x1"),
    )
}
TWO_STAGE = (RESIZE, "anchor corners", "anchor steps", "RoI half pixel", "RoI samples")
APPLY: dict[tuple[str, str], tuple[str, ...]] = {  # library, kind -> the differences that it has
    ("torchvision", "faster_rcnn"): (),
    ("torchvision", "retinanet"): (),
    ("mmdet", "faster_rcnn"): (*TWO_STAGE, "class offsets"),
    ("mmdet", "retinanet"): (RESIZE, *ANCHORS, "class offsets", "P7's ReLU", "empty boxes"),
    ("mmdet", "cascade_rcnn"): (*TWO_STAGE, "class offsets", "stages' scores", "stages' deviations"),
    ("detectron2", "faster_rcnn"): (*TWO_STAGE, "stages' stride"),
    ("detectron2", "retinanet"): (RESIZE, *ANCHORS, "cut at the image", "empty boxes", "stages' stride"),
    ("detectron2", "cascade_rcnn"): (*TWO_STAGE, "stages' stride"),
}


def grid_of(ours: Any) -> Grid:
    """The anchors of a detector of ours."""
    if hasattr(ours, "rpn"):
        config = ours.config.rpn
        return Grid(config.anchor_sizes, config.ratios, (*STRIDES, 2 * STRIDES[-1]), config.anchor_sizes[0][0])
    return Grid(ours.config.anchor_sizes, ours.config.ratios, ours.config.strides, ours.config.anchor_sizes[0][0])


@contextmanager
def as_ours(library: str, kind: str, detector: Any, grid: Grid, left: Collection[str] = ()) -> Iterator[None]:
    """The detector with our definitions but for those `left`, and afterwards with its own again. RESIZE is not switched here."""
    wanted = [key for key in APPLY[library, kind] if key not in left and key != RESIZE]
    with ExitStack() as stack:
        if set(wanted) & set(ANCHORS):
            stack.enter_context(swapped(_anchors(library, detector.model, grid, left)))
        for key in wanted:
            if key in SWITCHES:
                stack.enter_context(swapped(*SWITCHES[key](library, detector.model)))
        if "stages' scores" in wanted:
            stack.enter_context(_probabilities(detector.model))
        yield


Change = tuple[Any, str, Any]  # object, attribute, value


@contextmanager
def swapped(*changes: Change) -> Iterator[None]:
    """Attributes with other values for a while."""
    before = [(place, name, getattr(place, name)) for place, name, _ in changes]
    for place, name, value in changes:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


# ---- anchors


def anchors(grid: Grid, cells: Sequence[tuple[int, int]], left: Collection[str], *, by_side: bool) -> list[Tensor]:
    """Every level's anchors (H * W * A, 4) by our definition but for what is `left`; `by_side`: a cell's are listed side by side.

    The input is as large as the finest level's cells: all nets here pad it to a multiple of 32.
    """
    image = tuple(side * grid.strides[0] for side in cells[0])
    found = []
    for level, (rows, columns) in enumerate(cells):
        sizes = grid.exact(level) if "anchor sides" in left else grid.sizes[level]
        cell = _cell(sizes, grid.ratios) if "anchor corners" in left else cell_anchors(sizes, grid.ratios)
        if by_side:
            cell = cell.view(len(grid.ratios), len(sizes), 4).transpose(0, 1).reshape(-1, 4)
        own = (grid.strides[level],) * 2
        down, across = own if "anchor steps" in left else (image[0] // rows, image[1] // columns)
        y, x = torch.meshgrid(torch.arange(rows) * float(down), torch.arange(columns) * float(across), indexing="ij")
        found.append((torch.stack((x, y, x, y), 2).reshape(-1, 1, 4) + cell).reshape(-1, 4))
    return found


def _cell(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """As ours, and not rounded."""
    root = torch.tensor(ratios).sqrt().unsqueeze(1)
    width, height = (torch.tensor(sizes) / root).flatten(), (torch.tensor(sizes) * root).flatten()
    return torch.stack((-width, -height, width, height), 1) / 2


def _anchors(library: str, model: Any, grid: Grid, left: Collection[str]) -> Change:
    if library == "mmdet":
        head = getattr(model, "rpn_head", None) or model.bbox_head

        def priors(cells: Sequence[Any], dtype: torch.dtype = torch.float32, device: Any = "cpu") -> list[Tensor]:
            return [each.to(device, dtype) for each in anchors(grid, [(int(h), int(w)) for h, w in cells], left, by_side=False)]

        return (head.prior_generator, "grid_priors", priors)
    generator = getattr(model, "anchor_generator", None) or model.proposal_generator.anchor_generator

    def laid(cells: Sequence[Any]) -> list[Tensor]:
        return anchors(grid, [(int(h), int(w)) for h, w in cells], left, by_side=True)

    return (generator, "_grid_anchors", laid)


# ---- the others


def _pools(library: str, model: Any) -> list[Any]:
    if library == "detectron2":
        return list(model.roi_heads.box_pooler.level_poolers)
    pools = model.roi_head.bbox_roi_extractor
    return [layer for pool in (pools if isinstance(pools, nn.ModuleList) else [pools]) for layer in pool.roi_layers]


def _half_pixel(library: str, model: Any) -> list[Change]:
    return [(pool, "aligned", False) for pool in _pools(library, model)]


def _samples(library: str, model: Any) -> list[Change]:
    return [(pool, "sampling_ratio", SAMPLES) for pool in _pools(library, model)]


def _class_offsets(_: str, __: Any) -> list[Change]:
    """The suppression of torchvision under mmdet's name of its own, wherever these detectors call it."""
    from mmdet.models.dense_heads import base_dense_head, rpn_head
    from mmdet.models.layers import bbox_nms
    from torchvision.ops import batched_nms

    def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, settings: Any, class_agnostic: bool = False) -> tuple[Tensor, Tensor]:
        assert not class_agnostic, "none of these detectors suppresses across classes"
        kept = batched_nms(boxes, scores, groups, settings["iou_threshold"])
        return torch.cat((boxes[kept], scores[kept, None]), 1), kept

    return [(module, "batched_nms", suppressed) for module in (base_dense_head, rpn_head, bbox_nms)]


def _relu(_: str, model: Any) -> list[Change]:
    return [(model.neck, "relu_before_extra_convs", True)]


def _deviations(_: str, model: Any) -> list[Change]:
    return [(model.roi_head.bbox_head[-1].bbox_coder, "stds", (1 / 30, 1 / 30, 1 / 15, 1 / 15))]


def _cut(_: str, model: Any) -> list[Change]:
    decode = model._decode_multi_level_predictions  # noqa: SLF001 - detectron2's own hook for its dense detectors

    def cut(*given: Any, **named: Any) -> Any:
        found = decode(*given, **named)
        found.pred_boxes.clip(found.image_size)
        return found

    return [(model, "_decode_multi_level_predictions", cut)]


def _empty(library: str, model: Any) -> list[Change]:
    """Of a dense detector: no box is too small for mmdet, none is empty for detectron2's last step."""
    if library == "mmdet":
        return [(model.bbox_head.test_cfg, "min_bbox_size", -1)]
    from detectron2.structures import Boxes

    return [(Boxes, "nonempty", lambda boxes, threshold=0.0: torch.ones(len(boxes), dtype=torch.bool, device=boxes.device))]  # noqa: ARG005


def _stages_stride(_: str, model: Any) -> list[Change]:
    firsts = [model.backbone.bottom_up.get_submodule(f"res{stage}.0") for stage in (3, 4, 5)]
    return [(block.get_submodule(name), "stride", (step, step)) for block in firsts for name, step in (("conv1", 1), ("conv2", 2))]


SWITCHES: dict[str, Callable[[str, Any], list[Change]]] = {
    "RoI half pixel": _half_pixel,
    "RoI samples": _samples,
    "class offsets": _class_offsets,
    "P7's ReLU": _relu,
    "stages' deviations": _deviations,
    "cut at the image": _cut,
    "empty boxes": _empty,
    "stages' stride": _stages_stride,
}


@contextmanager
def _probabilities(model: Any) -> Iterator[None]:
    """Let mmdet's cascade average probabilities: each stage gives them in the place of logits, and the last takes them as they are."""
    heads = model.roi_head.bbox_head
    hooks = [head.register_forward_hook(lambda _, __, said: (said[0].softmax(-1), said[1])) for head in heads]
    loss = heads[-1].loss_cls
    loss.custom_cls_channels, loss.get_activation = True, lambda scores: scores
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        del loss.custom_cls_channels, loss.get_activation
