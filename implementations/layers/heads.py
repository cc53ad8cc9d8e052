"""What every second-stage head is told and answers: the words between a detector and its head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HeadShape:
    """What a detector tells the head that it is about to build."""

    channels: int  # of the RoI features
    side: int  # the RoI features are side x side cells
    classes: int  # background not counted
    box_classes: int  # 1 if the box deltas are class-agnostic, else classes + 1
    fc: int  # width of the fully connected layer(s): 1024 in the paper's nets


@dataclass(frozen=True)
class HeadOutput:
    """What a head says of R RoIs."""

    scores: Tensor  # (R, classes + 1) logits, index 0 is background
    deltas: Tensor  # (R, 4 * box_classes)
    losses: dict[str, Tensor] = field(default_factory=dict)  # extra losses of the head, weights included; only where labels were given


HeadFactory = Callable[[HeadShape], nn.Module]
