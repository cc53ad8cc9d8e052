"""The two-stage detector: features, proposals, regions, each a part that can be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from bench.types import Batch, Detections, Target
from implementations.layers import images as image_layer
from implementations.layers.targets import Truth, collate

if TYPE_CHECKING:
    from implementations.layers.parts import Part
    from implementations.layers.regions import Answers
    from implementations.layers.rpn import RPN, Proposals, RPNConfig


class Stage(Protocol):
    """A second stage: RegionStage, CascadeStage."""

    def losses(self, maps: Sequence[Tensor], proposals: Proposals, truth: Truth) -> dict[str, Tensor]:
        """Named losses."""

    def __call__(self, maps: Sequence[Tensor], proposals: Proposals) -> Answers:
        """What it says of every proposal."""

    def finish(self, answers: Answers, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections in pixels of the network's input."""


@dataclass(frozen=True)
class DetectorConfig:
    """Every number that makes a detector, for the record."""

    name: str
    shorter: int  # px that the shorter side of an image becomes
    longer: int  # px that the longer side never passes
    rpn: RPNConfig
    regions: tuple[object, ...]  # RegionConfig of each stage
    canonical: float = 0.0  # side in px of a RoI that is read from the map of stride 16; 0: one map only


@dataclass(frozen=True)
class Raw:
    """What the network says of a batch, before decoding."""

    answers: Answers
    sizes: tuple[tuple[int, int], ...]
    originals: tuple[tuple[int, int], ...]


class TwoStage(nn.Module):
    """Backbone, neck (Identity where there is none), proposal network, second stage."""

    def __init__(self, config: DetectorConfig, body: tuple[nn.Module, nn.Module | None], rpn: RPN, regions: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.backbone = body[0]
        self.neck = nn.Identity() if body[1] is None else body[1]
        self.rpn = rpn
        self.regions = regions

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad to a multiple of 32."""
        return image_layer.prepare(images, self.config.shorter, self.config.longer)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """The maps that both stages read."""
        return self.neck(self.backbone(pixels))

    def network(self, batch: Batch, proposals: Proposals | None = None) -> Raw:
        """All that learns. Proposals may be given, in pixels of the batch: equal counts for timing."""
        maps = self.features(batch.pixels)
        if proposals is None:
            proposals, _ = self.rpn(maps, canvas(batch), size_tensor(batch))
        return Raw(self.regions(maps, proposals), batch.sizes, batch.originals)

    def finish(self, raw: Raw) -> list[Detections]:
        """Decode, suppress, and go back to the pixels of each image as given."""
        found = self.regions.finish(raw.answers, raw.sizes)
        return [enlarge(one, size, original) for one, size, original in zip(found, raw.sizes, raw.originals, strict=True)]

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named losses of a batch."""
        batch = self.prepare(images)
        truth = collate(targets, batch)
        maps = self.features(batch.pixels)
        proposals, losses = self.rpn(maps, canvas(batch), size_tensor(batch), truth)
        return losses | self.regions.losses(maps, proposals, truth)

    def parts(self, height: int, width: int) -> tuple[Part, ...]:
        """The detector taken apart for its cost on an image of that size."""
        raise NotImplementedError


def canvas(batch: Batch) -> tuple[int, int]:
    """Height and width of the padded batch."""
    return int(batch.pixels.shape[-2]), int(batch.pixels.shape[-1])


def size_tensor(batch: Batch) -> Tensor:
    """(B, 2) height and width of each image in the batch, padding left out."""
    return torch.tensor(batch.sizes, dtype=torch.float32, device=batch.pixels.device)


def enlarge(found: Detections, size: tuple[int, int], original: tuple[int, int]) -> Detections:
    """Boxes from the network's pixels to those of the image as given."""
    if size == original:
        return found
    ratio = found.boxes.new_tensor([original[1] / size[1], original[0] / size[0]] * 2)
    return replace(found, boxes=found.boxes * ratio)
