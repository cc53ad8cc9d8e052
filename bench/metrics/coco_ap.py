"""COCO's twelve numbers, by hotcoco from columns in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.matches import indices, known, sides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.types import GroundTruth, Predictions

SIZES = ("all", "s", "m", "l")  # up to 32 px squared, up to 96 px squared, above: the third axis of hotcoco's arrays
MOST = (1, 10, 100)  # detections of a class on an image: their last axis


def coco_ap(predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
    """AP and AR as pycocotools computes them, 0..100; a number that is not defined (no object of that size) is absent.

    An object's size bucket goes by the annotation's own area. Crowds are ignored; `difficult` is a word of VOC's and changes nothing here.
    """
    from hotcoco import COCO, COCOeval

    ids = np.sort(truth.image_ids)
    names = [{"id": index, "name": name} for index, name in enumerate(truth.classes, start=1)]
    images = [{"id": index} for index in range(1, len(ids) + 1)]  # our ids may be any integers, hotcoco's may not; the order is the same
    objects = COCO.from_arrays(
        images,
        names,
        indices(ids, truth.image) + 1,
        known(truth.labels, len(names)) + 1,
        sides(truth.boxes),
        area=truth.area,
        iscrowd=truth.crowd.astype(np.int64),
    )
    found = np.column_stack(
        [indices(ids, predictions.image) + 1, sides(predictions.boxes), predictions.scores, known(predictions.labels, len(names)) + 1]
    )
    evaluation = COCOeval(objects, objects.load_res(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    assert arrays is not None
    return _summary(arrays["precision"], arrays["recall"])


def _summary(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    """The means that pycocotools prints, from precision (10 IoUs, 101 recalls, C, 4 sizes, 3 caps) and recall (the same without recalls)."""
    parts = {"ap": precision[..., 0, 2], "ap50": precision[0, ..., 0, 2], "ap75": precision[5, ..., 0, 2]}
    parts |= {f"ap_{size}": precision[..., place, 2] for place, size in enumerate(SIZES) if place}
    parts |= {f"ar{most}": recall[..., 0, place] for place, most in enumerate(MOST)}
    parts |= {f"ar_{size}": recall[..., place, 2] for place, size in enumerate(SIZES) if place}
    return {key: 100 * float(part[part > -1].mean()) for key, part in parts.items() if (part > -1).any()}
