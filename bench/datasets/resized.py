"""A split whose images are brought to one size, so that time and multiply-adds of detectors are of the same input."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from bench.types import GroundTruth, Split, Target


@dataclass(frozen=True)
class Resized:
    """A bench.types.Split of another one's images, each stretched to `size` (height, width), boxes with it."""

    split: Split
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """The split's, with the size."""
        return f"{self.split.name} at {self.size[0]}x{self.size[1]}"

    @property
    def digest(self) -> str:
        """Of the split's and the size."""
        return hashlib.sha256(f"{self.split.digest} {self.size}".encode()).hexdigest()

    @property
    def classes(self) -> tuple[str, ...]:
        """The split's."""
        return self.split.classes

    def __len__(self) -> int:
        """Number of images."""
        return len(self.split)

    def image(self, index: int) -> Tensor:
        """The image at its size, interpolated."""
        import torch.nn.functional as F

        image = self.split.image(index)
        return F.interpolate(image[None], size=self.size, mode="bilinear", align_corners=False)[0]

    def _scale(self, index: int) -> list[float]:
        """What corners are multiplied by."""
        height, width = self.split.image(index).shape[-2:]
        return [self.size[1] / width, self.size[0] / height] * 2

    def target(self, index: int) -> Target:
        """Its ground truth, in pixels of the image at its size."""
        target = self.split.target(index)
        return replace(target, boxes=target.boxes * target.boxes.new_tensor(self._scale(index)))

    def image_id(self, index: int) -> int:
        """The split's."""
        return self.split.image_id(index)

    def image_name(self, index: int) -> str:
        """The split's."""
        return self.split.image_name(index)

    def ground_truth(self) -> GroundTruth:
        """The split's annotations, in pixels of the images at their size."""
        truth, ids = self.split.ground_truth(), {self.split.image_id(index): index for index in range(len(self.split))}
        scales = np.array([self._scale(ids[int(image)]) for image in truth.image]).reshape(-1, 4)
        return replace(truth, boxes=truth.boxes * scales, area=truth.area * scales[:, 0] * scales[:, 1])
