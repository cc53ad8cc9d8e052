"""The numbers that the baselines share, at a request's scale."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from implementations.layers.rpn import RPNConfig
from implementations.layers.sampling import Quota

if TYPE_CHECKING:
    from bench.spec import Request

RATIOS = (0.5, 1.0, 2.0)  # of anchors, height over width
SIDES = (32, 64, 128, 256, 512)  # px, of anchors
LEAST_ANCHOR = 6  # px: a smaller anchor fits no object and rounds badly
LEAST_CHANNELS = 128  # condensed heads need that many
LEAST_SAMPLES = 64  # anchors an image: fewer see too few negatives
LEAST_FC = 64
SINGLE_LEVEL = 6  # detectors with one map show suppression as many times more anchors than they keep (12000 -> 2000, 6000 -> 1000)


def anchor_sides(request: Request) -> tuple[float, ...]:
    """The papers' five anchor sides in px of the network's input."""
    return tuple(float(max(LEAST_ANCHOR, round(request.scale.pixels(side)))) for side in SIDES)


def pyramid_sides(request: Request) -> tuple[float, ...]:
    """The same for a pyramid, where small images would leave anchors sparse against the strides."""
    return tuple(float(max(LEAST_ANCHOR, round(request.scale.pixels(side) * request.scale.anchors))) for side in SIDES)


def image_sides(request: Request) -> tuple[int, int]:
    """What the shorter side of an image becomes, and what the longer never passes."""
    return round(request.scale.pixels(request.setting.min_px)), round(request.scale.pixels(request.setting.max_px))


def enlarged(request: Request) -> Request:
    """The request with the pixels that a detector with one map of stride 16 is given."""
    return replace(request, scale=replace(request.scale, size=request.scale.size * request.scale.single_map))


def anchor_quota(request: Request) -> Quota:
    """Anchors trained on, an image: 256 in the papers, half of them positive."""
    return Quota(max(LEAST_SAMPLES, request.scale.rois // 2), 0.5)


def roi_quota(request: Request) -> Quota:
    """RoIs trained on, an image: 512 in the papers, a quarter of them positive."""
    return Quota(request.scale.rois, 0.25)


def pyramid_width(request: Request) -> int:
    """Channels of every level of a pyramid: 256 in the papers."""
    return request.scale.channels(256, least=LEAST_CHANNELS)


def pyramid_rpn(request: Request) -> RPNConfig:
    """One anchor side a level, five levels (FPN, section 4.1). No head reads its 256 channels, so they keep their ratio."""
    kept = request.scale.proposals
    sizes = tuple((side,) for side in pyramid_sides(request))
    return RPNConfig(request.scale.channels(256), sizes, RATIOS, kept, kept, anchor_quota(request))


def single_map_rpn(request: Request) -> RPNConfig:
    """Five sides on the map of stride 16, a 3x3 convolution of 512 channels."""
    kept = request.scale.proposals
    seen = (SINGLE_LEVEL * kept[0], SINGLE_LEVEL * kept[1])
    return RPNConfig(request.scale.channels(512, least=LEAST_CHANNELS), (anchor_sides(request),), RATIOS, seen, kept, anchor_quota(request))


def fc_width(request: Request) -> int:
    """Width of a head's fully connected layers: 1024 in the papers."""
    return request.scale.channels(1024, least=LEAST_FC)
