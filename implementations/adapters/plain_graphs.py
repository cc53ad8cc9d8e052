"""Any graph that answers with boxes, scores and labels, as a Detector; how to read it stands in a JSON beside it, NAME.json beside NAME.onnx.

Without that file: RGB in 0..1, corners x1 y1 x2 y2 in pixels of the graph's input, labels from 0. With torchvision's own export, {"background": 0}.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.adapters import Wanted
from bench.types import Batch, Detections, Unavailable, UserError
from implementations.adapters.answers import answer
from implementations.adapters.sidecar import BESIDE, opened

COLUMNS = ("boxes", "scores", "labels")
ORDERS = ("xyxy", "xywh", "cxcywh", "yxyx")
WHY_NOT = "a graph has no gradients; train the model that it was exported from"


@dataclass(frozen=True)
class Reading:
    """How a graph wants its pixels, and how its answers are to be read."""

    colour: str = "rgb"  # or "bgr"
    range: float = 1.0  # the largest value of a pixel: 1 or 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # in the graph's own colour order and range
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    boxes: str = "xyxy"  # of ORDERS
    relative: bool = False  # as shares of the image instead of pixels of the graph's input
    background: int | None = None  # the label of background, if it is among them: those above it move down by one
    outputs: Mapping[str, str] = field(default_factory=dict)  # ours -> the graph's name of it, where they differ


@dataclass(frozen=True)
class Session:
    """A graph in a runtime. A side of `shape` that is free is None."""

    shape: tuple[int | None, ...]  # of its one input: (3, H, W) or (B, 3, H, W)
    outputs: tuple[str, ...]
    run: Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Raw:
    """The graph's outputs by our names, one mapping an image."""

    said: tuple[Mapping[str, Tensor], ...]
    sizes: tuple[tuple[int, int], ...]
    originals: tuple[tuple[int, int], ...]


@dataclass
class GraphDetector:
    """A graph as a Detector; images go through it one by one."""

    path: Path
    session: Session
    reading: Reading
    size: tuple[int, int] | None  # height and width that images are brought to; None: as they are

    why_not = WHY_NOT

    @property
    def weights_from(self) -> str:
        """The file."""
        return self.path.name

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Bring to size, to the graph's colour order and range, normalise, pad to one tensor."""
        made = [self._pixels(image) for image in images]
        sizes = tuple((int(one.shape[-2]), int(one.shape[-1])) for one in made)
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        padded = [F.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2])) for one in made]
        return Batch(torch.stack(padded), sizes, tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images))

    def _pixels(self, image: Tensor) -> Tensor:
        reading = self.reading
        if self.size is not None and tuple(image.shape[-2:]) != self.size:
            image = F.interpolate(image[None], size=self.size, mode="bilinear", align_corners=False)[0]
        image = (image.flip(0) if reading.colour == "bgr" else image) * reading.range
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (reading.mean, reading.std))
        return (image.cpu() - mean) / std

    def network(self, batch: Batch) -> Raw:
        """The graph, image by image, without padding."""
        said = []
        for pixels, (height, width) in zip(batch.pixels, batch.sizes, strict=True):
            given = pixels[:, :height, :width].contiguous()
            found = dict(zip(self.session.outputs, self.session.run(given if len(self.session.shape) == 3 else given[None]), strict=True))
            said.append({ours: found[self.reading.outputs.get(ours, ours)] for ours in COLUMNS})
        return Raw(tuple(said), batch.sizes, batch.originals)

    def finish(self, raw: Raw) -> list[Detections]:
        """Corners in pixels of the image as given, labels without background, best first."""
        return [self._found(*each) for each in zip(raw.said, raw.sizes, raw.originals, strict=True)]

    def _found(self, said: Mapping[str, Tensor], size: tuple[int, int], original: tuple[int, int]) -> Detections:
        boxes, scores, labels = said["boxes"].reshape(-1, 4).float(), said["scores"].flatten(), said["labels"].flatten().long()
        base = (1, 1) if self.reading.relative else size
        ratio = torch.tensor([original[1] / base[1], original[0] / base[0]] * 2)
        labels = _without(labels, self.reading.background)
        return answer(corners(boxes, self.reading.boxes)[labels >= 0] * ratio, scores[labels >= 0], labels[labels >= 0], size=original)

    def weights_hash(self) -> str:
        """SHA-256 of the file, which holds the weights."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def stored_bytes(self) -> int:
        """Of the file, and for OpenVINO's of the weights beside it."""
        beside = self.path.with_suffix(".bin") if self.path.suffix == ".xml" else None
        return self.path.stat().st_size + (beside.stat().st_size if beside is not None and beside.exists() else 0)

    def forward(self, *_: Any) -> dict[str, Tensor]:
        """Unavailable: a graph has no gradients."""
        raise Unavailable(WHY_NOT)


def corners(boxes: Tensor, order: str) -> Tensor:
    """(N, 4) in one of ORDERS -> x1 y1 x2 y2."""
    if order == "yxyx":
        return boxes[:, [1, 0, 3, 2]]
    first, second = boxes[:, :2], boxes[:, 2:]
    if order == "xywh":
        return torch.cat((first, first + second), 1)
    return torch.cat((first - second / 2, first + second / 2), 1) if order == "cxcywh" else boxes


def _without(labels: Tensor, background: int | None) -> Tensor:
    """Labels 0..C-1, -1 where they were background."""
    if background is None:
        return labels
    return torch.where(labels == background, -1, labels - (labels > background).long())


def read_reading(path: Path) -> Reading:
    """The JSON beside a graph; the defaults where there is none, UserError for a key or a value that is none."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return Reading()
    allowed = [one.name for one in fields(Reading)]
    try:
        told = json.loads(beside.read_text())
        unknown = next((key for key in told if key not in allowed), "")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{beside}: not a JSON object ({error}); allowed keys: {', '.join(allowed)}") from error
    if unknown or told.get("boxes", "xyxy") not in ORDERS or told.get("colour", "rgb") not in {"rgb", "bgr"}:
        what = f"unknown key {unknown!r}" if unknown else "an order or a colour that is none"
        raise UserError(f"{beside}: {what}; allowed keys: {', '.join(allowed)}; boxes: {', '.join(ORDERS)}; colour: rgb, bgr")
    return Reading(**{key: tuple(value) if isinstance(value, list) else value for key, value in told.items()})


def one_input(path: Path, names: Sequence[str]) -> str:
    """The name of a graph's input; UserError for a graph that takes more than one, or none."""
    if len(names) != 1:
        told = f"{path.name}: takes {len(names)} inputs ({', '.join(names) or 'none'})"
        raise UserError(f"{told}; allowed: one, an image (3, H, W) or (1, 3, H, W); export it again with what else it takes as constants")
    return names[0]


def build_graph(wanted: Wanted, runner: Callable[[Path], Any], open_session: Callable[[Path], Session]) -> Any:
    """The detector of a graph: one of ours where its detector.json stands beside it, else any that answers with boxes, scores and labels."""
    path = Path(wanted.name)
    if wanted.weights is not None:
        raise UserError(f"{wanted.name}: a graph brings its weights; leave --weights out")
    if not path.is_file():
        raise UserError(f"{wanted.name}: there is no such file; give an exported graph")
    if (path.parent / BESIDE).is_file():
        return opened(path.parent, runner, wanted.size)
    session, reading = open_session(path), read_reading(path)
    missing = [ours for ours in COLUMNS if reading.outputs.get(ours, ours) not in session.outputs]
    if missing or len(session.shape) not in {3, 4}:
        told = f"its outputs are {', '.join(session.outputs)} and its input has {len(session.shape)} sides"
        raise UserError(
            f"{path.name}: {told}; allowed: boxes, scores, labels of an image (3, H, W) or (1, 3, H, W), or other names in {path.stem}.json"
        )
    height, width = session.shape[-2:]
    fixed = (height, width) if height is not None and width is not None else None
    if fixed and wanted.size and wanted.size != fixed:
        raise UserError(f"{path.name}: its input is {fixed[0]}x{fixed[1]}; give --size {fixed[0]}x{fixed[1]}, or leave it out")
    return GraphDetector(path, session, reading, fixed or wanted.size)
