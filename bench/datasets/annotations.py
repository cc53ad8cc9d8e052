"""What every annotated folder of images becomes, whichever format it was read from: columns of boxes, and a split over them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.types import GroundTruth, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

    from bench.types import Target

ROUNDING = 1.0  # pixels that a box may stick out by rounding, and is clipped; more is a fault
EMPTY = "is of zero or negative size"


class ImageFile(NamedTuple):
    """An image of a split: what predictions call it, what messages call it, where it is, its annotated size in pixels."""

    id: int
    name: str
    path: Path
    width: int
    height: int


class Box(NamedTuple):
    """One annotation of the image at position `image` of the split; corners in pixels, 0-based and continuous."""

    image: int
    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    crowd: bool
    difficult: bool
    area: float


@dataclass(frozen=True)
class AnnotatedImages:
    """A bench.types.Split over image files. `starts[i]:starts[i + 1]` are the rows of `truth` that are boxes of image i."""

    name: str
    digest: str
    images: tuple[ImageFile, ...]
    truth: GroundTruth
    starts: np.ndarray  # (I + 1,) int64

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels 0..C-1."""
        return self.truth.classes

    def __len__(self) -> int:
        """Number of images, those without a box too."""
        return len(self.images)

    def image(self, index: int) -> Tensor:
        """The image, (3, H, W) float32 in 0..1; UserError if it cannot be read or has another size than is annotated."""
        from bench.datasets.images import read_image

        file = self.images[index]
        return read_image(file.path, width=file.width, height=file.height)

    def target(self, index: int) -> Target:
        """Its ground truth."""
        import torch

        from bench.types import Target

        index = range(len(self))[index]  # a negative index counts from the end, one beyond it is an IndexError, as for `images`
        rows, truth = slice(int(self.starts[index]), int(self.starts[index + 1])), self.truth
        return Target(
            boxes=torch.from_numpy(truth.boxes[rows].astype(np.float32)),
            labels=torch.from_numpy(truth.labels[rows].copy()),
            crowd=torch.from_numpy(truth.crowd[rows].copy()),
            difficult=torch.from_numpy(truth.difficult[rows].copy()),
        )

    def image_id(self, index: int) -> int:
        """The identifier that predictions carry."""
        return self.images[index].id

    def image_name(self, index: int) -> str:
        """What an error message calls it."""
        return self.images[index].name

    def ground_truth(self) -> GroundTruth:
        """All annotations as columns, grouped by image, in the order of the file within each."""
        return self.truth


def columns(images: Sequence[ImageFile], boxes: Sequence[Box], classes: tuple[str, ...]) -> tuple[GroundTruth, np.ndarray]:
    """The boxes as columns, grouped by image, and where each image's rows start."""
    ids = np.array([image.id for image in images], dtype=np.int64)
    table = np.array(boxes, dtype=np.float64).reshape(-1, len(Box._fields))
    table = table[np.argsort(table[:, 0], kind="stable")]
    at = table[:, 0].astype(np.int64)
    truth = GroundTruth(
        image_ids=ids,
        image=ids[at],
        boxes=np.ascontiguousarray(table[:, 1:5]),
        labels=table[:, 5].astype(np.int64),
        crowd=table[:, 6].astype(bool),
        difficult=table[:, 7].astype(bool),
        area=table[:, 8].copy(),
        classes=classes,
    )
    return truth, np.searchsorted(at, np.arange(len(images) + 1))


def fit(corners: tuple[float, float, float, float], width: int, height: int) -> tuple[float, float, float, float] | str:
    """The box x1 y1 x2 y2 in pixels inside its image, clipped where rounding made it stick out; or what is wrong with it, in a few words."""
    x1, y1, x2, y2 = corners
    if not math.isfinite(x1 + y1 + x2 + y2):  # NaN and infinity stay what they are in a sum
        return "is not of finite numbers"
    if x1 < -ROUNDING or y1 < -ROUNDING or x2 > width + ROUNDING or y2 > height + ROUNDING:
        return f"lies outside its image of {width}x{height}"
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if x2 <= x1 or y2 <= y1:
        return EMPTY
    return x1, y1, x2, y2


def raise_faults(file: Path | str, faults: Sequence[str]) -> None:
    """UserError with the file, its first fault and the count of the others; nothing if there is none."""
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"{file}: {faults[0]}{more}")


def folder_digest(texts: Iterable[bytes], images: Iterable[ImageFile]) -> str:
    """A hash over the annotations' bytes and the images' names and sizes in bytes.

    Not over the images' content, which would be read in full at every opening; a picture that is exchanged for another of the same name and
    length goes unseen.
    """
    digest = hashlib.sha256(b"leandet-annotations-1\n")
    for text in texts:
        digest.update(hashlib.sha256(text).digest())
    for image in images:
        digest.update(f"{image.name}\0{image.path.stat().st_size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def shown(value: object) -> str:
    """A value of a broken file as it stands in a message: one line, short."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end, or an integer of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def reason(error: BaseException) -> str:
    """What an error says, as it stands in a message: one line, short; its kind where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
