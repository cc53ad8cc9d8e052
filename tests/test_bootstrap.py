from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resamples import made, replicated

from bench.metrics import coco_ap, voc_ap
from bench.metrics.bootstrap import aps, image_weights, paired_difference, seed_and_image_interval, smallest_detectable_difference, t_quantile
from bench.metrics.matches import coco_matches, voc_matches
from bench.types import GroundTruth, Predictions


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 60))
def test_weights_equal_copied_images(seed: int, images: int, objects: int) -> None:
    predictions, truth = made(seed, images=images, objects=objects)
    weights = image_weights(images, 4, seed)
    cases = {
        "coco": coco_matches(predictions, truth),
        "area": voc_matches(predictions, truth),
        "11point": voc_matches(predictions, truth, form="11point"),
    }
    fast = {form: aps(matches, weights) for form, matches in cases.items()}
    for sample in range(4):
        copy = replicated(predictions, truth, weights[:, sample])
        slow = {"coco": coco_ap(*copy).get("ap", np.nan), "area": voc_ap(*copy), "11point": voc_ap(*copy, "11point")}
        for form in cases:
            assert fast[form][sample] == pytest.approx(slow[form], abs=1e-9, nan_ok=True), form


def test_resamples_draw_as_many_images_as_there_are() -> None:
    weights = image_weights(7, 50, 3)
    assert weights.shape == (7, 50)
    assert (weights.sum(axis=0) == 7).all()
    assert (weights == image_weights(7, 50, 3)).all()
    assert (weights != image_weights(7, 50, 4)).any()


def test_a_run_against_itself_differs_by_nothing() -> None:
    matches = coco_matches(*made(1))
    same = paired_difference(matches, matches, samples=20)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert len(same.samples) == 20


def test_the_interval_by_hand() -> None:
    """Two images with one object each; A finds both, B that of the first alone: 100, 50 or 0 as the first is drawn twice, once or never."""
    square = np.array([[0.0, 0, 20, 20]])
    flags = np.zeros(2, dtype=bool)
    labels = np.zeros(2, dtype=np.int64)
    truth = GroundTruth(np.array([1, 2]), np.array([1, 2]), square.repeat(2, axis=0), labels, flags, flags, np.full(2, 400.0), ("a",))
    both = Predictions(np.array([1, 2]), square.repeat(2, axis=0), np.array([0.9, 0.8]), labels)
    one = Predictions(np.array([1]), square, np.array([0.9]), labels[:1])
    result = paired_difference(voc_matches(both, truth), voc_matches(one, truth), samples=400, seed=5)
    assert result.difference == pytest.approx(50)
    assert set(result.samples.round(9)) == {0.0, 50.0, 100.0}
    assert (result.low, result.high) == (0, 100)  # a quarter of the resamples at either end
    assert result.samples.mean() == pytest.approx(50, abs=10)  # the binomial's deviation is 35 / sqrt(400) = 1.8
    assert result.samples.tolist() == paired_difference(voc_matches(both, truth), voc_matches(one, truth), samples=400, seed=5).samples.tolist()


def test_seeds_widen_the_interval() -> None:
    """Images that all say the same leave only the seeds: differences of 0 and 100, paired by seed, give means of 0, 50 and 100."""
    square = np.tile([0.0, 0, 20, 20], (6, 1))
    ids, flags, labels = np.arange(6), np.zeros(6, dtype=bool), np.zeros(6, dtype=np.int64)
    truth = GroundTruth(ids, ids, square, labels, flags, flags, np.full(6, 400.0), ("a",))
    every = coco_matches(Predictions(ids, square, np.full(6, 0.9), labels), truth)
    none = coco_matches(Predictions(ids[:0], square[:0], np.zeros(0), labels[:0]), truth)
    result = seed_and_image_interval([every, every], [every, none], samples=300)
    assert result.difference == pytest.approx(50)
    assert set(result.samples.round(6)) == {0.0, 50.0, 100.0}
    with pytest.raises(ValueError, match="same seeds"):
        seed_and_image_interval([every, every], [every])


def test_runs_on_different_images_are_not_paired() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(coco_matches(*made(1, images=4)), coco_matches(*made(1, images=5)))


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (0.975, 30, 2.042),
        (0.8, 1, 1.376),
        (0.8, 4, 0.941),
    ],
)
def test_students_quantiles_are_those_of_the_printed_tables(probability: float, freedom: int, value: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=5.1e-4)


def test_smallest_detectable_difference_by_hand() -> None:
    """Differences 1..5: deviation sqrt(2.5), five seeds: (2.776 + 0.941) x sqrt(2.5 / 5)."""
    assert smallest_detectable_difference([1, 2, 3, 4, 5]) == pytest.approx(3.717 * 0.5**0.5, abs=1e-3)
    with pytest.raises(ValueError, match="at least two"):
        smallest_detectable_difference([1])


@pytest.mark.parametrize("matches", [coco_matches, voc_matches])
def test_thousand_resamples_of_five_thousand_images_in_ten_seconds(matches) -> None:
    """COCO AP over ten IoUs, VOC AP50. The processor's time of both threads together: what an idle machine with one core takes."""
    a, truth = made(1, images=5000, objects=15_000, others=60_000, classes=20)
    b = Predictions(a.image, a.boxes + np.float32(0.5), a.scores, a.labels)
    start = time.process_time()
    found = paired_difference(matches(a, truth), matches(b, truth))
    assert time.process_time() - start < 10
    assert len(found.samples) == 1000
