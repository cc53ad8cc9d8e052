"""Light-Head R-CNN (Li, Peng, Yu, Zhang, Deng, Sun): the method, top to bottom, and every detector that its tables set beside it.

C5 -> large separable convolution -> thin feature maps -> position-sensitive RoI warping -> one fully connected layer of 2048 -> classes, boxes.

Where the paper and its code differ (the paper is the default; each is a field of `LightHead`):
- `branches`: the text has k x 1 and 1 x k "sequentially" (1); the code adds a second branch, 1 x k then k x 1, and sums both (2).
- `per_class`: Section 3.2 shares the 4 box offsets between the classes (False); the code has 4 a class (True).
- The images become 800 / 1200 as the paper says; the code's 800 / 1333 is a matter of a row's setting. So is the schedule: the paper's 1.5M images
  and 0.5M at a tenth of the rate, where the code has 30 epochs of 80,000 with drops at 19 and 25.

What the paper leaves out and the code, or the R-FCN code that the paper names as its base, decides:
- Large separable convolution: no activation inside, ReLU behind the sum, biases. Thin maps by 1x1 (Table 2): R-FCN's 1x1 to 1024 with ReLU, then
  1x1 to 490 without one ("exactly same as original R-FCN"), and a single linear layer behind the pooling.
- "Alignment": 2 x 2 bilinear samples a bin. Without it the cells that a bin touches are averaged (position-sensitive; RoIs rounded to pixels, as in
  R-FCN's code) or their maximum taken (plain; RoIs rounded to cells, as in Fast R-CNN's).
- Hard examples: all proposals of an image and its objects are ranked by class loss + box loss (its weight included), no sampling before.
- Smooth L1 beta 1 on offsets divided by 0.1 0.1 0.2 0.2; proposals: 12000 -> 0.7 -> 2000 in training, 6000 -> 1000 at test.
- At test: every score counts (threshold 0), at most 100 boxes an image.
- B1 is R-FCN's public code: 600 / 1000, four anchor sides from 64 on, 300 proposals in training and at test, the 128 hardest, box loss once.
- Faster R-CNN with two layers: C5 narrowed to 256 by 1x1 and ReLU, RoI pooling 7 x 7, two layers of 1024. Which head Table 4's has is not said, so
  that with the last stage as head is a row too: RoI pooling 14 x 14 on C4, the stride in the first 3x3, not dilated. Both share boxes, as setting L.

Left out: horizontal flipping in training, which no row of this project has (the drawn data's classes are each other's mirror images). An anchor has
one score of objectness, not two. Stages 1 and 2 and all statistics of batch norm are fixed as in Section 4.1; its scale and shift learn.

What neither says, decided here:
- With a feature pyramid: one large separable convolution, shared by P2 to P5, then position-sensitive alignment on the level that FPN's Eq. 1
  gives; C5 is not dilated; the proposal network is FPN's. It is trained on several scales, as the row above it in Table 5 is.
- Multi-scale training draws the side of each image apart, from the image's own seed; anchors stay as they are.
- Setting S: C4 and C5 are the ends of Stage3 and Stage4 (strides 16 and 32); its block is reading A of layers/xception.py. The 700 / 1100 row of
  Table 8 is the 800 / 1200 detector tested on smaller images; NMS 0.5 (Table 6) is the aligned detector tested so. Neither is trained again.
- Convolutions of thin maps start normal with the variance of their input kept (fan in), outputs with 0.01 and 0.001 as R-FCN's here.
- Below paper scale `kernel` follows the map and stays odd, `alpha` follows the channels (10 -> 3 of a quarter): with the drawn data's ten classes,
  10 would be as thick as R-FCN's own maps. What they became stands in the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.spec import Xception
from bench.types import Batch, Detections, Target, UserError
from implementations.baselines.faster_rcnn import canonical_side
from implementations.baselines.numbers import LEAST_CHANNELS, enlarged, image_sides, pyramid_rpn, pyramid_width, single_map_rpn
from implementations.layers.backbones import EXPANSION, ResNet, Stride, init_resnet, stage
from implementations.layers.dense_align import take
from implementations.layers.heads import HeadOutput, HeadShape, Predictor, TwoFC
from implementations.layers.jitter import jittered
from implementations.layers.pooling import SAMPLES, PyramidAlign
from implementations.layers.position_sensitive import PositionAlign, PositionMaps, Reduction, Vote
from implementations.layers.pyramid import Pyramid
from implementations.layers.regions import Pool, RegionConfig, RegionStage
from implementations.layers.rpn import RPN
from implementations.layers.sampling import Quota
from implementations.layers.targets import collate
from implementations.layers.two_stage import DetectorConfig, Raw, TwoStage
from implementations.layers.xception import XceptionClassifier, XceptionLike
from implementations.light_head.hard_examples import Hard, HardStage

if TYPE_CHECKING:
    from bench.spec import Request
    from implementations.layers.parts import Part
    from implementations.layers.rpn import Proposals, RPNConfig
    from implementations.layers.targets import Truth

Maps = Literal["separable", "pointwise", "scores", "narrow", ""]
Warping = Literal["psroi", "psroi align", "roi"]
Subnet = Literal["light", "linear", "vote", "two fc", "stage 5"]
SIDE = 7  # p, bins of a RoI a side
STAGE5_SIDE = 14  # of the RoI features that the last stage halves
SHARED = 1  # box_classes of offsets that the classes share


@dataclass(frozen=True)
class LightHead:
    """The settings of one detector. The defaults are setting L as in Table 4; B1 and B2 are Section 4.2.1's."""

    maps: Maps = "separable"  # what is pooled from: thin maps by either convolution, R-FCN's score maps, C5 narrowed to 256, C4 itself ("")
    warping: Warping = "psroi"
    subnet: Subnet = "light"
    alpha: int = 10  # thin maps have alpha * p * p channels, C_out
    kernel: int = 15  # k
    mid: int = 256  # C_mid
    branches: Literal[1, 2] = 1
    per_class: bool = False
    baseline: Literal["B1", "B2"] = "B2"
    rpn: int = 512  # channels of the proposal network
    nms: float = 0.3
    pyramid: bool = False
    scales: tuple[int, ...] = ()  # px of the shorter side, drawn for each image in training; none: the setting's own
    longest: int = 1400  # px that the longer side then never passes

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"LightHead: {name} is {getattr(self, name)!r}; allowed: {', '.join(map(repr, allowed))}; give one of them")
        if min(self.alpha, self.kernel, self.mid) < 1 or self.kernel % 2 == 0:
            given = f"alpha={self.alpha}, kernel={self.kernel}, mid={self.mid}"
            raise UserError(f"LightHead: {given}; all must be positive and kernel odd, so that maps keep their size; give such")


ALLOWED: dict[str, tuple[object, ...]] = {
    "maps": ("separable", "pointwise", "scores", "narrow", ""),
    "warping": ("psroi", "psroi align", "roi"),
    "subnet": ("light", "linear", "vote", "two fc", "stage 5"),
    "branches": (1, 2),
    "baseline": ("B1", "B2"),
}


def at_scale(settings: LightHead, request: Request) -> LightHead:
    """The settings as a tier has them: lengths follow the pixels of the request, channels the width."""
    scale = request.scale
    return replace(
        settings,
        alpha=ceil(settings.alpha * scale.width),
        kernel=2 * int(scale.pixels(settings.kernel) / 2) + 1,
        mid=scale.channels(settings.mid),
        rpn=scale.channels(settings.rpn),
        scales=tuple(round(scale.pixels(side)) for side in settings.scales),
        longest=round(scale.pixels(settings.longest)),
    )


# ---- Section 3.2, Figure 3: thin feature maps


class LargeSeparable(nn.Module):
    """Large separable convolution: k x 1, then 1 x k by way of C_mid; with two branches also 1 x k, then k x 1, summed; then ReLU."""

    def __init__(self, channels: int, out: int, settings: LightHead) -> None:
        super().__init__()
        tall, wide = (settings.kernel, 1), (1, settings.kernel)
        orders = ((tall, wide), (wide, tall))[: settings.branches]
        self.branches = nn.ModuleList(
            nn.Sequential(padded_conv(channels, settings.mid, first), padded_conv(settings.mid, out, second)) for first, second in orders
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H, W)."""
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return F.relu(total)


def padded_conv(channels: int, out: int, kernel: tuple[int, int]) -> nn.Conv2d:
    """A convolution that keeps the map's size."""
    conv = nn.Conv2d(channels, out, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    nn.init.zeros_(conv.bias)
    return conv


def thin_by_pointwise(channels: int, width: int, out: int) -> nn.Sequential:
    """Figure 4: R-FCN's 1x1 and ReLU, then 1x1 to the thin maps."""
    return nn.Sequential(Reduction(channels, width), padded_conv(width, out, (1, 1)))


def stem_of(settings: LightHead, channels: int, shape: HeadShape, request: Request) -> nn.Module | None:
    """What makes the pooled maps of the last stage's, once an image."""
    width = request.scale.channels(1024, least=LEAST_CHANNELS)
    if settings.maps == "scores":
        return PositionMaps(channels, width, shape)
    if settings.maps == "pointwise":
        return thin_by_pointwise(channels, width, settings.alpha * SIDE**2)
    if settings.maps == "separable":
        return LargeSeparable(channels, settings.alpha * SIDE**2, settings)
    return Reduction(channels, narrow_width(request)) if settings.maps == "narrow" else None


def narrow_width(request: Request) -> int:
    """Channels of C5 before two fully connected layers: 256."""
    return request.scale.channels(256)


# ---- RoI warping


@dataclass(frozen=True)
class PositionPool:
    """Position-sensitive RoI pooling: bin (i, j) of each output is the mean of the cells it touches on its own map (R-FCN, Eq. 1).

    As in R-FCN's code a RoI's corners are rounded to pixels, not to cells as torchvision's operator has it. Means come from running sums.
    """

    side: int
    stride: int

    def edges(self, start: Tensor, end: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """First cell and last cell + 1 of each bin, (R, side) int64 both, from the RoIs' sides (R,) in pixels."""
        start, end = (pixel.double().round() / self.stride for pixel in (start, end))
        step = ((end - start).clamp(min=0.1) / self.side)[:, None]
        places = start[:, None] + torch.arange(self.side + 1, device=start.device) * step
        return places[:, :-1].floor().clamp(0, length).long(), places[:, 1:].ceil().clamp(0, length).long()

    def __call__(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """The last map (B, D * side * side, H, W) and RoIs (R, 5) -> (R, D, side, side)."""
        x, side = maps[-1], self.side
        height, width = x.shape[2] + 1, x.shape[3] + 1
        sums = F.pad(x.double(), (1, 0, 1, 0)).cumsum(2).cumsum(3)
        table = sums.unflatten(1, (-1, side, side)).permute(0, 4, 5, 2, 3, 1).flatten(0, 4)  # (B * H' * W' * side * side, D)
        (top, bottom), (left, right) = (self.edges(rois[:, at], rois[:, at + 2], size - 1) for at, size in ((2, height), (1, width)))
        own = torch.arange(side * side, device=x.device).view(side, side)

        def corner(rows: Tensor, columns: Tensor) -> Tensor:
            cell = (rois[:, 0].long()[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]  # (R, side, side)
            return table.index_select(0, (cell * side**2 + own).flatten()).view(*cell.shape, -1)

        total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
        cells = ((bottom - top)[:, :, None] * (right - left)[:, None, :]).clamp(min=1)
        return (total / cells[..., None]).permute(0, 3, 1, 2).float()


@dataclass(frozen=True)
class PlainPool:
    """RoI pooling: each bin is the maximum of the cells it touches, on every map."""

    side: int
    stride: int

    def __call__(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """The last map (B, C, H, W) and RoIs (R, 5) -> (R, C, side, side)."""
        from torchvision.ops import roi_pool  # here, not above: it takes as long to import as torch, and costs are counted without it

        return roi_pool(maps[-1].float(), rois, self.side, 1 / self.stride)


@dataclass(frozen=True)
class PyramidPositionAlign:
    """Position-sensitive alignment on the level that suits each RoI (FPN, Eq. 1)."""

    levels: PyramidAlign

    def __call__(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps (B, D * side * side, H, W), one a level, and RoIs (R, 5) -> (R, D, side, side)."""
        from torchvision.ops import ps_roi_align  # as above

        side, level = self.levels.side, self.levels.level(rois)
        order = [(level == i).nonzero()[:, 0] for i in range(len(self.levels.strides))]
        parts = zip(maps, order, self.levels.strides, strict=True)
        found = [ps_roi_align(one.float(), rois[where], side, 1 / stride, SAMPLES) for one, where, stride in parts]
        back = torch.empty_like(level).scatter_(0, torch.cat(order), torch.arange(len(level), device=level.device))
        return take(torch.cat(found), back)


WARPINGS: dict[str, type[PositionPool | PositionAlign | PlainPool]] = {"psroi": PositionPool, "psroi align": PositionAlign, "roi": PlainPool}


# ---- R-CNN subnets


class LightRCNN(nn.Module):
    """Section 3.2: a single fully connected layer of 2048 channels, no dropout, then classes and boxes."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.fc = nn.Linear(shape.channels * shape.side**2, shape.fc)
        self.predictor = Predictor(shape.fc, shape)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:  # noqa: ARG002 - the interface of heads
        """(R, C, S, S) -> scores and offsets."""
        return self.predictor(F.relu(self.fc(features.flatten(1))))


class LinearRCNN(nn.Module):
    """Figure 4: "a simple fully connected layer is involved for final prediction"."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.predictor = Predictor(shape.channels * shape.side**2, shape)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:  # noqa: ARG002 - the interface of heads
        """(R, C, S, S) -> scores and offsets."""
        return self.predictor(features.flatten(1))


class Stage5(nn.Module):
    """The last stage of the ResNet for each RoI, and global average pooling (Section 3.1.1); the stride stands in its first 3x3."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        inner = shape.channels // 2
        self.layer4 = stage(shape.channels, inner, shape.blocks, stride=Stride(2))
        init_resnet(self.layer4)
        self.predictor = Predictor(inner * EXPANSION, shape)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:  # noqa: ARG002 - the interface of heads
        """(R, C, S, S) -> scores and offsets."""
        return self.predictor(self.layer4(features).mean((2, 3)))


def subnet_of(settings: LightHead, shape: HeadShape) -> nn.Module:
    """What runs once a RoI."""
    if settings.subnet == "vote":
        return Vote(shape.classes)
    subnets = {"light": LightRCNN, "linear": LinearRCNN, "two fc": TwoFC, "stage 5": Stage5}
    return subnets[settings.subnet](shape)


def head_shape(settings: LightHead, request: Request, channels: int) -> HeadShape:
    """What the subnet is built for; `channels` are those of the map that the proposals are made on, C4."""
    boxes = request.classes + 1 if settings.per_class else SHARED
    thin = settings.alpha * (SIDE**2 if settings.warping == "roi" else 1)
    votes = request.classes + 1 + 4 * boxes
    pooled = {"separable": thin, "pointwise": thin, "scores": votes, "narrow": narrow_width(request), "": channels}[settings.maps]
    side = STAGE5_SIDE if settings.subnet == "stage 5" else SIDE
    width = request.scale.channels(2048 if settings.subnet == "light" else 1024)
    spec = request.scale.backbones[request.setting.backbone]
    return HeadShape(pooled, side, request.classes, boxes, width, spec.blocks[-1])


# ---- Section 4.2.1: B1 and B2


def hard_examples(settings: LightHead, request: Request) -> Hard:
    """The 256 hardest of 2000 and the box loss twice (B2); the 128 hardest of 300 (B1)."""
    rois = request.scale.rois
    return Hard(rois // 2, 2.0) if settings.baseline == "B2" else Hard(rois // 4, 1.0)


def rpn_config(settings: LightHead, request: Request) -> RPNConfig:
    """Five anchor sides and 2000 / 1000 proposals (B2); four, the smallest left out, and 300 (B1)."""
    config = replace(pyramid_rpn(request) if settings.pyramid else single_map_rpn(request), channels=settings.rpn)
    if settings.baseline == "B2":
        return config
    kept = (round(0.15 * config.proposals[0]), round(0.3 * config.proposals[1]))
    return replace(config, anchor_sizes=(config.anchor_sizes[0][1:],), proposals=kept, candidates=(20 * kept[0], 20 * kept[1]))


def region_config(settings: LightHead, request: Request, hard: Hard) -> RegionConfig:
    """What the second stage is told beyond the hard examples; its quota is theirs."""
    boxes = request.classes + 1 if settings.per_class else SHARED
    return RegionConfig(request.classes, boxes, Quota(hard.count, 1.0), score=0.0, nms=settings.nms)


# ---- the detector


@dataclass(frozen=True)
class Body:
    """A backbone, its neck, and what they give."""

    backbone: nn.Module
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    neck: nn.Module | None = None


def body_of(settings: LightHead, request: Request) -> Body:
    """Setting S: the small net, strides 16 and 32. Setting L: ResNet, stage 5 dilated, or left to the head, or under a pyramid."""
    spec = request.scale.backbones[request.setting.backbone]
    if isinstance(spec, Xception):
        small = XceptionLike(spec)
        return Body(small, (16, 32), small.channels)
    if settings.pyramid:
        net = ResNet(spec)
        return Body(net, (4, 8, 16, 32), net.channels, Pyramid(net.channels, pyramid_width(request)))
    alone = settings.subnet == "stage 5"
    net = ResNet(spec, stages=3, outputs=1) if alone else ResNet(spec, outputs=2, dilated=True)
    return Body(net, (16,) if alone else (16, 16), net.channels)


def warping_of(settings: LightHead, request: Request, body: Body) -> Pool:
    """How RoIs are read from the maps."""
    if settings.pyramid:
        return PyramidPositionAlign(PyramidAlign(SIDE, body.strides, canonical_side(request)))
    return WARPINGS[settings.warping](STAGE5_SIDE if settings.subnet == "stage 5" else SIDE, body.strides[-1])


class LightHeadRCNN(nn.Module):
    """A two-stage detector that learns from images of several sizes (Section 4.3), or has thin maps on every level of a pyramid."""

    def __init__(self, plain: TwoStage, settings: LightHead) -> None:
        super().__init__()
        self.config, self.settings = plain.config, settings
        self.backbone, self.neck, self.rpn, self.regions = plain.backbone, plain.neck, plain.rpn, plain.regions
        self.plain = (plain,)  # in a tuple: its parts are registered once, by the names that their weights have in every detector

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """At test: one size for all."""
        return self.plain[0].prepare(images)

    def network(self, batch: Batch, proposals: Proposals | None = None) -> Raw:
        """All that learns."""
        maps = self.plain[0].features(batch.pixels)
        if proposals is None:
            proposals, _ = self.propose(maps, batch)
        return Raw(self.regions(maps, proposals), batch.sizes, batch.originals)

    def propose(self, maps: list[Tensor], batch: Batch, truth: Truth | None = None) -> tuple[Proposals, dict[str, Tensor]]:
        """As the plain detector."""
        return self.plain[0].propose(maps, batch, truth)

    def finish(self, raw: Raw) -> list[Detections]:
        """Decode, suppress, and go back to the pixels of each image as given."""
        return self.plain[0].finish(raw)

    def jitter(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Batch:
        """Each image at a side of its own, drawn by its seed, padded at the right and the bottom."""
        scales = self.settings.scales
        if not scales:
            return self.prepare(images)
        return jittered(images, [target.seed for target in targets], scales, self.settings.longest)

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named losses of a batch."""
        batch = self.jitter(images, targets)
        truth = collate(targets, batch)
        maps = self.plain[0].features(batch.pixels)
        proposals, losses = self.propose(maps, batch, truth)
        return losses | self.regions.losses(maps, proposals, truth)

    def parts(self, height: int, width: int) -> tuple[Part, ...]:
        """The detector taken apart for its cost; on a pyramid, proposals and thin maps are made on every level."""
        parts = self.plain[0].parts(height, width)
        if self.neck is None:
            return parts
        channels = self.rpn.head.conv.in_channels
        grids = [(1, channels, *(-(-side // stride) for side in (height, width))) for stride in self.config.strides]
        top = (1, channels, *(-(-side // 2) for side in grids[-1][2:]))
        inputs = {"rpn": (*grids, top), "maps": tuple(grids)}
        return tuple(replace(part, inputs=inputs.get(part.name, part.inputs)) for part in parts)


def build_light_head(request: Request, **options: Any) -> TwoStage | LightHeadRCNN:
    """Every row but the classifier: options are the fields of `LightHead`. Weights of another row, where given, are taken as they are."""
    chosen = LightHead(**options)
    request = request if chosen.pyramid else enlarged(request)
    settings = at_scale(chosen, request)
    detector = assembled(settings, request)
    if request.inputs:
        (path,) = request.inputs.values()
        detector.load_state_dict(load_file(path))
    return detector


def assembled(settings: LightHead, request: Request) -> TwoStage | LightHeadRCNN:
    """The detector, its parts put together; settings as the tier has them."""
    body, rpn, hard = body_of(settings, request), rpn_config(settings, request), hard_examples(settings, request)
    shape, regions = head_shape(settings, request, body.channels[0]), region_config(settings, request, hard)
    source = pyramid_width(request) if settings.pyramid else body.channels[-1]
    levels = slice(0, len(body.strides)) if settings.pyramid else slice(-1, None)
    stem = stem_of(settings, source, shape, request)
    second = HardStage(RegionStage(regions, warping_of(settings, request, body), subnet_of(settings, shape)), hard, stem, levels=levels)
    canonical = canonical_side(request) if settings.pyramid else 0.0
    features = (shape.channels, shape.side, shape.side)
    told = (regions, hard, settings)
    config = DetectorConfig("light_head", *image_sides(request), rpn, told, body.strides, body.channels, features, canonical)
    plain = TwoStage(config, (body.backbone, body.neck), RPN(source if settings.pyramid else body.channels[0], rpn), second)
    return LightHeadRCNN(plain, settings) if settings.scales or settings.pyramid else plain


def build_classifier(request: Request) -> XceptionClassifier:
    """Table 7 with its FC: counted, never trained here."""
    return XceptionClassifier(request.scale.backbones[request.setting.backbone], request.classes)
