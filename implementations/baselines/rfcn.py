"""R-FCN (Dai et al., 2016): everything that learns runs once an image; RoIs only vote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implementations.baselines.numbers import LEAST_CHANNELS, enlarged, fc_width, image_sides, roi_quota, single_map_rpn
from implementations.layers.backbones import ResNet
from implementations.layers.heads import HeadFactory, HeadShape
from implementations.layers.pooling import Align
from implementations.layers.position_sensitive import PositionAlign, PositionMaps, Reduction, Vote
from implementations.layers.regions import RegionConfig, RegionStage
from implementations.layers.rpn import RPN
from implementations.layers.two_stage import DetectorConfig, TwoStage

if TYPE_CHECKING:
    from bench.spec import Request

SIDE = 7  # bins of a RoI, a side
STRIDE = 16  # of C4, and of the dilated C5


def rfcn(request: Request, *, head: HeadFactory | None = None) -> TwoStage:
    """R-FCN with position-sensitive maps and class-agnostic boxes.

    With `head`: C5 narrowed to 256 channels, RoIAlign, and that head with boxes for each class.
    """
    request = enlarged(request)
    backbone = ResNet(request.scale.backbones[request.setting.backbone], outputs=2, dilated=True)
    stage, features = voting_stage(request, backbone.channels[-1]) if head is None else headed_stage(request, backbone.channels[-1], head)
    rpn = single_map_rpn(request)
    config = DetectorConfig("rfcn", *image_sides(request), rpn, (stage.config,), (STRIDE, STRIDE), backbone.channels, features)
    return TwoStage(config, (backbone, None), RPN(backbone.channels[0], rpn), stage)


def voting_stage(request: Request, channels: int) -> tuple[RegionStage, tuple[int, int, int]]:
    """Position-sensitive maps, pooling and vote; and the shape of a RoI's features."""
    config = RegionConfig(request.classes, 1, roi_quota(request))
    shape = HeadShape(channels, SIDE, request.classes, 1, 0)
    maps = PositionMaps(channels, request.scale.channels(1024, least=LEAST_CHANNELS), shape)
    return RegionStage(config, PositionAlign(SIDE, STRIDE), Vote(request.classes), maps), (request.classes + 5, SIDE, SIDE)


def headed_stage(request: Request, channels: int, head: HeadFactory) -> tuple[RegionStage, tuple[int, int, int]]:
    """A narrowed map, RoIAlign and a head; and the shape of a RoI's features."""
    config = RegionConfig(request.classes, request.classes + 1, roi_quota(request))
    width = request.scale.channels(256, least=LEAST_CHANNELS)
    shape = HeadShape(width, SIDE, request.classes, config.box_classes, fc_width(request))
    return RegionStage(config, Align(SIDE, STRIDE), head(shape), Reduction(channels, width)), (width, SIDE, SIDE)
