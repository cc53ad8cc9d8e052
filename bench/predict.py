"""A detector's answers on a split, as columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from bench.types import Detections, Predictions, Split, detect

BATCH = 16
HASHED = 16  # images whose detections are hashed, for `leandet attest`


def predict(
    fabric: Fabric, detector: Any, split: Split, *, images: int | None = None, on_images: Callable[[int, int], None] | None = None
) -> Predictions:
    """The detections of the first `images` images of a split (None: of all), in order; the detector is left in eval mode."""
    detector.eval()
    count = min(images or len(split), len(split))
    found: list[tuple[int, Detections]] = []
    for first in range(0, count, BATCH):
        indices = range(first, min(first + BATCH, count))
        with torch.inference_mode(), fabric.autocast():
            answers = detect(detector, [split.image(index) for index in indices])
        found += [(split.image_id(index), answer) for index, answer in zip(indices, answers, strict=True)]
        if on_images:
            on_images(indices[-1] + 1, count)
    return _columns(found)


def _columns(found: list[tuple[int, Detections]]) -> Predictions:
    def joined(name: str, shape: tuple[int, ...], kind: str) -> Any:
        parts = [getattr(answer, name).detach().float().cpu().numpy() for _, answer in found]
        return np.concatenate([np.empty(shape, np.float32), *parts]).astype(kind)

    image = np.repeat([name for name, _ in found], [len(answer.scores) for _, answer in found]).astype(np.int64)
    scores = joined("scores", (0,), "float32").clip(0, 1)
    return Predictions(image, joined("boxes", (0, 4), "float32"), scores, joined("labels", (0,), "int64"))


def detections_hash(fabric: Fabric, detector: Any, split: Split) -> str:
    """A hash, bit for bit, of what a detector finds on the first 16 images of a split."""
    found = predict(fabric, detector, split, images=HASHED)
    total = hashlib.sha256()
    for column in (found.image, found.boxes, found.scores, found.labels):
        total.update(np.ascontiguousarray(column).tobytes())
    return total.hexdigest()
