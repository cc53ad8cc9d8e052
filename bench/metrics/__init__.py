"""Accuracy from stored predictions: METRICS by name, each (predictions, truth) -> numbers in 0..100. No torch."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan

from bench.metrics.coco_ap import coco_ap
from bench.metrics.voc_ap import voc_ap
from bench.types import GroundTruth, Predictions

Metric = Callable[[Predictions, GroundTruth], dict[str, float]]


def voc_aps(predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
    """VOC's AP at IoU 0.5 in both forms; absent where no class has an object that counts."""
    values = {"voc_ap50": voc_ap(predictions, truth), "voc11_ap50": voc_ap(predictions, truth, "11point")}
    return {key: value for key, value in values.items() if not isnan(value)}


METRICS: dict[str, Metric] = {"coco": coco_ap, "voc": voc_aps}


def score_all(predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
    """Every number of every metric; one that is not defined is absent."""
    return {key: value for metric in METRICS.values() for key, value in metric(predictions, truth).items()}
