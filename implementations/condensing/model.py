"""Condensing Two-stage Detection with Automatic Object Key Part Discovery (Chen, Zhang, Tao): the method, top to bottom.

Features of a RoI -> concentration -> K confidence maps -> key-part modelling + global modelling -> one fully connected layer -> classes, boxes.

Where the paper and its code differ (the default first; each is a field of `Condensing`):
- `rectify`: Eq. 4 stands on the 1x1 convolution's output; the code has a ReLU between them, which the paper does not print. With it no confidence is
  below 0.5 / 1.1, so neither loss can be met (background cannot reach 0, K maps cannot sum to 1), and all maps were dead after 40 steps (README).
  Default False, the paper; True is the code.
- `reduction`: Eq. 6 and 7 print sums over RoIs and maps, the code takes means over all entries. A sum's scale would follow the batch, so the default
  "rois" divides the printed sums by the number of RoIs, which keeps the paper's ratio of L_d to L_u; "mean" is the code (L_d is K times lighter);
  "sum" is the letter. The divisor counts every RoI, never the positives, so two processes agree with one.
- `margins`: Eq. 6 says smooth L1 of confidence and label; the code multiplies both by 0.5, or by 1.0 where the entry is on the wrong side of 0.5,
  and has beta 0.05. The paper gives no beta, so the code's form is the default; False is Eq. 6 with beta 1.
- `weight`: Eq. 5 adds both losses unweighted to the detector's, whose own normalisation it does not give; the code counts them 0.03: so here.
- `source`: Eq. 8 and 9 model X, the RoI features; Section 3.2.2 ("cues for detection"), Figure 2 ("to refine input features") and the code take
  the concentrated features. As the paper says both, the code decides: "concentrated"; "input" is the letter of Eq. 8 and 9.
- `channel_first`: Eq. 9 and the code pool before the 1x1 convolution; the printed GMAC need it before the pooling. A 1x1 convolution commutes with
  average pooling and the ReLU comes last in both orders, so both are the same function; True exists for counting only.

What the paper leaves out and the code decides: a ReLU before and after every convolution of a block, before the prediction and after the global 1x1;
dilation 1, 3, 3, 3 and groups of eight; the maps enter the vector after a ReLU and before the squashing; dropout 0.01.

What neither says, decided here:
- The convolutions start Kaiming normal (fan out), the prediction N(0, 0.01): Section 3.2.2 wants c "around 0 at the start of training".
- Without key parts (`key_parts=0`) or without global modelling (`length=0`) the vector is what is left.
- The code may train the original head beside the condensed one as an auxiliary; the paper does not mention it and it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import UserError
from implementations.baselines.cascade_rcnn import cascade_rcnn
from implementations.baselines.faster_rcnn import faster_rcnn_c4, faster_rcnn_fpn
from implementations.baselines.rfcn import rfcn
from implementations.layers.averages import average
from implementations.layers.heads import HeadFactory, HeadOutput, HeadShape, Predictor, TwoFC

if TYPE_CHECKING:
    from bench.spec import Request
    from implementations.layers.two_stage import TwoStage

Squash = Literal["tmr", "linear", "sigmoid", "softmax"]


@dataclass(frozen=True)
class Condensing:
    """The settings of one condensed head; "K16, L5" is `Condensing(16, 5)`."""

    key_parts: int  # K; 0: no key-part modelling
    length: int  # L, the side of the pooled map; 0: no global modelling
    blocks: int = 2  # of the concentration step; 0: none
    squash: Squash = "tmr"
    discriminative: bool = True  # train with L_d
    uniqueness: bool = True  # train with L_u
    fully_connected: bool = True  # False: classes and boxes stand on the vector itself (R-FCN)
    source: Literal["concentrated", "input"] = "concentrated"
    rectify: bool = False  # a ReLU between the prediction and the squashing
    channel_first: bool = False
    reduction: Literal["rois", "mean", "sum"] = "rois"
    margins: bool = True
    weight: float = 0.03  # of L = L_d + L_u beside the detector's own losses

    def __post_init__(self) -> None:
        if self.squash not in SQUASHES:
            raise UserError(f"Condensing: squash is {self.squash!r}; allowed: {', '.join(SQUASHES)}; name one of them")
        if min(self.key_parts, self.length, self.blocks) < 0 or self.key_parts + self.length == 0:
            given = f"key_parts={self.key_parts}, length={self.length}, blocks={self.blocks}"
            raise UserError(f"Condensing: {given}; none may be negative and key_parts or length must be positive; give at least one")


# ---- Section 3.2.2: the object key part discovery network


def truncated_maximum(confidence: Tensor, alpha: float = 0.5, epsilon: float = 0.1) -> Tensor:
    """Truncated maximum regularisation, Eq. 4: (..., S, S) -> the same shape in [0, 1); linear until the maximum of a map exceeds 1 - alpha."""
    shifted = confidence + alpha
    largest = shifted.amax(dim=(-2, -1), keepdim=True)
    return (shifted / ((largest - 1).clamp(min=0) + 1 + epsilon)).clamp(min=0)


def _softmax(confidence: Tensor) -> Tensor:
    """Over the cells of each map."""
    return confidence.flatten(-2).softmax(dim=-1).view_as(confidence)


SQUASHES: dict[str, Callable[[Tensor], Tensor]] = {  # of maps (R, K, S, S); Table 1
    "tmr": truncated_maximum,
    "linear": lambda maps: maps,
    "sigmoid": torch.sigmoid,
    "softmax": _softmax,
}


class ConcentrationBlock(nn.Module):
    """3x3 dilated group convolution to an eighth of the channels, 1x1 back, added to the input; a ReLU around each convolution."""

    def __init__(self, channels: int, index: int, side: int) -> None:
        super().__init__()
        narrow = channels // 8
        reach = max(1, min(2 * index + 1, side // 2))  # the side's half: a larger reach would see padding only
        self.reduce = nn.Conv2d(channels, narrow, 3, padding=reach, dilation=reach, groups=max(1, narrow // 8))
        self.restore = nn.Conv2d(narrow, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(R, C, S, S) -> the same shape."""
        narrow = self.reduce(features.relu()).relu()
        return features + self.restore(narrow).relu()


@dataclass(frozen=True)
class KeyParts:
    """What OKPD-Net finds in R RoIs of S x S cells."""

    features: Tensor  # (R, C, S, S), concentrated
    maps: Tensor  # (R, K, S, S), rectified, not squashed: what the vector takes
    confidence: Tensor  # (R, K, S, S), squashed
    positions: Tensor  # (R, K) int64, the cell of each map's maximum, row * S + column: p_k


class OKPDNet(nn.Module):
    """The object key part discovery network: concentration, then a 1x1 convolution to one confidence map a key part."""

    def __init__(self, channels: int, side: int, settings: Condensing) -> None:
        super().__init__()
        self.concentration = nn.Sequential(*(ConcentrationBlock(channels, index, side) for index in range(settings.blocks)))
        self.prediction = nn.Conv2d(channels, settings.key_parts, 1) if settings.key_parts else None
        self.squash, self.rectify = SQUASHES[settings.squash], settings.rectify

    def forward(self, features: Tensor) -> KeyParts:
        """(R, C, S, S) -> key parts; no gradient passes through the positions."""
        concentrated = self.concentration(features)
        raw = features.new_zeros(len(features), 0, *features.shape[2:]) if self.prediction is None else self.prediction(concentrated.relu())
        maps = raw.relu()
        return KeyParts(concentrated, maps, self.squash(maps if self.rectify else raw), raw.detach().flatten(2).argmax(dim=2))


# ---- Section 3.2.3: the training objective


Reduction = Literal["rois", "mean", "sum"]


def _reduce(loss: Tensor, reduction: Reduction) -> Tensor:
    """The sum of (R, ...) entries, divided by the number of RoIs ("rois") or of entries ("mean"); 0, not nan, where there are none."""
    divisor = {"sum": 1, "rois": len(loss), "mean": loss.numel()}[reduction]
    return loss.sum() / max(1, divisor)


def discriminative_loss(confidence: Tensor, positive: Tensor, *, margins: bool = True, reduction: Reduction = "rois") -> Tensor:
    """L_d, Eq. 6: the largest confidence of each map is 1 on foreground and 0 on background. confidence (R, K, S, S), positive (R,) bool."""
    largest = confidence.float().amax(dim=(2, 3))  # (R, K)
    wanted = positive.float()[:, None].expand_as(largest)
    if not margins:
        return _reduce(F.smooth_l1_loss(largest, wanted, reduction="none"), reduction)
    wrong = (largest > 0.5) != (wanted > 0.5)
    emphasis = torch.where(wrong, 1.0, 0.5)
    return _reduce(F.smooth_l1_loss(largest * emphasis, wanted * emphasis, reduction="none", beta=0.05), reduction)


def uniqueness_loss(confidence: Tensor, positive: Tensor, *, reduction: Reduction = "rois") -> Tensor:
    """L_u, Eq. 7: on foreground, the largest sum of confidences in one cell is 1, so that key parts stand apart. Shapes as in L_d."""
    largest = confidence.float().sum(dim=1).amax(dim=(1, 2))  # (R,)
    loss = F.smooth_l1_loss(largest, torch.ones_like(largest), reduction="none") * positive
    return _reduce(loss, reduction)


# ---- Section 3.3: the condensed head


def model_key_parts(features: Tensor, positions: Tensor) -> Tensor:
    """Z_K, Eq. 8: the features at each key part, in the order of the maps. (R, C, S, S), (R, K) -> (R, K * C)."""
    cells = features.flatten(2).transpose(1, 2)  # (R, S * S, C)
    return cells.gather(1, positions[:, :, None].expand(-1, -1, cells.shape[2])).flatten(1)


class GlobalModelling(nn.Module):
    """Z_G, Eq. 9: average pooling to L x L cells and a 1x1 convolution to a quarter of the channels, then a ReLU."""

    def __init__(self, channels: int, length: int, *, channel_first: bool = False) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.length = length
        self.channel_first = channel_first

    def forward(self, features: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, C / 4, L, L)."""
        if self.channel_first:
            return average(self.reduce(features), self.length).relu()
        return self.reduce(average(features, self.length)).relu()


@dataclass(frozen=True)
class Explanation:
    """What a condensed head looked at in R RoIs, for Figures 3 and 5."""

    confidence: Tensor  # (R, K, S, S)
    positions: Tensor  # (R, K) int64, row * S + column
    activation: Tensor  # (R, L, L), the sum of the global part's rectified channels


class CondensedHead(nn.Module):
    """f(Z_K, Z_G; W'), Eq. 2: a second-stage head that models key parts finely and the whole roughly."""

    def __init__(self, shape: HeadShape, settings: Condensing) -> None:
        super().__init__()
        self.settings = settings
        key_parts, length = settings.key_parts, settings.length
        self.okpd = OKPDNet(shape.channels, shape.side, settings)
        self.whole = GlobalModelling(shape.channels, length, channel_first=settings.channel_first) if length else None
        width = shape.channels // 4 * length**2 + key_parts * (shape.channels + shape.side**2)
        self.dropout = nn.Dropout(0.01)
        self.fc = nn.Linear(width, shape.fc) if settings.fully_connected else None
        outputs = shape.fc if settings.fully_connected else width
        self.predictor = Predictor(outputs, shape)
        _initialise(self)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:
        """(R, C, S, S) and, in training, (R,) int64 labels with background 0 -> scores, deltas and the weighted L_d and L_u."""
        found = self.okpd(features)
        vector = self.dropout(self._vector(features, found))
        if self.fc is not None:
            vector = self.fc(vector).relu()
        losses = {} if labels is None else self._losses(found, labels > 0)
        return replace(self.predictor(vector), losses=losses)

    @torch.no_grad()
    def explain(self, features: Tensor) -> Explanation:
        """(R, C, S, S) -> what the head looks at; UserError if it lacks key parts or global modelling."""
        if self.whole is None or not self.settings.key_parts:
            raise UserError("explain: this head lacks key parts or global modelling; both are needed; take a row with K >= 1 and L >= 1")
        found = self.okpd(features)
        activation = self.whole(self._source(features, found)).sum(dim=1)
        return Explanation(found.confidence, found.positions, activation)

    def _source(self, features: Tensor, found: KeyParts) -> Tensor:
        return found.features if self.settings.source == "concentrated" else features

    def _vector(self, features: Tensor, found: KeyParts) -> Tensor:
        """The global part, the key parts' features, the maps: (R, C / 4 * L * L + K * C + K * S * S)."""
        source = self._source(features, found)
        parts = [model_key_parts(source, found.positions), found.maps.flatten(1)]
        return torch.cat(parts if self.whole is None else [self.whole(source).flatten(1), *parts], dim=1)

    def _losses(self, found: KeyParts, positive: Tensor) -> dict[str, Tensor]:
        """L_d and L_u, Eq. 5, as far as they are switched on."""
        settings = self.settings
        losses: dict[str, Tensor] = {}
        if not settings.key_parts:
            return losses
        if settings.discriminative:
            loss = discriminative_loss(found.confidence, positive, margins=settings.margins, reduction=settings.reduction)
            losses["discriminative"] = settings.weight * loss
        if settings.uniqueness:
            losses["uniqueness"] = settings.weight * uniqueness_loss(found.confidence, positive, reduction=settings.reduction)
        return losses


def _initialise(head: CondensedHead) -> None:
    """The code's start for the fully connected layer; the convolutions' is ours (head of this file)."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.constant_(module.bias, 0)
    if head.okpd.prediction is not None:
        nn.init.normal_(head.okpd.prediction.weight, std=0.01)
    if head.fc is not None:
        nn.init.kaiming_uniform_(head.fc.weight, nonlinearity="relu")
        nn.init.constant_(head.fc.bias, 0)


def condensed_head(key_parts: int, length: int, **options: Any) -> HeadFactory:
    """A factory of condensed heads "K<key_parts>, L<length>"; options are the other fields of `Condensing`."""
    settings = Condensing(key_parts, length, **options)
    return lambda shape: CondensedHead(shape, settings)


# ---- Figure 4's red line: the same head reduced without key parts


class ReducedHead(nn.Module):
    """Two fully connected layers on RoI features with fewer channels (1x1 convolution) or cells (average pooling)."""

    def __init__(self, shape: HeadShape, channels_ratio: float, length: int) -> None:
        super().__init__()
        left = replace(shape, channels=max(1, round(shape.channels * channels_ratio)), side=min(length, shape.side))
        self.reduce = nn.Conv2d(shape.channels, left.channels, 1) if channels_ratio < 1 else None
        self.length = left.side
        self.head = TwoFC(left)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:
        """(R, C, S, S) -> scores and deltas."""
        if self.reduce is not None:
            features = self.reduce(features).relu()
        if self.length < features.shape[-1]:
            features = average(features, self.length)
        return self.head(features, labels)


def reduced_head(channels_ratio: float = 1.0, length: int = 7) -> HeadFactory:
    """A factory of heads that keep a part of the channels and length x length cells."""
    if not 0 < channels_ratio <= 1 or length < 1:
        raise UserError(f"reduced_head: channels_ratio={channels_ratio}, length={length}; allowed: 0 < ratio <= 1 and length >= 1; give such")
    return lambda shape: ReducedHead(shape, channels_ratio, length)


# ---- the rows of Tables 1 to 4 and of Figure 4: (request, **arguments) -> Trainable


def build_fpn(request: Request, *, key_parts: int = 16, length: int = 5, **options: Any) -> TwoStage:
    """FPN with a condensed head, Appendix A: K16, L5."""
    return faster_rcnn_fpn(request, head=condensed_head(key_parts, length, **options))


def build_faster(request: Request, *, key_parts: int = 4, length: int = 3, blocks: int = 4, **options: Any) -> TwoStage:
    """Faster R-CNN on C4 with a condensed head in the place of the whole last stage, Appendix A: K4, L3, four blocks, 7x7 RoI features."""
    return faster_rcnn_c4(request, head=condensed_head(key_parts, length, blocks=blocks, **options), pooled=7)


def build_rfcn(request: Request, *, key_parts: int = 16, length: int = 3, **options: Any) -> TwoStage:
    """R-FCN with a condensed head on 256 channels, Appendix A: K16, L3, no fully connected layer."""
    return rfcn(request, head=condensed_head(key_parts, length, fully_connected=False, **options))


def build_cascade(request: Request, *, key_parts: int = 16, length: int = 5, **options: Any) -> TwoStage:
    """Cascade R-CNN with condensed heads of 2, 3 and 4 blocks, Appendix A: K16, L5."""
    return cascade_rcnn(request, heads=tuple(condensed_head(key_parts, length, blocks=blocks, **options) for blocks in (2, 3, 4)))


def build_reduced(request: Request, *, channels: float = 1.0, length: int = 7) -> TwoStage:
    """FPN whose two-layer head sees a part of the channels and length x length cells (Figure 4, red line)."""
    return faster_rcnn_fpn(request, head=reduced_head(channels, length))
