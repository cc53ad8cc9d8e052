"""Faster R-CNN (Ren et al., 2015), with a feature pyramid (Lin et al., 2017) and on C4 with the last stage as head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from implementations.baselines.numbers import enlarged, fc_width, image_sides, pyramid_rpn, pyramid_width, roi_quota, single_map_rpn
from implementations.layers.backbones import ResNet
from implementations.layers.heads import HeadFactory, HeadShape, layer4_head, two_fc_head
from implementations.layers.pooling import Align, PyramidAlign
from implementations.layers.pyramid import Pyramid
from implementations.layers.regions import RegionConfig, RegionStage
from implementations.layers.rpn import RPN
from implementations.layers.two_stage import DetectorConfig, TwoStage

if TYPE_CHECKING:
    from bench.spec import Request

SIDE = 7  # of the RoI features
STRIDES = (4, 8, 16, 32)  # of the levels that RoIs are read from
C4_STRIDE = 16


def canonical_side(request: Request) -> float:
    """Side in px of a RoI that is read from P4: 224 in the paper.

    At smaller scales halfway, in octaves, between keeping the cells that a RoI covers (224 px) and keeping each level's share of the objects
    (224 px * size).
    """
    return 224 * math.sqrt(request.scale.size)


def faster_rcnn_fpn(request: Request, *, head: HeadFactory = two_fc_head) -> TwoStage:
    """Faster R-CNN on a pyramid; `head` makes the second-stage head."""
    backbone = ResNet(request.scale.backbones[request.setting.backbone])
    rpn, regions = pyramid_rpn(request), RegionConfig(request.classes, request.classes + 1, roi_quota(request))
    width, canonical = pyramid_width(request), canonical_side(request)
    shape = HeadShape(width, SIDE, request.classes, regions.box_classes, fc_width(request))
    sides = image_sides(request)
    config = DetectorConfig("faster_rcnn_fpn", *sides, rpn, (regions,), STRIDES, backbone.channels, (width, SIDE, SIDE), canonical)
    stage = RegionStage(regions, PyramidAlign(SIDE, STRIDES, canonical), head(shape))
    return TwoStage(config, (backbone, Pyramid(backbone.channels, width)), RPN(width, rpn), stage)


def faster_rcnn_c4(request: Request, *, head: HeadFactory = layer4_head, pooled: int = 14) -> TwoStage:
    """Faster R-CNN on C4: the head reads RoI features of side `pooled` (14 for layer4, which halves it; 7 for a head that keeps it)."""
    request = enlarged(request)
    spec = request.scale.backbones[request.setting.backbone]
    backbone = ResNet(spec, stages=3, outputs=1)
    rpn, regions = single_map_rpn(request), RegionConfig(request.classes, request.classes + 1, roi_quota(request))
    width = backbone.channels[-1]
    shape = HeadShape(width, pooled, request.classes, regions.box_classes, fc_width(request), spec.blocks[3])
    sides = image_sides(request)
    config = DetectorConfig("faster_rcnn_c4", *sides, rpn, (regions,), (C4_STRIDE,), backbone.channels, (width, pooled, pooled))
    stage = RegionStage(regions, Align(pooled, C4_STRIDE), head(shape))
    return TwoStage(config, (backbone, None), RPN(width, rpn), stage)
