"""The refinement module (section 3.2): scores and adjusts the one anchor of each position; all anchors are learnt from, the best go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from implementations.layers.boxes import clip, decode, encode, large_enough
from implementations.layers.matching import matched
from implementations.layers.rpn import LEAST_SIDE, WEIGHTS, RPNHead
from implementations.layers.targets import Truth
from implementations.mimicdet.heads import gaussian
from implementations.mimicdet.labels import AnchorGrid, Ranges, anchor_grid, assign, inside_image

PRIOR = -4.595  # log(0.01 / 0.99): each anchor starts as an object with probability 0.01, or the many negatives would drown the first steps
START = 2  # times as many of the best boxes as are kept are shown to suppression first


@dataclass(frozen=True)
class RefinementConfig:
    """All that the refinement module is told."""

    channels: int
    ranges: Ranges
    proposals: tuple[int, int]  # kept of an image: in training after suppression (2000), in testing without it (1000)
    normaliser: int  # what both losses of an image are divided by: as many anchors as an RPN samples
    deviation: float
    nms: float = 0.8


@dataclass(frozen=True)
class Refined:
    """What the module says of every position of a batch."""

    logits: Tensor  # (B, N)
    deltas: Tensor  # (B, N, 4)
    anchors: AnchorGrid
    sizes: Tensor  # (B, 2) height and width of each image, padding left out


@dataclass(frozen=True)
class Adjusted:
    """The best adjusted anchors of each image, best first: B_s as far as training and testing look at it."""

    boxes: Tensor  # (B, P, 4) px
    position: Tensor  # (B, P) int64: the anchor that each was, so its place in the S-head's rows
    valid: Tensor  # (B, P) bool; false where an image has fewer


class Refinement(nn.Module):
    """A 3x3 convolution and two sibling 1x1 convolutions on P3 to P7, one anchor a position."""

    def __init__(self, width: int, config: RefinementConfig) -> None:
        super().__init__()
        self.config = config
        self.head = RPNHead(width, config.channels, anchors=1)
        gaussian(self.head, config.deviation)
        nn.init.constant_(self.head.cls_logits.bias, PRIOR)

    def forward(self, maps: Sequence[Tensor], sizes: Tensor) -> Refined:
        """P3 to P7 of a batch, with sizes (B, 2) of its images."""
        logits, deltas = self.head(*maps)
        grids = tuple((int(x.shape[2]), int(x.shape[3])) for x in maps)
        return Refined(logits, deltas, anchor_grid(grids, self.config.ranges, str(logits.device)), sizes)

    def losses(self, refined: Refined, truth: Truth) -> dict[str, Tensor]:
        """Binary cross entropy over all anchors and L1 over the positive ones; both are divided by a constant."""
        with torch.no_grad():
            matches = assign(refined.anchors, truth, refined.sizes, self.config.ranges)
            image, place = (matches.label == 1).nonzero(as_tuple=True)
            objects = matched(truth.boxes, matches.index)[image, place]
            wanted = encode(objects, refined.anchors.boxes[place], WEIGHTS)
        each = F.binary_cross_entropy_with_logits(refined.logits, (matches.label == 1).float(), reduction="none")
        box = F.l1_loss(refined.deltas[image, place], wanted, reduction="sum")
        whole = self.config.normaliser * len(refined.logits)
        return {"refine_class": (each * (matches.label >= 0)).sum() / whole, "refine_box": box / whole}

    @torch.no_grad()
    def proposals(self, refined: Refined) -> Adjusted:
        """For training (section 4.1): all adjusted anchors, NMS at 0.8, the best 2000."""
        boxes, scores, good = self._adjusted(refined)
        parts = zip(boxes, scores, good, strict=True)
        return _padded(boxes, [suppressed(box, score, ok, self.config) for box, score, ok in parts])

    @torch.no_grad()
    def best(self, refined: Refined) -> Adjusted:
        """For testing (section 4.2): the best 1000 by the module's own score."""
        boxes, scores, good = self._adjusted(refined)
        count = min(self.config.proposals[1], scores.shape[1])
        value, position = scores.masked_fill(~good, -1).topk(count, 1)
        return Adjusted(matched(boxes, position), position, value >= 0)

    def _adjusted(self, refined: Refined) -> tuple[Tensor, Tensor, Tensor]:
        """Every anchor after its first regression, cut at its image; its score; and whether it is a box of the image at all."""
        boxes = clip(decode(refined.deltas, refined.anchors.boxes, WEIGHTS), refined.sizes.unsqueeze(1))
        good = large_enough(boxes, LEAST_SIDE) & inside_image(refined.anchors, refined.sizes)
        return boxes, refined.logits.sigmoid(), good


def suppressed(boxes: Tensor, scores: Tensor, good: Tensor, config: RefinementConfig) -> Tensor:
    """Positions that greedy suppression of all good boxes keeps first, (K,), as many as wanted.

    What is kept of the best so many depends on no worse box: only so many are looked at as are needed.
    """
    from torchvision.ops import nms  # here, not above: it takes as long to import as torch, and costs are counted without it

    wanted, looked = config.proposals[0], START * config.proposals[0]
    order = scores.masked_fill(~good, -1).argsort(descending=True, stable=True)[: int(good.sum())]
    while True:
        shown = order[:looked]
        kept = nms(boxes[shown], scores[shown], config.nms)[:wanted]
        if len(kept) == wanted or looked >= len(order):
            return shown[kept]
        looked *= START


def _padded(boxes: Tensor, positions: Sequence[Tensor]) -> Adjusted:
    position = pad_sequence(list(positions), batch_first=True)
    counts = torch.tensor([len(one) for one in positions], device=boxes.device)
    valid = torch.arange(position.shape[1], device=boxes.device) < counts.unsqueeze(1)
    return Adjusted(matched(boxes, position), position, valid)
