"""Pretraining of a backbone on single objects of the embedded dataset, once for all rows: what ImageNet is to the papers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.datasets.scenes import open_scenes, single_objects
from bench.datasets.source import Data
from bench.types import GroundTruth, Target

SIDE = 48  # pixels of an object's image: about as large as objects are to the detectors
OBJECTS = 32_000  # distinct ones, at most
HELD_OUT = 512


class Objects:
    """Single objects as a split: the target of each image is one label and one box, the whole image."""

    def __init__(self, name: str, digest: str, drawn: tuple[Any, Any], classes: tuple[str, ...]) -> None:
        """`drawn`: images (N, 48, 48, 3) uint8, labels (N,) int64."""
        self.name, self.digest, self.classes = name, digest, classes
        self._images, self._labels = drawn
        self.count = len(self._labels)

    def __len__(self) -> int:
        """Number of objects."""
        return self.count

    def image(self, index: int) -> Tensor:
        """(3, 48, 48) float32 in 0..1."""
        return torch.from_numpy(self._images[index]).permute(2, 0, 1).float() / 255

    def target(self, index: int) -> Target:
        """The object's label."""
        none = torch.zeros(1, dtype=torch.bool)
        return Target(torch.tensor([[0.0, 0.0, SIDE, SIDE]]), torch.tensor([int(self._labels[index])]), none, none)

    def image_id(self, index: int) -> int:
        """Its place."""
        return index

    def image_name(self, index: int) -> str:
        """What an error message calls it."""
        return f"{self.name}/{index}"

    def ground_truth(self) -> GroundTruth:
        """Labels and whole-image boxes as columns."""
        rows = np.arange(self.count)
        boxes = np.tile(np.array([[0.0, 0.0, SIDE, SIDE]]), (self.count, 1))
        no = np.zeros(self.count, bool)
        return GroundTruth(rows, rows, boxes, self._labels, no, no, np.full(self.count, float(SIDE**2)), self.classes)


@lru_cache(maxsize=1)
def open_objects(data: Data, images: int) -> tuple[Objects, Objects]:
    """Objects to learn from, no more than so many images can show, and objects to test on; drawn at once, a minute at full size."""
    learnt = min(images, OBJECTS)
    pixels, labels = single_objects(data, learnt + HELD_OUT, SIDE)
    known = open_scenes(data, "train")
    parts = {"objects": slice(learnt), "held-out": slice(learnt, None)}
    opened = [Objects(f"{data.name}/{name}", known.digest, (pixels[part], labels[part]), known.classes) for name, part in parts.items()]
    return opened[0], opened[1]


class Pretrainer(nn.Module):
    """A classifier behind the trainer's interface: targets in, named losses out."""

    def __init__(self, classifier: nn.Module) -> None:
        """`classifier` has forward(images, labels) -> losses."""
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The classifier's losses."""
        losses: dict[str, Tensor] = self.classifier(images, torch.cat([target.labels for target in targets]))
        return losses


@torch.inference_mode()
def accuracy(model: Pretrainer, split: Objects) -> float:
    """Percent of the objects named rightly."""
    classifier: Any = model.classifier.eval()
    right = 0
    for first in range(0, len(split), SIDE):
        indices = range(first, min(first + SIDE, len(split)))
        answers = classifier.network(classifier.prepare([split.image(index) for index in indices])).argmax(1)
        right += int((answers == torch.cat([split.target(index).labels for index in indices]).to(answers.device)).sum())
    return 100 * right / len(split)
