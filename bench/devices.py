"""A split whose images and targets are on the device that learns; the thread that reads them also moves them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.types import GroundTruth, Split, Target


def on_device(split: Split, device: torch.device) -> Split:
    """The split itself where the device is the CPU, else the same split there."""
    return split if device.type == "cpu" else OnDevice(split, device)


class OnDevice:
    """A split, moved image by image."""

    def __init__(self, split: Split, device: torch.device) -> None:
        """`split` stays where it is."""
        self._split, self._device = split, device
        self.name, self.digest, self.classes = split.name, split.digest, split.classes

    def __len__(self) -> int:
        """Number of images."""
        return len(self._split)

    def image(self, index: int) -> Tensor:
        """The image, on the device."""
        return self._split.image(index).to(self._device)

    def target(self, index: int) -> Target:
        """Its ground truth, on the device."""
        target = self._split.target(index)
        moved = {name: getattr(target, name).to(self._device) for name in ("boxes", "labels", "crowd", "difficult")}
        return replace(target, **moved)

    def image_id(self, index: int) -> int:
        """The identifier that predictions carry."""
        return self._split.image_id(index)

    def image_name(self, index: int) -> str:
        """What an error message calls it."""
        return self._split.image_name(index)

    def ground_truth(self) -> GroundTruth:
        """All annotations as columns."""
        return self._split.ground_truth()
