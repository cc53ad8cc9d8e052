"""The two-stage detector: features, proposals, regions, each a part that can be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from bench.types import Batch, Detections, Target
from implementations.layers import images as image_layer
from implementations.layers.parts import Part
from implementations.layers.targets import Truth, collate

if TYPE_CHECKING:
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

    def parts(self, map_shape: tuple[int, ...], roi_shape: tuple[int, ...]) -> tuple[Part, ...]:
        """What it costs, for the coarsest map and one RoI's features of these shapes."""


@dataclass(frozen=True)
class DetectorConfig:
    """Every number that makes a detector, for the record."""

    name: str
    shorter: int  # px that the shorter side of an image becomes
    longer: int  # px that the longer side never passes
    rpn: RPNConfig
    regions: tuple[object, ...]  # RegionConfig of each stage
    strides: tuple[int, ...]  # px, of the maps that the backbone gives
    channels: tuple[int, ...]  # of these maps
    roi_features: tuple[int, int, int]  # channels, side, side
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
        self.neck = body[1]
        self.rpn = rpn
        self.regions = regions

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad to a multiple of 32."""
        return image_layer.prepare(images, self.config.shorter, self.config.longer)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """The maps that both stages read."""
        maps = self.backbone(pixels)
        return maps if self.neck is None else self.neck(*maps)

    def propose(self, maps: list[Tensor], batch: Batch, truth: Truth | None = None) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals, and losses if there is truth. The proposal network reads the finest maps, as many as it has anchor levels."""
        sizes = torch.tensor(batch.sizes, dtype=torch.float32, device=batch.pixels.device)
        canvas = (int(batch.pixels.shape[-2]), int(batch.pixels.shape[-1]))
        return self.rpn(maps[: len(self.config.rpn.anchor_sizes)], canvas, sizes, truth)

    def network(self, batch: Batch, proposals: Proposals | None = None) -> Raw:
        """All that learns. Proposals may be given, in pixels of the batch: equal counts for timing."""
        maps = self.features(batch.pixels)
        if proposals is None:
            proposals, _ = self.propose(maps, batch)
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
        proposals, losses = self.propose(maps, batch, truth)
        return losses | self.regions.losses(maps, proposals, truth)

    def parts(self, height: int, width: int) -> tuple[Part, ...]:
        """The detector taken apart for its cost on an image of exactly that size: the papers' counters did not pad as `prepare` does."""
        size = (height, width)
        grids = [
            (1, channels, *(-(-side // stride) for side in size)) for channels, stride in zip(self.config.channels, self.config.strides, strict=True)
        ]
        return (
            Part("backbone", self.backbone, ((1, 3, *size),)),
            *(() if self.neck is None else (Part("neck", self.neck, tuple(grids)),)),
            Part("rpn", self.rpn.head, self.rpn_inputs(grids)),
            *self.regions.parts(grids[-1], (1, *self.config.roi_features)),
        )

    def rpn_inputs(self, grids: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        """Shapes of the maps that the proposal network reads, from those that the backbone gives."""
        if self.neck is None:
            return tuple(grids[: len(self.config.rpn.anchor_sizes)])
        fine = [(1, self.config.roi_features[0], *grid[2:]) for grid in grids]
        return (*fine, (*fine[-1][:2], *(-(-side // 2) for side in fine[-1][2:])))


def enlarge(found: Detections, size: tuple[int, int], original: tuple[int, int]) -> Detections:
    """Boxes from the network's pixels to those of the image as given."""
    if size == original:
        return found
    ratio = found.boxes.new_tensor([original[1] / size[1], original[0] / size[0]] * 2)
    return replace(found, boxes=found.boxes * ratio)
