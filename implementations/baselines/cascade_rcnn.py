"""Cascade R-CNN (Cai and Vasconcelos, 2018) on a feature pyramid, with class-agnostic boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from implementations.baselines.faster_rcnn import SIDE, STRIDES, canonical_side
from implementations.baselines.numbers import fc_width, image_sides, pyramid_rpn, pyramid_width, roi_quota
from implementations.layers.backbones import ResNet
from implementations.layers.cascade import CascadeStage
from implementations.layers.heads import HeadFactory, HeadShape, two_fc_head
from implementations.layers.pooling import PyramidAlign
from implementations.layers.pyramid import Pyramid
from implementations.layers.regions import RegionConfig
from implementations.layers.rpn import RPN
from implementations.layers.two_stage import DetectorConfig, TwoStage

if TYPE_CHECKING:
    from bench.spec import Request

THRESHOLDS = (0.5, 0.6, 0.7)  # overlap from which a RoI is positive, stage by stage (section 4.2)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))  # of the box offsets, as mmdetection has them


def cascade_rcnn(request: Request, *, heads: Sequence[HeadFactory] = (two_fc_head,) * 3) -> TwoStage:
    """Cascade R-CNN; `heads` make the three stages' heads."""
    backbone = ResNet(request.scale.backbones[request.setting.backbone])
    rpn, quota = pyramid_rpn(request), roi_quota(request)
    regions = [RegionConfig(request.classes, 1, quota, threshold, weights) for threshold, weights in zip(THRESHOLDS, WEIGHTS, strict=True)]
    width, canonical = pyramid_width(request), canonical_side(request)
    shape = HeadShape(width, SIDE, request.classes, 1, fc_width(request))
    sides = image_sides(request)
    config = DetectorConfig("cascade_rcnn", *sides, rpn, tuple(regions), STRIDES, backbone.channels, (width, SIDE, SIDE), canonical)
    stage = CascadeStage(regions, PyramidAlign(SIDE, STRIDES, canonical), [head(shape) for head in heads])
    return TwoStage(config, (backbone, Pyramid(backbone.channels, width)), RPN(width, rpn), stage)
