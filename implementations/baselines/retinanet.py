"""RetinaNet (Lin et al., 2017): a pyramid from P3 to P7, dense classes and boxes, the focal loss. Shares its choices with torchvision's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Batch, Detections, Target
from implementations.baselines.numbers import LEAST_ANCHOR, RATIOS, SIDES, image_sides, pyramid_width
from implementations.layers import images as image_layer
from implementations.layers.anchors import Anchors
from implementations.layers.backbones import ResNet
from implementations.layers.boxes import clip, decode, encode
from implementations.layers.jitter import jittered
from implementations.layers.matching import Thresholds, match, matched
from implementations.layers.parts import Part
from implementations.layers.pyramid import TopDown
from implementations.layers.targets import Truth, collate
from implementations.layers.two_stage import enlarge

if TYPE_CHECKING:
    from bench.spec import Request

STRIDES = (8, 16, 32, 64, 128)  # P3 to P7
OCTAVE = (0.0, 1 / 3, 2 / 3)  # section 4: three anchor sides a level, thirds of an octave apart
WEIGHTS = (1.0, 1.0, 1.0, 1.0)
DEPTH = 4  # 3x3 convolutions of each subnet before its prediction
PRIOR = 0.01  # of an anchor to be an object, at the start (section 4.1)


@dataclass(frozen=True)
class RetinaConfig:
    """Every number that makes the detector, for the record."""

    name: str
    shorter: int  # px that the shorter side of an image becomes
    longer: int  # px that the longer side never passes
    classes: int
    anchor_sizes: tuple[tuple[float, ...], ...]  # px, of each level
    channels: tuple[int, ...]  # of C3 to C5
    width: int  # of every level
    ratios: tuple[float, ...] = RATIOS
    strides: tuple[int, ...] = STRIDES
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(0.5, 0.4, rescue=True))
    alpha: float = 0.25  # of the focal loss
    gamma: float = 2.0
    score: float = 0.05  # an anchor's class below it is dropped
    candidates: int = 1000  # best of each level that reach suppression
    nms: float = 0.5
    detections: int = 100  # at most, an image
    jitter: tuple[int, ...] = ()  # px of the shorter side, drawn for each image in training; none: `shorter`
    told: tuple[object, ...] = ()  # what a method is told beyond it


class Levels(nn.Module):
    """P3 to P5 from C3 to C5, P6 by a stride-2 convolution on P5, P7 by another behind a ReLU.

    As torchvision's first RetinaNet has it; a P6 from C5, as the paper's own text has it, holds 4.1 M more weights at the paper's scale.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.fpn = TopDown(channels, width)
        self.p6 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        for layer in (self.p6, self.p7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """C3 to C5 -> P3 to P7."""
        levels = self.fpn(*maps)
        p6 = self.p6(levels[-1])
        return [*levels, p6, self.p7(F.relu(p6))]


class Subnet(nn.Module):
    """Four 3x3 convolutions with ReLU, then the prediction of every anchor; shared by the levels."""

    def __init__(self, width: int, outputs: int, *, bias: float = 0.0) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(DEPTH))
        self.predict = nn.Conv2d(width, outputs, 3, padding=1)
        for layer in (*self.convs, self.predict):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.predict.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.predict(x)


class RetinaHead(nn.Module):
    """Classes and box offsets of all anchors."""

    def __init__(self, width: int, classes: int, anchors: int) -> None:
        super().__init__()
        self.classes = classes
        self.class_subnet = Subnet(width, anchors * classes, bias=-math.log((1 - PRIOR) / PRIOR))
        self.box_subnet = Subnet(width, anchors * 4)

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, H, W) -> logits (B, N, classes) and offsets (B, N, 4), level by level."""
        logits, deltas = ([_by_anchor(net(x), size) for x in maps] for net, size in ((self.class_subnet, self.classes), (self.box_subnet, 4)))
        return torch.cat(logits, 1).float(), torch.cat(deltas, 1).float()


def _by_anchor(x: Tensor, size: int) -> Tensor:
    """(B, A * size, H, W) -> (B, H * W * A, size)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, size)


@dataclass(frozen=True)
class Dense:
    """What the network says of every anchor of a batch, before decoding."""

    logits: Tensor  # (B, N, classes)
    deltas: Tensor  # (B, N, 4)
    anchors: Tensor  # (N, 4)
    levels: tuple[int, ...]  # anchors of each level, N together
    sizes: tuple[tuple[int, int], ...]
    originals: tuple[tuple[int, int], ...]


class RetinaNet(nn.Module):
    """Backbone, pyramid, head."""

    def __init__(self, config: RetinaConfig, backbone: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.neck = Levels(config.channels, config.width)
        self.anchors = Anchors(config.anchor_sizes, config.ratios)
        self.head = RetinaHead(config.width, config.classes, self.anchors.per_cell)

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad to a multiple of 32."""
        return image_layer.prepare(images, self.config.shorter, self.config.longer)

    def network(self, batch: Batch) -> Dense:
        """All that learns."""
        maps = self.neck(*self.backbone(batch.pixels))
        return self.dense(self.head(*maps), tuple((int(x.shape[-2]), int(x.shape[-1])) for x in maps), batch)

    def dense(self, said: tuple[Tensor, Tensor], grids: tuple[tuple[int, int], ...], batch: Batch) -> Dense:
        """The head's logits and offsets with the anchors that they are of; `grids`: (height, width) of each level."""
        canvas = (int(batch.pixels.shape[-2]), int(batch.pixels.shape[-1]))
        levels = tuple(height * width * self.anchors.per_cell for height, width in grids)
        return Dense(*said, self.anchors(grids, canvas, said[0].device), levels, batch.sizes, batch.originals)

    def finish(self, raw: Dense) -> list[Detections]:
        """Decode, suppress, and go back to the pixels of each image as given."""
        each = zip(raw.logits, raw.deltas, raw.sizes, raw.originals, strict=True)
        return [enlarge(self.found(logits, deltas, raw, size), size, original) for logits, deltas, size, original in each]

    def found(self, logits: Tensor, deltas: Tensor, raw: Dense, size: tuple[int, int]) -> Detections:
        """Detections of one image in pixels of the network's input: the best of each level, suppressed within their class (section 4.1)."""
        from torchvision.ops import batched_nms  # here, not above: it takes as long to import as torch, and costs are counted without it

        picked = [self._best(one) for one in logits.sigmoid().split(raw.levels)]
        starts = [sum(raw.levels[:i]) for i in range(len(raw.levels))]
        anchor = torch.cat([place + start for (_, place, _), start in zip(picked, starts, strict=True)])
        score, label = (torch.cat([one[at] for one in picked]) for at in (0, 2))
        boxes = clip(decode(deltas[anchor], raw.anchors[anchor], WEIGHTS), deltas.new_tensor(size))
        kept = batched_nms(boxes, score, label, self.config.nms)[: self.config.detections]
        return Detections(boxes[kept], score[kept], label[kept])

    def _best(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of one level's scores (N, classes) those that reach suppression: score, anchor, class, (K,) each."""
        flat = scores.flatten()
        passing = (flat > self.config.score).nonzero()[:, 0]
        top, order = flat[passing].topk(min(self.config.candidates, len(passing)))
        place = passing[order]
        return top, place // scores.shape[1], place % scores.shape[1]

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named losses of a batch."""
        config = self.config
        batch = jittered(images, [target.seed for target in targets], config.jitter, config.longer) if config.jitter else self.prepare(images)
        return self.losses(self.network(batch), collate(targets, batch))

    def losses(self, said: Dense, truth: Truth) -> dict[str, Tensor]:
        """Focal loss and L1 of the offsets, each divided by the positives of an image; the mean over images."""
        matches = match(said.anchors, truth, self.config.thresholds)
        positive = matches.label == 1  # (B, N)
        label = matched(truth.labels, matches.index) * positive  # 0 background
        wanted = F.one_hot(label, self.config.classes + 1)[..., 1:].to(said.logits.dtype)
        share = 1 / (positive.sum(1).clamp(min=1) * len(positive))  # (B,)
        focal = focal_loss(said.logits, wanted, self.config.alpha, self.config.gamma) * (matches.label >= 0).unsqueeze(-1)
        image, anchor = positive.nonzero(as_tuple=True)
        offsets = encode(matched(truth.boxes, matches.index)[image, anchor], said.anchors[anchor], WEIGHTS)
        boxes = (said.deltas[image, anchor] - offsets).abs().sum(1) * share[image]
        return {"class": (focal.sum((1, 2)) * share).sum(), "box": boxes.sum()}

    def parts(self, height: int, width: int) -> tuple[Part, ...]:
        """The detector taken apart for its cost on an image of exactly that size."""
        config = self.config
        grids = [tuple(-(-side // stride) for side in (height, width)) for stride in config.strides]
        maps = tuple((1, channels, *grid) for channels, grid in zip(config.channels, grids, strict=False))
        levels = tuple((1, config.width, *grid) for grid in grids)
        return (
            Part("backbone", self.backbone, ((1, 3, height, width),)),
            Part("neck", self.neck, maps),
            Part("head", self.head, levels, head=True),
        )


def focal_loss(logits: Tensor, wanted: Tensor, alpha: float, gamma: float) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log(p_t), equation 5, of each entry."""
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p = logits.sigmoid()
    missed = p + wanted - 2 * p * wanted  # 1 - p_t
    return (alpha * wanted + (1 - alpha) * (1 - wanted)) * missed**gamma * loss


def anchor_sizes(request: Request) -> tuple[tuple[float, ...], ...]:
    """Three sides in px for each level, 32 to 512 and thirds of an octave, cut to whole pixels as torchvision does."""
    scaled = [request.scale.pixels(side) * request.scale.anchors for side in SIDES]
    return tuple(tuple(float(max(LEAST_ANCHOR, int(side * 2**third))) for third in OCTAVE) for side in scaled)


def retinanet(request: Request, *, jitter: Sequence[int] = ()) -> RetinaNet:
    """RetinaNet; `jitter`: px at the paper's scale of the shorter side, drawn for each image in training."""
    backbone = ResNet(request.scale.backbones[request.setting.backbone], outputs=3)
    sides = tuple(round(request.scale.pixels(side)) for side in jitter)
    width = pyramid_width(request)
    config = RetinaConfig("retinanet", *image_sides(request), request.classes, anchor_sizes(request), backbone.channels, width, jitter=sides)
    return RetinaNet(config, backbone)
