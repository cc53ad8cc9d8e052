"""Faster R-CNN (Ren et al., 2015) with a feature pyramid (Lin et al., 2017)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from implementations.layers.backbones import ResNet
from implementations.layers.heads import HeadFactory, HeadShape, two_fc_head
from implementations.layers.pooling import PyramidAlign
from implementations.layers.pyramid import Pyramid
from implementations.layers.regions import RegionConfig, RegionStage
from implementations.layers.rpn import RPN, RPNConfig
from implementations.layers.sampling import Quota
from implementations.layers.two_stage import DetectorConfig, TwoStage

if TYPE_CHECKING:
    from bench.spec import Request

LEAST_ANCHOR = 6  # px: a smaller anchor fits no object and rounds badly
LEAST_CHANNELS = 128  # condensed heads need that many
LEAST_SAMPLES = 64  # anchors an image: fewer see too few negatives
SIDE = 7


def fpn_config(request: Request) -> DetectorConfig:
    """The numbers of FPN's section 5, at the request's scale."""
    scale = request.scale
    sizes = tuple((float(max(LEAST_ANCHOR, round(scale.pixels(side)))),) for side in (32, 64, 128, 256, 512))
    rpn = RPNConfig(
        channels=scale.channels(256, least=LEAST_CHANNELS),
        anchor_sizes=sizes,
        ratios=(0.5, 1.0, 2.0),
        candidates=scale.proposals,
        proposals=scale.proposals,
        quota=Quota(max(LEAST_SAMPLES, scale.rois // 2), 0.5),
    )
    regions = RegionConfig(request.classes, request.classes + 1, Quota(scale.rois, 0.25))
    # Halfway, in octaves, between keeping the cells a RoI covers (224 px) and keeping the share of objects a level gets (224 px * size).
    canonical = 224 * math.sqrt(scale.size)
    shorter, longer = (round(scale.pixels(side)) for side in (request.setting.min_px, request.setting.max_px))
    return DetectorConfig("faster_rcnn_fpn", shorter, longer, rpn, (regions,), canonical)


def faster_rcnn_fpn(request: Request, *, head: HeadFactory = two_fc_head) -> TwoStage:
    """Faster R-CNN on a pyramid; `head` makes the second-stage head."""
    config = fpn_config(request)
    width = config.rpn.channels
    backbone = ResNet(request.scale.backbones[request.setting.backbone])
    shape = HeadShape(width, SIDE, request.classes, request.classes + 1, request.scale.channels(1024, least=64))
    pool = PyramidAlign(SIDE, (4, 8, 16, 32), config.canonical)
    regions = RegionStage(config.regions[0], pool, head(shape))
    return TwoStage(config, (backbone, Pyramid(backbone.channels, width)), RPN(width, config.rpn), regions)
