"""The second stage: which RoIs are trained on, their features, their losses, and what remains of them at test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Detections
from implementations.layers.boxes import clip, decode, encode, large_enough
from implementations.layers.heads import HeadOutput
from implementations.layers.matching import Thresholds, match, matched
from implementations.layers.parts import Part
from implementations.layers.rpn import Proposals
from implementations.layers.sampling import Quota, lots, sample
from implementations.layers.targets import Truth

Shape = tuple[int, ...]
Weights = tuple[float, float, float, float]
Pool = Callable[[Sequence[Tensor], Tensor], Tensor]  # (maps, RoIs (R, 5) with the image's place first) -> (R, C, S, S)
LEAST_SIDE = 1e-2  # px; a detection with a shorter side is dropped, as in torchvision


@dataclass(frozen=True)
class RegionConfig:
    """All that the second stage is told."""

    classes: int
    box_classes: int
    quota: Quota
    threshold: float = 0.5  # overlap from which a RoI is positive
    weights: Weights = (10.0, 10.0, 5.0, 5.0)
    beta: float = 1.0  # of the smooth L1
    score: float = 0.05  # a detection below it is dropped
    nms: float = 0.5
    detections: int = 100  # at most, an image


@dataclass(frozen=True)
class Regions:
    """RoIs of a batch to train on, flat over the images."""

    rois: Tensor  # (R, 5): the image's place, x1 y1 x2 y2
    labels: Tensor  # (R,) int64, 0 background
    objects: Tensor  # (R, 4) the object that each stands for; meaningful where its label is not 0
    valid: Tensor  # (B, S) bool: which of the S places of each image the R RoIs fill, in order
    proposed: Tensor  # (B, S) bool: it is a proposal, no object that was added for training


@dataclass(frozen=True)
class Answers:
    """What the second stage says of the RoIs of a batch, before decoding."""

    rois: Tensor  # (R, 5)
    scores: Tensor  # (R, classes + 1), probabilities
    deltas: Tensor  # (R, 4 * box_classes)
    counts: tuple[int, ...]  # RoIs of each image, in order


def flatten(boxes: Tensor, valid: Tensor) -> Tensor:
    """Padded boxes (B, P, 4) -> RoIs (R, 5)."""
    place = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype).view(-1, 1, 1).expand(-1, boxes.shape[1], 1)
    return torch.cat((place, boxes), 2)[valid]


def with_objects(proposals: Proposals, truth: Truth) -> Proposals:
    """Proposals and, after them, the objects themselves: training always has positives."""
    return Proposals(torch.cat((proposals.boxes, truth.boxes), 1), torch.cat((proposals.valid, truth.valid), 1), proposals.sizes)


def choose(proposals: Proposals, truth: Truth, config: RegionConfig, *, purpose: int = 1) -> Regions:
    """Sample the RoIs to train on from proposals and objects."""
    candidates = with_objects(proposals, truth)
    matches = match(candidates.boxes, truth, Thresholds(config.threshold, config.threshold))
    label = matches.label.masked_fill(~candidates.valid, -1)
    counts = (proposals.boxes.shape[1], truth.boxes.shape[1])
    lot = torch.cat([lots(truth.seeds, n, purpose=purpose + i, device=label.device) for i, n in enumerate(counts)], 1)
    chosen = sample(label, lot, config.quota)
    classes = matched(truth.labels, matches.index) * (label == 1)
    boxes = matched(candidates.boxes, chosen.index)
    objects = matched(truth.boxes, matches.index.gather(1, chosen.index))
    return Regions(
        flatten(boxes, chosen.valid), classes.gather(1, chosen.index)[chosen.valid], objects[chosen.valid], chosen.valid, chosen.index < counts[0]
    )


def region_losses(output: HeadOutput, regions: Regions, config: RegionConfig) -> dict[str, Tensor]:
    """Class and box loss, divided by the constant number of RoIs, and whatever losses the head has of its own."""
    whole = config.quota.count * len(regions.valid)
    classes = F.cross_entropy(output.scores.float(), regions.labels, reduction="sum")
    where = regions.labels.nonzero()[:, 0]
    deltas = output.deltas.float().view(len(regions.labels), -1, 4)
    column = regions.labels[where] if config.box_classes > 1 else torch.zeros_like(where)
    wanted = encode(regions.objects[where], regions.rois[where, 1:], config.weights)
    box = F.smooth_l1_loss(deltas[where, column], wanted, beta=config.beta, reduction="sum")
    return {"class": classes / whole, "box": box / whole, **output.losses}


class RegionStage(nn.Module):
    """RoI features by `pool`, then a head. `stem` runs once an image, on the coarsest map, before the pooling (R-FCN)."""

    def __init__(self, config: RegionConfig, pool: Pool, head: nn.Module, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.pool = pool
        self.stem = stem
        self.head = head

    def maps(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """The maps that are pooled from."""
        return maps if self.stem is None else [self.stem(maps[-1])]

    def losses(self, maps: Sequence[Tensor], proposals: Proposals, truth: Truth) -> dict[str, Tensor]:
        """The losses of sampled RoIs."""
        with torch.no_grad():
            regions = choose(proposals, truth, self.config)
        features = self.pool(self.maps(maps), regions.rois)
        return region_losses(self.head(features, regions.labels), regions, self.config)

    def forward(self, maps: Sequence[Tensor], proposals: Proposals) -> Answers:
        """What the head says of every proposal."""
        rois = flatten(proposals.boxes, proposals.valid)
        output = self.head(self.pool(self.maps(maps), rois))
        return Answers(rois, output.scores.float().softmax(1), output.deltas.float(), tuple(proposals.valid.sum(1).tolist()))

    def parts(self, map_shape: Shape, roi_shape: Shape) -> tuple[Part, ...]:
        """The stem, once an image on a map of that shape, and the head, once a RoI."""
        stem = () if self.stem is None else (Part("maps", self.stem, (map_shape,), head=True),)
        return (*stem, Part("head", self.head, (roi_shape,), per_roi=True, head=True))

    def finish(self, answers: Answers, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image in pixels of the network's input."""
        return finish(answers, sizes, self.config)


def finish(answers: Answers, sizes: Sequence[tuple[int, int]], config: RegionConfig) -> list[Detections]:
    """Detections of each image in pixels of the network's input."""
    parts = zip(answers.rois.split(answers.counts), answers.scores.split(answers.counts), answers.deltas.split(answers.counts), sizes, strict=True)
    return [detections(rois[:, 1:], scores, deltas, size=size, config=config) for rois, scores, deltas, size in parts]


def detections(boxes: Tensor, scores: Tensor, deltas: Tensor, *, size: tuple[int, int], config: RegionConfig) -> Detections:
    """Decode what passes the score threshold, clip, suppress within each class, keep the best."""
    from torchvision.ops import batched_nms  # here, not above: it takes as long to import as torch, and costs are counted without it

    roi, label = (scores[:, 1:] > config.score).nonzero(as_tuple=True)
    column = label + 1 if config.box_classes > 1 else torch.zeros_like(label)
    found = decode(deltas.view(len(deltas), config.box_classes, 4)[roi, column], boxes[roi], config.weights)
    found = clip(found, boxes.new_tensor(size))
    good = large_enough(found, LEAST_SIDE)
    found, label, score = found[good], label[good], scores[roi, label + 1][good]
    kept = batched_nms(found, score, label, config.nms)[: config.detections]
    return Detections(found[kept], score[kept], label[kept])
