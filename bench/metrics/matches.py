"""Which detection found which object: the one step of a metric that looks at boxes, in COCO's rule and in VOC's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.types import GroundTruth, Predictions

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

Form = Literal["coco", "area", "11point"]
COCO_IOUS = tuple(float(x) for x in np.linspace(0.5, 0.95, 10))
COCO_MOST = 100  # detections of one class on one image, as pycocotools' maxDets counts them


@dataclass(frozen=True)
class Matches:
    """All that an AP needs once the boxes are matched. Detections stand by class, then best first; images as indices 0..images-1."""

    form: Form  # how AP is read off the curve: 101 points, area or 11 points
    images: int
    starts: Ints  # (C+1,) where each class begins among the detections
    image: Ints  # (M,) index of the image of each detection
    scores: Floats  # (M,)
    true: Bools  # (T, M) found an object, at each of T IoU thresholds
    ignored: Bools  # (T, M) neither right nor wrong
    object_image: Ints  # (N,) index of the image of each object that counts
    object_label: Ints  # (N,)


@dataclass(frozen=True)
class _Sorted:
    """Detections and objects, each sorted so that those of one image and class stand together."""

    key: Ints  # (M,) image * C + label of each detection, best first within a key
    boxes: Floats  # (M, 4) x y w h
    scores: Floats  # (M,)
    rank: Ints  # (M,) place within its key
    object_key: Ints  # (N,) of each object, ascending, as given within a key
    object_boxes: Floats  # (N, 4) x y w h
    apart: Bools  # (N,) objects that are found without counting: crowd, or difficult in VOC


@dataclass(frozen=True)
class _Pairs:
    """Detections with the objects of their image and class."""

    detection: Ints  # (P,) row of a detection, ascending
    object: Ints  # (P,) row of an object, ascending within a detection
    iou: Floats  # (P,)


def coco_matches(predictions: Predictions, truth: GroundTruth) -> Matches:
    """COCO's rule at IoU 0.50:0.95: greedy by score; an object is found once; what only a crowd explains is ignored (cocoeval.py, evaluateImg)."""
    rows = _sort(predictions, truth, truth.crowd, most=COCO_MOST)
    pairs = _overlaps(rows, crowds=True)
    ious = np.minimum(np.array(COCO_IOUS), 1 - 1e-10)
    true = _greedy(rows, pairs, ious)
    best_crowd = np.zeros(len(rows.key))
    crowd = rows.apart[pairs.object]
    np.maximum.at(best_crowd, pairs.detection[crowd], pairs.iou[crowd])
    return _by_class("coco", rows, true, (best_crowd >= ious[:, None]) & ~true, truth=truth)


def voc_matches(predictions: Predictions, truth: GroundTruth, iou: float = 0.5, form: Form = "area") -> Matches:
    """VOC's rule (devkit, VOCevaldet.m): a detection belongs to the object that it overlaps most, even if that is taken.

    The first on an object is right, a second wrong, and on a difficult object (or a crowd, which VOC does not know) each is neither. The devkit
    adds 1 to widths because its corners are inclusive pixels; our boxes are continuous, x1 one less, so x2 - x1 is the same width.
    """
    rows = _sort(predictions, truth, truth.difficult | truth.crowd)
    pairs = _overlaps(rows, crowds=False)
    order = np.lexsort((pairs.object, -pairs.iou, pairs.detection))
    detection, first = np.unique(pairs.detection[order], return_index=True)
    found, best = pairs.object[order][first], pairs.iou[order][first]
    detection, found = detection[best >= iou], found[best >= iou]
    true, ignored = np.zeros((2, 1, len(rows.key)), dtype=bool)
    ignored[0, detection[rows.apart[found]]] = True
    detection, found = detection[~rows.apart[found]], found[~rows.apart[found]]
    true[0, detection[np.unique(found, return_index=True)[1]]] = True  # rows are best first within an object's image and class
    return _by_class(form, rows, true, ignored, truth=truth)


def _sort(predictions: Predictions, truth: GroundTruth, apart: Bools, most: int | None = None) -> _Sorted:
    """Both sides by image (in order of its id), class, then score (ties as given); the best `most` of a key stay."""
    ids, classes = np.sort(truth.image_ids), len(truth.classes)
    key = indices(ids, predictions.image) * classes + known(predictions.labels, classes)
    order = np.lexsort((-predictions.scores, key))
    rank = _ranks(key[order])
    order, rank = (order, rank) if most is None else (order[rank < most], rank[rank < most])
    object_key = indices(ids, truth.image) * classes + known(truth.labels, classes)
    places = np.argsort(object_key, kind="stable")
    return _Sorted(
        key[order],
        sides(predictions.boxes[order]),
        predictions.scores[order].astype(np.float64),
        rank,
        object_key[places],
        sides(truth.boxes[places]),
        apart[places],
    )


def indices(ids: Ints, images: Ints) -> Ints:
    """The place of each image in the sorted ids; ValueError for one that is not there."""
    places = np.searchsorted(ids, images)
    known = (places < len(ids)) & (ids[np.minimum(places, len(ids) - 1)] == images) if len(ids) else np.zeros(len(images), dtype=bool)
    if not known.all():
        raise ValueError(f"image {images[~known][0]} is not in the split's ground truth")
    return places


def known(labels: Ints, classes: int) -> Ints:
    """The labels; ValueError for one that is no class."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        raise ValueError(f"label {labels[wrong][0]}: allowed are 0 to {classes - 1}")
    return labels


def _ranks(key: Ints) -> Ints:
    """The place of each row within its run of equal keys."""
    rows = np.arange(len(key))
    new = np.ones(len(key), dtype=bool)
    new[1:] = key[1:] != key[:-1]
    return rows - np.maximum.accumulate(np.where(new, rows, 0)) if len(key) else rows


def sides(boxes: NDArray[np.float32 | np.float64]) -> Floats:
    """x1 y1 x2 y2 as x y w h in float64: pycocotools computes from these, and equal IoUs need equal arithmetic."""
    wide = boxes.astype(np.float64).reshape(-1, 4)
    return np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1)


def _overlaps(rows: _Sorted, *, crowds: bool) -> _Pairs:
    """Every detection with every object of its image and class that it touches; on a crowd the union is the detection alone (`crowds`)."""
    first = np.searchsorted(rows.object_key, rows.key, side="left")
    count = np.searchsorted(rows.object_key, rows.key, side="right") - first
    detection = np.repeat(np.arange(len(rows.key)), count)
    found = np.repeat(first - np.cumsum(count) + count, count) + np.arange(len(detection))
    a, b = rows.boxes[detection], rows.object_boxes[found]
    sides = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inside, area = sides[:, 0] * sides[:, 1], a[:, 2] * a[:, 3]
    union = np.where(rows.apart[found] & crowds, area, area + b[:, 2] * b[:, 3] - inside)
    touching = (sides > 0).all(axis=1)
    return _Pairs(detection[touching], found[touching], inside[touching] / union[touching])


def _greedy(rows: _Sorted, pairs: _Pairs, ious: Floats) -> Bools:
    """(T, M): whether a detection gets the best object that no better detection has taken. All images and classes go on together, rank by rank."""
    taken = np.zeros((len(ious), len(rows.object_key)), dtype=bool)
    true = np.zeros((len(ious), len(rows.key)), dtype=bool)
    keep = (pairs.iou >= ious[0]) & ~rows.apart[pairs.object]
    detection, found, iou = pairs.detection[keep], pairs.object[keep], pairs.iou[keep]
    order = np.lexsort((found, iou, detection, rows.rank[detection]))  # the last that is free wins, as in pycocotools
    detection, found, iou = detection[order], found[order], iou[order]
    ends = np.flatnonzero(np.diff(rows.rank[detection])) + 1
    for chunk in np.split(np.arange(len(detection)), ends):
        if not len(chunk):
            continue
        free = (iou[chunk] >= ious[:, None]) & ~taken[:, found[chunk]]
        starts = np.flatnonzero(np.diff(detection[chunk], prepend=-1))
        last = np.maximum.reduceat(np.where(free, chunk, -1), starts, axis=1)
        level, _ = np.nonzero(last >= 0)
        pair = last[last >= 0]
        taken[level, found[pair]] = True
        true[level, detection[pair]] = True
    return true


def _by_class(form: Form, rows: _Sorted, true: Bools, ignored: Bools, *, truth: GroundTruth) -> Matches:
    """The flags in the order of the precision-recall curve: class, best first, ties by image and then as given."""
    classes = max(len(truth.classes), 1)
    label = rows.key % classes
    order = np.lexsort((-rows.scores, label))
    counted = rows.object_key[~rows.apart]
    return Matches(
        form=form,
        images=len(truth.image_ids),
        starts=np.searchsorted(label[order], np.arange(len(truth.classes) + 1)),
        image=rows.key[order] // classes,
        scores=rows.scores[order],
        true=true[:, order],
        ignored=ignored[:, order],
        object_image=counted // classes,
        object_label=counted % classes,
    )
