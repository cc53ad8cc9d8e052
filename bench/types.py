"""The words that everything shares: images, targets, detections, detectors. No behaviour beyond composing a detector's three phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class UserError(ValueError):
    """A mistake of the user: one line that names what was given, what is allowed and the next step. The CLI exits with 2."""


class Unusable(UserError):  # noqa: N818 - a state of what was learnt
    """What a row's own runs ended with lets nothing be built from it: as much a result as a number is, so the run's record says it."""


class Unavailable(Exception):  # noqa: N818 - a state of a detector, not a fault
    """Raised by an adapter that cannot do what is asked (train, export); its text is the reason that reaches the table."""


@dataclass(frozen=True)
class Target:
    """The ground truth of one image, in pixels of that image."""

    boxes: Tensor  # (N, 4) float32, x1 y1 x2 y2
    labels: Tensor  # (N,) int64, 0..C-1, background is not a label
    crowd: Tensor  # (N,) bool, COCO's iscrowd: never a positive, never a negative
    difficult: Tensor  # (N,) bool, VOC's difficult: trained on as others, ignored by the VOC metric
    seed: int = 0  # of every random draw that training makes for this image: a hash of (run's seed, epoch, image)


@dataclass(frozen=True)
class Detections:
    """What a detector found on one image, best first, in pixels of the image as given."""

    boxes: Tensor  # (N, 4) float32, x1 y1 x2 y2
    scores: Tensor  # (N,) float32, 0..1
    labels: Tensor  # (N,) int64, 0..C-1


@dataclass(frozen=True)
class Batch:
    """Images as the network wants them: resized, normalised, padded to one size."""

    pixels: Tensor  # (B, 3, H, W) float32
    sizes: tuple[tuple[int, int], ...]  # (height, width) of each image in `pixels`, padding left out
    originals: tuple[tuple[int, int], ...]  # (height, width) of each image as given


@runtime_checkable
class Detector(Protocol):
    """Enough to detect, to time and to count. Images are (3, H, W) float32 in 0..1, RGB."""

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad."""

    def network(self, batch: Batch) -> Any:
        """All that learns, proposals included."""

    def finish(self, raw: Any) -> list[Detections]:
        """Decode, suppress, and go back to the pixels of each image as given."""


@runtime_checkable
class Trainable(Detector, Protocol):
    """A detector that is an nn.Module and learns."""

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named losses, each a scalar; the trainer minimises their sum and knows no criterion."""


def detect(detector: Detector, images: Sequence[Tensor]) -> list[Detections]:
    """The whole detector: images in, detections out."""
    return detector.finish(detector.network(detector.prepare(images)))


@dataclass(frozen=True)
class GroundTruth:
    """A split's annotations as columns, for the metrics (numpy; one row a box)."""

    image_ids: np.ndarray  # (I,) int64, every image of the split, the empty ones too
    image: np.ndarray  # (N,) int64, the image_id of each box
    boxes: np.ndarray  # (N, 4) float64, x1 y1 x2 y2
    labels: np.ndarray  # (N,) int64, 0..C-1
    crowd: np.ndarray  # (N,) bool
    difficult: np.ndarray  # (N,) bool
    area: np.ndarray  # (N,) float64, the annotation's own area where it has one, else the box's
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Predictions:
    """A detector's answers on a split as columns (numpy; one row a detection)."""

    image: np.ndarray  # (M,) int64, image_id
    boxes: np.ndarray  # (M, 4) float32, x1 y1 x2 y2, pixels of the image as given
    scores: np.ndarray  # (M,) float32, 0..1
    labels: np.ndarray  # (M,) int64, 0..C-1


class Split(Protocol):
    """One split of a dataset; images are decoded when asked for."""

    @property
    def name(self) -> str:
        """As in "scenes-v1/train", "coco:test.json"."""

    @property
    def digest(self) -> str:
        """Of everything that the numbers depend on."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels 0..C-1."""

    def __len__(self) -> int:
        """Number of images."""

    def image(self, index: int) -> Tensor:
        """The image, (3, H, W) float32 in 0..1."""

    def target(self, index: int) -> Target:
        """Its ground truth, without decoding the image."""

    def image_id(self, index: int) -> int:
        """The identifier that predictions carry."""

    def image_name(self, index: int) -> str:
        """What an error message calls it."""

    def ground_truth(self) -> GroundTruth:
        """All annotations as columns, without decoding an image."""
