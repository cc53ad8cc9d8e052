"""Detections and objects drawn at random, and a resample of images spelled out as copies: what the bootstrap is held against."""

from __future__ import annotations

import numpy as np

from bench.types import GroundTruth, Predictions


def made(seed: int, images: int = 12, objects: int = 60, others: int = 60, classes: int = 3) -> tuple[Predictions, GroundTruth]:
    """Objects, a noisy detection of most of them, and wrong ones; crowds and difficult objects among them. All scores differ."""
    draw = np.random.default_rng(seed)
    ids = np.sort(draw.choice(10_000, images, replace=False)).astype(np.int64)
    where, labels = draw.integers(0, images, objects), draw.integers(0, classes, objects)
    sides, corner = draw.uniform(8, 120, (objects, 2)), draw.uniform(0, 200, (objects, 2))
    boxes = np.concatenate([corner, corner + sides], axis=1)
    flags = draw.random((2, objects)) < 0.1
    truth = GroundTruth(ids, ids[where], boxes, labels, flags[0], flags[1], sides.prod(axis=1), tuple(map(str, range(classes))))
    noise = draw.normal(0, 0.06, (objects, 4)) * np.tile(sides, 2)
    wild = draw.uniform(0, 150, (others, 4))
    wild[:, 2:] += wild[:, :2] + 1
    found = np.concatenate([boxes + noise, wild]).astype(np.float32)
    scores = draw.permutation(np.linspace(0.01, 0.99, objects + others)).astype(np.float32)
    image = np.concatenate([where, draw.integers(0, images, others)])
    return Predictions(ids[image], found, scores, np.concatenate([labels, draw.integers(0, classes, others)])), truth


def replicated(predictions: Predictions, truth: GroundTruth, counts: np.ndarray) -> tuple[Predictions, GroundTruth]:
    """The resample spelled out: each image copied as often as it was drawn, under ids of its own."""
    ids = np.sort(truth.image_ids)
    copies = [image for image, count in zip(ids, counts.astype(int), strict=True) for _ in range(count)]
    rows = [np.flatnonzero(predictions.image == image) for image in copies]
    marks = [np.flatnonzero(truth.image == image) for image in copies]
    row, mark = np.concatenate(rows), np.concatenate(marks)
    image = np.repeat(np.arange(len(copies)), [len(x) for x in rows])
    object_image = np.repeat(np.arange(len(copies)), [len(x) for x in marks])
    new = GroundTruth(
        np.arange(len(copies)),
        object_image,
        truth.boxes[mark],
        truth.labels[mark],
        truth.crowd[mark],
        truth.difficult[mark],
        truth.area[mark],
        truth.classes,
    )
    return Predictions(image, predictions.boxes[row], predictions.scores[row], predictions.labels[row]), new
