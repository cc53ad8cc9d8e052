"""PASCAL VOC's average precision: the area under the curve (2010 and later) or its mean at 11 recalls (2007)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from bench.metrics.matches import Matches, voc_matches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.types import GroundTruth, Predictions


def voc_ap(predictions: Predictions, truth: GroundTruth, form: Literal["area", "11point"] = "area", *, iou: float = 0.5) -> float:
    """Mean AP over the classes that have an object, 0..100; NaN where no class has one."""
    matches = voc_matches(predictions, truth, iou, form)
    values = class_aps(matches)
    return 100 * float(np.mean(values[~np.isnan(values)])) if not np.isnan(values).all() else float("nan")


def class_aps(matches: Matches) -> NDArray[np.float64]:
    """AP of each class, 0..1; NaN for a class without an object that counts."""
    objects = np.bincount(matches.object_label, minlength=len(matches.starts) - 1)
    return np.array([_class_ap(matches, label, int(count)) for label, count in enumerate(objects)])


def _class_ap(matches: Matches, label: int, objects: int) -> float:
    if not objects:
        return float("nan")
    rows = slice(matches.starts[label], matches.starts[label + 1])
    true = matches.true[0, rows][~matches.ignored[0, rows]]
    found = np.cumsum(true)
    precision = found / np.arange(1, len(true) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if matches.form == "area":
        return float(envelope[true].sum() / objects)  # recall grows by 1/objects at each hit and nowhere else
    # Recall >= j/10 in whole numbers: in floats the devkit's 3/10 misses its own 0.3.
    first = np.searchsorted(10 * found, np.arange(11) * objects)
    return float(np.append(envelope, 0.0)[np.minimum(first, len(true))].sum() / 11)
