"""Online hard example mining (Shrivastava et al., 2016) over all proposals of an image: only the RoIs with the largest loss are learnt from.

All of them are first looked at without gradients, then the hard ones once more with: the same as one pass whose other losses are dropped, and the
head's memory follows the hard ones alone. The objects themselves stand among the proposals, as in Faster R-CNN's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Detections
from implementations.layers.boxes import encode
from implementations.layers.heads import HeadOutput
from implementations.layers.matching import Thresholds, match, matched
from implementations.layers.parts import Part
from implementations.layers.regions import Answers, RegionConfig, Regions, RegionStage, flatten, with_objects
from implementations.layers.rpn import Proposals
from implementations.layers.targets import Truth


@dataclass(frozen=True)
class Hard:
    """How many RoIs of an image are learnt from, and how much its box loss counts beside its class loss, in the ranking too."""

    count: int
    box_weight: float


def every_region(proposals: Proposals, truth: Truth, config: RegionConfig) -> Regions:
    """All proposals and objects that are positive or negative: none is sampled away."""
    candidates = with_objects(proposals, truth)
    matches = match(candidates.boxes, truth, Thresholds(config.threshold, config.threshold))
    valid = candidates.valid & (matches.label >= 0)
    classes = matched(truth.labels, matches.index) * (matches.label == 1)
    proposed = (torch.arange(valid.shape[1], device=valid.device) < proposals.boxes.shape[1]).expand_as(valid)
    return Regions(flatten(candidates.boxes, valid), classes[valid], matched(truth.boxes, matches.index)[valid], valid, proposed)


def each_loss(output: HeadOutput, regions: Regions, config: RegionConfig) -> tuple[Tensor, Tensor]:
    """Class and box loss of each RoI, (R,) both; the box loss of background is 0."""
    classes = F.cross_entropy(output.scores.float(), regions.labels, reduction="none")
    where = regions.labels.nonzero()[:, 0]
    deltas = output.deltas.float().view(-1, config.box_classes, 4)
    column = regions.labels[where] if config.box_classes > 1 else torch.zeros_like(where)
    wanted = encode(regions.objects[where], regions.rois[where, 1:], config.weights)
    box = F.smooth_l1_loss(deltas[where, column], wanted, beta=config.beta, reduction="none").sum(1)
    return classes, torch.zeros_like(classes).index_copy(0, where, box)


def hardest(loss: Tensor, valid: Tensor, count: int) -> Tensor:
    """Which of R RoIs have the `count` largest losses of their image: (R,) bool. valid (B, S) says which places of the images they fill."""
    spread = loss.new_full(valid.shape, -1).masked_scatter(valid, loss)
    top = spread.topk(min(count, valid.shape[1]), 1)
    return torch.zeros_like(valid).scatter(1, top.indices, top.values >= 0)[valid]


def only(regions: Regions, kept: Tensor) -> Regions:
    """The regions that are kept, (R,) bool."""
    valid = torch.zeros_like(regions.valid).masked_scatter(regions.valid, kept)
    return Regions(regions.rois[kept], regions.labels[kept], regions.objects[kept], valid, regions.proposed)


@contextmanager
def looking(device: torch.device) -> Iterator[None]:
    """No gradients, and no lower-precision copies of weights kept: autocast would give those, without a gradient, to the pass that learns."""
    kind = device.type
    on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    with torch.no_grad(), torch.autocast(kind, dtype=dtype, enabled=on, cache_enabled=False):
        yield


class OnEachMap(nn.Module):
    """One net, the same on every map."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """Maps (B, C, H, W) -> as many."""
        return [self.net(x) for x in maps]


class HardStage(nn.Module):
    """A second stage that learns from its hardest RoIs. `stem` runs once an image, on those maps that `levels` picks."""

    def __init__(self, stage: RegionStage, hard: Hard, stem: nn.Module | None = None, *, levels: slice = slice(-1, None)) -> None:
        super().__init__()
        self.config, self.hard, self.levels = stage.config, hard, levels
        self.stage = stage
        self.stem = None if stem is None else OnEachMap(stem)

    def maps(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """The maps that are pooled from."""
        return maps if self.stem is None else self.stem(*maps[self.levels])

    def losses(self, maps: Sequence[Tensor], proposals: Proposals, truth: Truth) -> dict[str, Tensor]:
        """Class and box loss of the hard RoIs, divided by their constant number."""
        maps = self.maps(maps)
        with looking(maps[-1].device):
            regions = every_region(proposals, truth, self.config)
            classes, boxes = each_loss(self.answer(maps, regions), regions, self.config)
            regions = only(regions, hardest(classes + self.hard.box_weight * boxes, regions.valid, self.hard.count))
        classes, boxes = each_loss(self.answer(maps, regions), regions, self.config)
        whole = self.hard.count * len(regions.valid)
        return {"class": classes.sum() / whole, "box": self.hard.box_weight * boxes.sum() / whole}

    def answer(self, maps: Sequence[Tensor], regions: Regions) -> HeadOutput:
        """What the head says of regions."""
        output: HeadOutput = self.stage.head(self.stage.pool(maps, regions.rois), regions.labels)
        return output

    def forward(self, maps: Sequence[Tensor], proposals: Proposals) -> Answers:
        """What the head says of every proposal."""
        answers: Answers = self.stage(self.maps(maps), proposals)
        return answers

    def finish(self, answers: Answers, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image in pixels of the network's input."""
        return self.stage.finish(answers, sizes)

    def parts(self, map_shape: tuple[int, ...], roi_shape: tuple[int, ...]) -> tuple[Part, ...]:
        """The stem, once an image on a map of that shape, and the head, once a RoI."""
        stem = () if self.stem is None else (Part("maps", self.stem, (map_shape,), head=True),)
        return (*stem, *self.stage.parts(map_shape, roi_shape))
