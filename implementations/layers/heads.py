"""Second-stage heads: from the features of RoIs to class scores and box offsets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from implementations.layers.backbones import EXPANSION, Stride, init_resnet, stage


@dataclass(frozen=True)
class HeadShape:
    """What a head is built for."""

    channels: int  # of the RoI features
    side: int  # RoI features are side x side
    classes: int  # background not counted
    box_classes: int  # 1: class-agnostic boxes; else classes + 1
    fc: int  # width of the fully connected layers
    blocks: int = 3  # of the backbone's last stage, for a head that is that stage


@dataclass(frozen=True)
class HeadOutput:
    """What a head says of R RoIs; index 0 of the scores is background."""

    scores: Tensor  # (R, classes + 1), before the softmax
    deltas: Tensor  # (R, 4 * box_classes)
    losses: dict[str, Tensor] = field(default_factory=dict)  # the head's own, beyond class and box


HeadFactory = Callable[[HeadShape], nn.Module]


class Predictor(nn.Module):
    """Class scores and box offsets from one vector a RoI."""

    def __init__(self, width: int, shape: HeadShape) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, shape.classes + 1)
        self.bbox_pred = nn.Linear(width, 4 * shape.box_classes)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, vector: Tensor) -> HeadOutput:
        """(R, width) -> scores and offsets."""
        return HeadOutput(self.cls_score(vector), self.bbox_pred(vector))


class TwoFC(nn.Module):
    """Two fully connected layers (FPN, section 4.2)."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.fc6 = nn.Linear(shape.channels * shape.side**2, shape.fc)
        self.fc7 = nn.Linear(shape.fc, shape.fc)
        self.predictor = Predictor(shape.fc, shape)
        for layer in (self.fc6, self.fc7):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:  # noqa: ARG002 - the interface of heads
        """(R, C, S, S) -> scores and offsets."""
        return self.predictor(F.relu(self.fc7(F.relu(self.fc6(features.flatten(1))))))


def two_fc_head(shape: HeadShape) -> nn.Module:
    """The head of FPN and of each stage of Cascade R-CNN."""
    return TwoFC(shape)


class Layer4(nn.Module):
    """The ResNet's last stage as the head (Faster R-CNN on C4); its stride stands in the first 1x1, as in caffe, which halves its cost."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        inner = shape.channels // 2
        self.layer4 = stage(shape.channels, inner, shape.blocks, stride=Stride(2, caffe=True))
        init_resnet(self.layer4)
        self.predictor = Predictor(inner * EXPANSION, shape)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:  # noqa: ARG002 - the interface of heads
        """(R, C, S, S) -> scores and offsets."""
        return self.predictor(self.layer4(features).mean((2, 3)))


def layer4_head(shape: HeadShape) -> nn.Module:
    """The head of Faster R-CNN on C4."""
    return Layer4(shape)
