"""S-head and T-head (sections 3.3, 5.1): what each says of a box, and the features by which one mimics the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from implementations.layers.deformable import DeformableConv, rows_of
from implementations.layers.dense_align import align, take
from implementations.layers.heads import HeadOutput
from implementations.layers.pooling import SAMPLES
from implementations.mimicdet.pyramid import he

Alignment = Literal["conv", "deform", "guided", "guided*"]  # Table 2: (a), (b), (c), (d)
TeacherKind = Literal["light", "heavy", "dual"]  # Table 3
Mimicked = Literal["logits", "features"]  # what of the classification path: T-head's text and Figure 2, or S-head's text and Eq. 1
SIDE = 7  # of the RoI features
CONVS = 4  # 3x3 convolutions of the heavy head, and of the dual head's regression
HIDDEN = (64, 128)  # channels of the micro-network


@dataclass(frozen=True)
class Widths:
    """Channels of both heads, and the deviation of their Gaussian start."""

    channels: int = 256  # of the pyramid, the alignment layer and the convolutions
    feature: int = 1024
    hidden: tuple[int, int] = HIDDEN
    classes: int = 80  # background not counted
    deviation: float = 0.01


@dataclass(frozen=True)
class Answer:
    """What a head says of boxes, in any leading dimensions; index 0 of the scores is background."""

    scores: Tensor  # (..., classes + 1), before the softmax
    deltas: Tensor  # (..., 4)
    features: tuple[Tensor, ...]  # (..., D) of each path: regression and classification, or one of both

    def at(self, rows: Tensor) -> Answer:
        """The answer for some boxes: rows (B, M) of an answer for (B, P) boxes."""
        return Answer(*(_gathered(x, rows) for x in (self.scores, self.deltas)), tuple(_gathered(x, rows) for x in self.features))

    def output(self, where: Tensor) -> HeadOutput:
        """Scores and offsets of those boxes that `where` picks, flat."""
        return HeadOutput(self.scores[where], self.deltas[where])


def _gathered(x: Tensor, rows: Tensor) -> Tensor:
    return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def gaussian(module: nn.Module, deviation: float) -> None:
    """Section 4.1: what is new beside FPN and T-head starts from a Gaussian; biases from zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, DeformableConv)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)


# ---- S-head: the alignment layer


class PlainAlignment(nn.Module):
    """Table 2 (a): a plain convolution."""

    def __init__(self, widths: Widths, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(widths.channels, widths.channels, kernel, padding=kernel // 2)
        gaussian(self, widths.deviation)

    def forward(self, x: Tensor, deltas: Tensor) -> Tensor:  # noqa: ARG002 - the interface of alignment layers
        """A map (B, C, H, W) -> rows (B, H * W, C)."""
        return rows_of(self.conv(x))

    def at(self, x: Tensor, deltas: Tensor, image: Tensor, place: Tensor) -> Tensor:
        """The rows (M, C) of some positions, picked from all: a convolution over the map costs less than a product for each of them."""
        return self(x, deltas)[image, place]


class FreeAlignment(nn.Module):
    """Table 2 (b): a deformable convolution whose offsets a convolution of the same size finds from the features, from zero on (Dai et al.)."""

    def __init__(self, widths: Widths, kernel: int) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(widths.channels, 2 * kernel * kernel, kernel, padding=kernel // 2)
        self.conv = DeformableConv(widths.channels, widths.channels, kernel)
        gaussian(self, widths.deviation)
        nn.init.zeros_(self.offsets.weight)

    def forward(self, x: Tensor, deltas: Tensor) -> Tensor:  # noqa: ARG002 - the interface of alignment layers
        """A map (B, C, H, W) -> rows (B, H * W, C)."""
        return self.conv(x, rows_of(self.offsets(x)).unflatten(2, (-1, 2)))

    def at(self, x: Tensor, deltas: Tensor, image: Tensor, place: Tensor) -> Tensor:  # noqa: ARG002 - the interface of alignment layers
        """The rows (M, C) of some positions; their offsets are picked from those of all."""
        return self.conv.at(x, rows_of(self.offsets(x))[image, place].unflatten(1, (-1, 2)), image, place)


class GuidedAlignment(nn.Module):
    """Table 2 (c), (d): the micro-network of three 1x1 convolutions finds the offsets from what the refinement module regressed there."""

    def __init__(self, widths: Widths, kernel: int) -> None:
        super().__init__()
        sizes = (4, *widths.hidden, 2 * kernel * kernel)
        self.offsets = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.conv = DeformableConv(widths.channels, widths.channels, kernel)
        gaussian(self, widths.deviation)

    def guide(self, deltas: Tensor) -> Tensor:
        """Regressed offsets of boxes (B, H * W, 4) -> offsets of taps (B, H * W, K, 2), in cells."""
        first, second, last = self.offsets
        moved: Tensor = last(F.relu(second(F.relu(first(deltas)))))
        return moved.unflatten(2, (-1, 2))

    def forward(self, x: Tensor, deltas: Tensor) -> Tensor:
        """A map (B, C, H, W) and the deltas of its positions (B, H * W, 4) -> rows (B, H * W, C)."""
        return self.conv(x, self.guide(deltas))

    def at(self, x: Tensor, deltas: Tensor, image: Tensor, place: Tensor) -> Tensor:
        """The rows (M, C) of some positions, from the deltas (M, 4) there."""
        return self.conv.at(x, self.guide(deltas[None])[0], image, place)


LAYERS = {"conv": PlainAlignment, "deform": FreeAlignment, "guided": GuidedAlignment, "guided*": GuidedAlignment}


class SHead(nn.Module):
    """The one-stage head: an alignment layer, 1x1 convolutions to the features of each path, 1x1 convolutions to the predictions.

    Only the alignment layer of P3 may be one of its own; all else is shared by the levels. A 1x1 convolution is a linear layer on rows.
    """

    def __init__(self, widths: Widths, alignment: Alignment, *, paths: int) -> None:
        """`paths`: 2, regression and classification (section 3.3), or 1, features that are not split (Table 3, light and heavy)."""
        super().__init__()
        layer = LAYERS[alignment]
        self.aligned = layer(widths, 5)
        self.aligned3 = layer(widths, 3) if alignment == "guided*" else None  # (d): a smaller kernel on P3
        self.project = nn.ModuleList(nn.Linear(widths.channels, widths.feature) for _ in range(paths))
        self.score = nn.Linear(widths.feature, widths.classes + 1)
        self.box = nn.Linear(widths.feature, 4)
        for module in (self.project, self.score, self.box):
            gaussian(module, widths.deviation)

    def rows(self, maps: Sequence[Tensor], deltas: Tensor) -> Tensor:
        """Aligned features of every position of P3 to P7, level by level: maps (B, C, H, W), deltas (B, N, 4) -> (B, N, C)."""
        parts = deltas.split([x.shape[2] * x.shape[3] for x in maps], 1)
        return F.relu(torch.cat([layer(x, part) for layer, x, part in zip(self.layers(len(maps)), maps, parts, strict=True)], 1))

    def rows_at(self, maps: Sequence[Tensor], deltas: Tensor, position: Tensor) -> Tensor:
        """The rows of some positions (B, P) of all levels -> (B, P, C): nothing is sampled anywhere else, as nobody reads it."""
        image = torch.arange(len(position), device=position.device).repeat_interleave(position.shape[1])
        place = position.flatten()
        told, parts, order, first = deltas[image, place], [], [], 0
        for layer, x in zip(self.layers(len(maps)), maps, strict=True):
            size = x.shape[2] * x.shape[3]
            where = ((place >= first) & (place < first + size)).nonzero()[:, 0]
            parts.append(layer.at(x, told[where], image[where], place[where] - first))
            order.append(where)
            first += size
        return F.relu(take(torch.cat(parts), _back(order, place))).unflatten(0, position.shape)

    def layers(self, levels: int) -> list[Any]:
        """The alignment layer of each level, P3 first."""
        return [self.aligned if self.aligned3 is None else self.aligned3] + [self.aligned] * (levels - 1)

    def answer(self, rows: Tensor) -> Answer:
        """What the head says of positions, from their aligned features (..., C)."""
        features = tuple(F.relu(project(rows)) for project in self.project)
        return Answer(self.score(features[-1]).float(), self.box(features[0]).float(), features)

    def forward(self, *inputs: Tensor) -> Answer:
        """Dense detection: P3 to P7 and, last, the deltas of all positions."""
        return self.answer(self.rows(inputs[:-1], inputs[-1]))


def _back(order: Sequence[Tensor], like: Tensor) -> Tensor:
    """Where each of `like` (R,) stands once its rows lie level by level, those of level i being `order[i]`."""
    return torch.empty_like(like).scatter_(0, torch.cat(list(order)), torch.arange(len(like), device=like.device))


# ---- T-head


def pool(maps: Sequence[Tensor], strides: Sequence[int], rois: Tensor, level: Tensor) -> Tensor:
    """RoIAlign 7x7 of each RoI (R, 5) on the map of its own level (R,) -> (R, C, 7, 7)."""
    order = [(level == i).nonzero()[:, 0] for i in range(len(maps))]
    found = [align(x, rois[where], SIDE, 1 / stride, SAMPLES) for x, stride, where in zip(maps, strides, order, strict=True)]
    return take(torch.cat(found), _back(order, level))


def convolutions(width: int) -> nn.Sequential:
    """Four 3x3 convolutions with ReLU."""
    layers = [layer for _ in range(CONVS) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True))]
    return nn.Sequential(*layers)


class SingleTHead(nn.Module):
    """Table 3: two fully connected layers and two sibling outputs; the heavy head has four convolutions before them."""

    def __init__(self, widths: Widths, *, heavy: bool) -> None:
        super().__init__()
        self.convs = convolutions(widths.channels) if heavy else nn.Identity()
        self.fc1 = nn.Linear(widths.channels * SIDE**2, widths.feature)
        self.fc2 = nn.Linear(widths.feature, widths.feature)
        self.score = nn.Linear(widths.feature, widths.classes + 1)
        self.box = nn.Linear(widths.feature, 4)
        he(self)

    def forward(self, pooled: Tensor) -> Answer:
        """(R, C, 7, 7) -> what it says; mimicked are the last 1024 features."""
        feature = F.relu(self.fc2(F.relu(self.fc1(self.convs(pooled).flatten(1)))))
        return Answer(self.score(feature).float(), self.box(feature).float(), (feature,))


class DualTHead(nn.Module):
    """Section 3.3: classes by two fully connected layers; boxes by four convolutions and one."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.fc1 = nn.Linear(widths.channels * SIDE**2, widths.feature)
        self.fc2 = nn.Linear(widths.feature, widths.feature)
        self.score = nn.Linear(widths.feature, widths.classes + 1)
        self.convs = convolutions(widths.channels)
        self.fc = nn.Linear(widths.channels * SIDE**2, widths.feature)
        self.box = nn.Linear(widths.feature, 4)
        he(self)

    def forward(self, pooled: Tensor) -> Answer:
        """(R, C, 7, 7) -> what it says, with the regression's and the classification's features."""
        classes = F.relu(self.fc2(F.relu(self.fc1(pooled.flatten(1)))))
        boxes = F.relu(self.fc(self.convs(pooled).flatten(1)))
        return Answer(self.score(classes).float(), self.box(boxes).float(), (boxes, classes))


def teacher_head(widths: Widths, kind: TeacherKind) -> nn.Module:
    """The T-head of that kind."""
    return DualTHead(widths) if kind == "dual" else SingleTHead(widths, heavy=kind == "heavy")


# ---- section 3.4: head mimicking

LEAST_NORM = 1e-3  # shorter features count as that long: a cosine's gradient grows without bound as they vanish


def mimicked(answer: Answer, what: Mimicked) -> tuple[Tensor, ...]:
    """The features that are compared: with two paths the regression's and, of the classification, its logits or its features."""
    if len(answer.features) == 1 or what == "features":
        return answer.features
    return (answer.features[0], answer.scores)


def mimic_loss(teacher: Answer, student: Answer, what: Mimicked) -> Tensor:
    """Eq. 1, for boxes (R,) of both: one minus the cosine, summed over the paths, a mean over the boxes; 0 where there is none."""
    pairs = zip(mimicked(teacher, what), mimicked(student, what), strict=True)
    apart = [1 - F.cosine_similarity(one.float(), other.float(), dim=1, eps=LEAST_NORM) for one, other in pairs]
    return torch.stack(apart).sum() / max(1, len(teacher.scores))


def detached(answer: Answer) -> Answer:
    """The same as a target that learns nothing."""
    return Answer(answer.scores.detach(), answer.deltas.detach(), tuple(one.detach() for one in answer.features))
