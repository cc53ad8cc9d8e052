"""Figures 3 and 5: what a trained condensed head looks at, drawn on the image: key parts as boxes, the global part as a heat map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from bench.types import UserError, detect
from implementations.condensing.model import CondensedHead, Explanation
from implementations.layers.rpn import Proposals

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from implementations.layers.two_stage import TwoStage

MOST = 8  # key parts an object, the most confident (Figure 3)
LEAST = 0.1  # confidence of a key part that is drawn (Appendix B)


@dataclass(frozen=True)
class View:
    """One object as the head saw it, in pixels of the image."""

    box: Tensor  # (4,)
    parts: Tensor  # (P, 4) the cells of its key parts, most confident first
    confidence: Tensor  # (P,)
    activation: Tensor  # (L, L) in 0..1


def cells(boxes: Tensor, positions: Tensor, side: int) -> Tensor:
    """The boxes of cells of a side x side grid laid over each box. (R, 4), (R, K) row * side + column -> (R, K, 4)."""
    corner, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None] / side
    place = torch.stack([positions % side, positions // side], dim=2)  # (R, K, 2): column, row
    return torch.cat([corner + place * size, corner + (place + 1) * size], dim=2)


def unit_range(activation: Tensor) -> Tensor:
    """Each map's values moved to 0..1; a flat map is 0. (R, L, L) -> the same shape."""
    least, most = activation.amin(dim=(1, 2), keepdim=True), activation.amax(dim=(1, 2), keepdim=True)
    return (activation - least) / (most - least).clamp(min=1e-12)


def views(explanation: Explanation, boxes: Tensor, *, most: int = MOST, least: float = LEAST) -> list[View]:
    """One view an object: the explanation of R RoIs and their boxes (R, 4) in the image."""
    side = explanation.confidence.shape[-1]
    confidence, order = explanation.confidence.amax(dim=(2, 3)).sort(dim=1, descending=True, stable=True)
    parts = cells(boxes, explanation.positions.gather(1, order), side)
    drawn = [int((row[:most] > least).sum()) for row in confidence]
    heat = unit_range(explanation.activation)
    return [View(boxes[i], parts[i, :count], confidence[i, :count], heat[i]) for i, count in enumerate(drawn)]


def _outline(axes: Axes, box: Tensor, colour: str, width: float) -> None:
    """A box as an empty rectangle."""
    left, top, right, bottom = box.tolist()
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width))


def draw(image: Tensor, objects: list[View], path: Path) -> None:
    """Write a PNG: left the image with objects (green) and key parts (yellow), right the global activation, red where it is high.

    image (3, H, W) in 0..1. Confident objects come first in the list and are drawn last.
    """
    height, width = image.shape[1:]
    figure = Figure(figsize=(10, 5 * height / width), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).cpu().numpy())
        axes.set_axis_off()
    for view in reversed(objects):
        _outline(left, view.box, "lime", 1.5)
        for part in view.parts:
            _outline(left, part, "yellow", 1.0)
        x1, y1, x2, y2 = view.box.tolist()
        right.imshow(view.activation.numpy(), cmap="jet", alpha=0.55, extent=(x1, x2, y2, y1), interpolation="bilinear", vmin=0, vmax=1)
    for axes in (left, right):
        axes.set(xlim=(0, width), ylim=(height, 0))
    figure.savefig(path, format="png", dpi=120)


def _condensed(detector: nn.Module) -> CondensedHead:
    """The detector's condensed head; of a cascade the first one, whose RoIs are the boxes as given."""
    head = next((module for module in detector.modules() if isinstance(module, CondensedHead)), None)
    if head is None:
        raise UserError("draw_key_parts: this detector has no condensed head; rows with K >= 1 and L >= 1 have; take one of these")
    return head


def explain(detector: TwoStage, image: Tensor, boxes: Tensor) -> Explanation:
    """What the detector's condensed head makes of these boxes (R, 4), in pixels of the image."""
    head = _condensed(detector)
    batch = detector.prepare([image])
    (height, width), (rows, columns) = batch.originals[0], batch.sizes[0]
    rois = boxes * boxes.new_tensor([columns / width, rows / height] * 2)
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        valid = torch.ones(1, len(rois), dtype=torch.bool, device=rois.device)
        detector.network(batch, Proposals(rois[None], valid, rois.new_tensor(batch.sizes)))
    finally:
        hook.remove()
    return head.explain(seen[0])


@torch.no_grad()
def draw_key_parts(detector: TwoStage, image: Tensor, path: Path, *, objects: int = 6, score: float = 0.3) -> int:
    """Detect, explain the best detections from that score on, write the PNG; returns how many were drawn. The detector is in eval mode."""
    _condensed(detector)
    found = detect(detector, [image])[0]
    boxes = found.boxes[found.scores >= score][:objects]
    draw(image, views(explain(detector, image, boxes), boxes) if len(boxes) else [], path)
    return len(boxes)
