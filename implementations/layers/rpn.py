"""The region proposal network (Faster R-CNN, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from implementations.layers.anchors import Anchors
from implementations.layers.boxes import clip, decode, encode, large_enough
from implementations.layers.matching import Thresholds, match, matched
from implementations.layers.sampling import Quota, lots, sample
from implementations.layers.targets import Truth

WEIGHTS = (1.0, 1.0, 1.0, 1.0)
BETA = 1 / 9  # of the smooth L1 (sigma 3 in the papers' words)
LEAST_SIDE = 1e-3  # px; a proposal with a shorter side is dropped, as in torchvision


@dataclass(frozen=True)
class RPNConfig:
    """All that the proposal network is told. Pairs are (training, testing)."""

    channels: int
    anchor_sizes: tuple[tuple[float, ...], ...]  # px, of each level
    ratios: tuple[float, ...]  # height over width
    candidates: tuple[int, int]  # best-scored anchors of each level that reach suppression
    proposals: tuple[int, int]  # kept after it
    quota: Quota  # of anchors an image: 256, half of them positive, in the papers
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(0.7, 0.3, rescue=True))
    nms: float = 0.7


@dataclass(frozen=True)
class Proposals:
    """Regions that may hold an object, best first."""

    boxes: Tensor  # (B, P, 4) in pixels of the network's input; zeros where padded
    valid: Tensor  # (B, P) bool
    sizes: Tensor  # (B, 2) height and width of each image


@dataclass(frozen=True)
class Scored:
    """What the head says of every anchor of a batch, level by level."""

    logits: Tensor  # (B, N)
    deltas: Tensor  # (B, N, 4)
    anchors: Tensor  # (N, 4)
    levels: tuple[int, ...]  # anchors of each level, N together


class RPNHead(nn.Module):
    """A 3x3 convolution, then objectness and box offsets of each anchor, shared by the levels."""

    def __init__(self, channels: int, hidden: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.cls_logits = nn.Conv2d(hidden, anchors, 1)
        self.bbox_pred = nn.Conv2d(hidden, anchors * 4, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, H, W) -> logits (B, N) and offsets (B, N, 4) of all anchors, level by level."""
        hidden = [F.relu(self.conv(x)) for x in maps]
        batch = maps[0].shape[0]
        logits = [self.cls_logits(x).permute(0, 2, 3, 1).reshape(batch, -1) for x in hidden]
        deltas = [self.bbox_pred(x).permute(0, 2, 3, 1).reshape(batch, -1, 4) for x in hidden]
        return torch.cat(logits, 1).float(), torch.cat(deltas, 1).float()


class RPN(nn.Module):
    """Proposals of a batch, and in training the losses on sampled anchors."""

    def __init__(self, channels: int, config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        self.anchors = Anchors(config.anchor_sizes, config.ratios)
        self.head = RPNHead(channels, config.channels, self.anchors.per_cell)

    def forward(
        self, maps: Sequence[Tensor], image: tuple[int, int], sizes: Tensor, truth: Truth | None = None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Maps of a batch padded to `image`, with sizes (B, 2) of the images in it -> proposals, and losses if there is truth."""
        grids = tuple((int(x.shape[-2]), int(x.shape[-1])) for x in maps)
        logits, deltas = self.head(*maps)
        levels = tuple(height * width * self.anchors.per_cell for height, width in grids)
        scored = Scored(logits, deltas, self.anchors(grids, image, logits.device), levels)
        with torch.no_grad():
            proposals = self.propose(scored, sizes)
        return proposals, {} if truth is None else self.losses(scored, truth)

    def propose(self, scored: Scored, sizes: Tensor) -> Proposals:
        """The best anchors of each level, decoded, clipped, suppressed within their level, and the best of all levels."""
        from torchvision.ops import batched_nms  # here, not above: it takes as long to import as torch, and costs are counted without it

        mode = 0 if self.training else 1
        index, level = best_of_levels(scored.logits, scored.levels, self.config.candidates[mode])
        boxes = clip(decode(matched(scored.deltas, index), scored.anchors[index], WEIGHTS), sizes.unsqueeze(1))
        scores = scored.logits.gather(1, index).sigmoid()
        good = large_enough(boxes, LEAST_SIDE)
        kept = []
        for box, score, ok in zip(boxes, scores, good, strict=True):
            order = batched_nms(box[ok], score[ok], level[ok], self.config.nms)
            kept.append(box[ok][order[: self.config.proposals[mode]]])
        counts = torch.tensor([len(one) for one in kept], device=boxes.device)
        padded = pad_sequence(kept, batch_first=True)
        return Proposals(padded, torch.arange(padded.shape[1], device=boxes.device) < counts.unsqueeze(1), sizes)

    def losses(self, scored: Scored, truth: Truth) -> dict[str, Tensor]:
        """Objectness and box loss of sampled anchors; both are divided by the constant number of samples."""
        matches = match(scored.anchors, truth, self.config.thresholds)
        batch, count = scored.logits.shape
        lot = lots(truth.seeds, count, purpose=0, device=scored.logits.device)
        chosen = sample(matches.label, lot, self.config.quota)
        positive = (matches.label.gather(1, chosen.index) == 1) & chosen.valid
        logits = scored.logits.gather(1, chosen.index)[chosen.valid]
        objectness = F.binary_cross_entropy_with_logits(logits, positive[chosen.valid].float(), reduction="sum")
        objects = matched(truth.boxes, matches.index.gather(1, chosen.index))[positive]
        wanted = encode(objects, scored.anchors[chosen.index[positive]], WEIGHTS)
        box = F.smooth_l1_loss(matched(scored.deltas, chosen.index)[positive], wanted, beta=BETA, reduction="sum")
        whole = self.config.quota.count * batch
        return {"rpn_class": objectness / whole, "rpn_box": box / whole}


def best_of_levels(logits: Tensor, levels: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
    """The `count` best-scored anchors of each level: index (B, K) into all anchors, and the level (K,) of each place."""
    found, level, start = [], [], 0
    for i, size in enumerate(levels):
        k = min(count, size)
        found.append(logits[:, start : start + size].topk(k, 1).indices + start)
        level.append(torch.full((k,), i, device=logits.device))
        start += size
    return torch.cat(found, 1), torch.cat(level)
