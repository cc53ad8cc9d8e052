from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.metrics import METRICS, coco_ap, score_all, voc_ap
from bench.metrics.bootstrap import aps
from bench.metrics.matches import coco_matches, voc_matches
from bench.metrics.store import read_predictions, write_predictions
from bench.types import GroundTruth, Predictions

SIDES = st.sampled_from([4.0, 10.0, 20.0, 32.0, 50.0, 96.0, 100.0, 140.0])
PLACES = st.sampled_from([0.0, 1.0, 3.0, 5.0, 10.0, 33.5])


def truth_of(rows: list[tuple], images: list[int] = (1,), classes: int = 1) -> GroundTruth:
    """Rows of (image, label, x, y, w, h, crowd, difficult, share of the box that the object's own area is)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 9)
    corners = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:6]], axis=1)
    image, labels = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    names = tuple(str(i) for i in range(classes))
    area = table[:, 4] * table[:, 5] * table[:, 8]
    return GroundTruth(np.array(images, dtype=np.int64), image, corners, labels, table[:, 6] > 0, table[:, 7] > 0, area, names)


def predictions_of(rows: list[tuple]) -> Predictions:
    """Rows of (image, label, x, y, w, h, score)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    corners = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:6]], axis=1).astype(np.float32)
    return Predictions(table[:, 0].astype(np.int64), corners, table[:, 6].astype(np.float32), table[:, 1].astype(np.int64))


def box(x: float, *, image: int = 1, label: int = 0, crowd: int = 0, difficult: int = 0) -> tuple:
    """A 10 x 10 object at (x, 0)."""
    return (image, label, x, 0, 10, 10, crowd, difficult, 1)


def found(x: float, score: float, *, image: int = 1, label: int = 0, width: float = 10) -> tuple:
    return (image, label, x, 0, width, 10, score)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Predictions, GroundTruth]:
    """Few places and few scores, so that ties in IoU and score, crowds, empty sides and exact matches are common."""
    images = draw(st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True))
    classes = draw(st.integers(1, 3))
    where = (st.sampled_from(images), st.integers(0, classes - 1), PLACES, PLACES, SIDES, SIDES)
    marks = st.tuples(*where, st.sampled_from([0, 0, 0, 1]), st.sampled_from([0, 0, 1]), st.sampled_from([1.0, 0.5]))
    answers = st.tuples(*where, st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.9, 1.0]))
    truth = truth_of(draw(st.lists(marks, max_size=25)), images, classes)
    copied = draw(st.lists(st.integers(0, len(truth.labels) - 1), max_size=12)) if len(truth.labels) else []
    corner, far = truth.boxes[copied, :2], truth.boxes[copied, 2:]
    exact = np.column_stack([truth.image[copied], truth.labels[copied], corner, far - corner, np.full(len(copied), 0.7)])
    return predictions_of(draw(st.lists(answers, max_size=30)) + exact.tolist()), truth


def by_pycocotools(predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(corners: np.ndarray) -> list[float]:
        x1, y1, x2, y2 = (float(v) for v in corners)
        return [x1, y1, x2 - x1, y2 - y1]

    columns = zip(truth.image, truth.labels, truth.boxes, truth.crowd, truth.area, strict=True)
    marks = [
        {"id": i, "image_id": int(image), "category_id": int(label) + 1, "bbox": xywh(corners), "iscrowd": int(crowd), "area": float(area)}
        for i, (image, label, corners, crowd, area) in enumerate(columns, start=1)
    ]
    answers = [
        {"image_id": int(image), "category_id": int(label) + 1, "bbox": xywh(corners), "score": float(score)}
        for image, label, corners, score in zip(predictions.image, predictions.labels, predictions.boxes, predictions.scores, strict=True)
    ]
    names = [{"id": i, "name": name} for i, name in enumerate(truth.classes, start=1)]
    objects, replies = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        objects.dataset = {"images": [{"id": int(i)} for i in truth.image_ids], "categories": names, "annotations": marks}
        objects.createIndex()
        if answers:
            replies = objects.loadRes(answers)
        else:  # loadRes refuses an empty list
            replies.dataset = {**objects.dataset, "annotations": []}
            replies.createIndex()
        evaluation = COCOeval(objects, replies, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    keys = ["ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "ar1", "ar10", "ar100", "ar_s", "ar_m", "ar_l"]
    return {key: 100 * float(value) for key, value in zip(keys, evaluation.stats, strict=True) if value > -1}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_coco_equals_pycocotools(case: tuple[Predictions, GroundTruth]) -> None:
    expected = by_pycocotools(*case)
    assert coco_ap(*case) == pytest.approx(expected, abs=1e-6)
    own = aps(coco_matches(*case), np.ones((len(case[1].image_ids), 1), np.float32))[0]
    assert own == pytest.approx(expected.get("ap", np.nan), abs=1e-9, nan_ok=True)


def test_coco_equals_pycocotools_beyond_a_hundred_detections() -> None:
    draw = np.random.default_rng(3)
    marks = [(1 + i % 2, i % 2, *draw.uniform(0, 300, 2), *draw.uniform(5, 150, 2), i % 9 == 0, 0, 1) for i in range(120)]
    answers = [(m[0], m[1], *(np.array(m[2:6]) + draw.normal(0, 2, 4)), s) for m in marks for s in draw.choice([0.2, 0.4, 0.6], 4)]
    predictions, truth = predictions_of(answers), truth_of(marks, [1, 2], 2)
    expected = by_pycocotools(predictions, truth)
    assert coco_ap(predictions, truth) == pytest.approx(expected, abs=1e-6)
    assert aps(coco_matches(predictions, truth), np.ones((2, 1), np.float32))[0] == pytest.approx(expected["ap"], abs=1e-9)


def test_coco_by_hand() -> None:
    """Two objects; one found exactly, one never; a wrong one between does not matter. Precision 1 to recall 1/2: 51 of 101 points."""
    truth = truth_of([box(0), box(50)])
    values = coco_ap(predictions_of([found(0, 0.9), found(200, 0.5)]), truth)
    assert values["ap"] == pytest.approx(100 * 51 / 101)
    assert values["ar100"] == pytest.approx(50)
    assert values["ap_s"] == pytest.approx(100 * 51 / 101)
    assert "ap_m" not in values
    assert "ap_l" not in values


def test_size_goes_by_the_annotations_own_area() -> None:
    truth = truth_of([(1, 0, 0, 0, 40, 40, 0, 0, 0.5)])  # a box of 1600 px, an object of 800: small
    values = coco_ap(predictions_of([(1, 0, 0, 0, 40, 40, 0.9)]), truth)
    assert values["ap_s"] == pytest.approx(100)
    assert "ap_m" not in values


def test_nothing_to_find_is_absent_not_zero_and_nothing_found_is_zero() -> None:
    nothing, answers = truth_of([]), predictions_of([found(0, 0.9)])
    assert score_all(answers, nothing) == {}
    assert score_all(predictions_of([]), nothing) == {}
    values = score_all(predictions_of([]), truth_of([box(0)]))
    assert set(values) == {"ap", "ap50", "ap75", "ap_s", "ar1", "ar10", "ar100", "ar_s", "voc_ap50", "voc11_ap50"}
    assert set(values.values()) == {0.0}


def test_a_class_without_objects_counts_in_no_mean() -> None:
    truth = truth_of([box(0)], classes=2)
    values = score_all(predictions_of([found(0, 0.9), found(0, 0.8, label=1)]), truth)
    assert [values["ap"], values["voc_ap50"], values["voc11_ap50"]] == pytest.approx([100] * 3)


def test_an_image_of_another_split_is_refused() -> None:
    for metric in METRICS.values():
        with pytest.raises(ValueError, match="image 7"):
            metric(predictions_of([found(0, 0.9, image=7)]), truth_of([box(0)]))


@pytest.mark.parametrize("label", [-1, 1])
def test_a_class_that_the_data_lacks_is_refused(label: int) -> None:
    for metric in METRICS.values():
        with pytest.raises(ValueError, match=f"label {label}: allowed are 0 to 0"):
            metric(predictions_of([found(0, 0.9, label=label)]), truth_of([box(0)]))


def test_ids_may_be_any_whole_numbers() -> None:
    truth = truth_of([box(0, image=-5), box(0, image=2**40)], [2**40, -5])
    assert score_all(predictions_of([found(0, 0.9, image=-5)]), truth)["ar100"] == pytest.approx(50)


def by_devkit(predictions: Predictions, truth: GroundTruth, form: str) -> float:
    """VOCevaldet.m, box by box and in plain numbers."""
    values = []
    for label in range(len(truth.classes)):
        apart = truth.difficult | truth.crowd
        mine = [i for i in range(len(truth.labels)) if truth.labels[i] == label]
        positives = sum(not apart[i] for i in mine)
        if not positives:
            continue
        answers = [j for j in range(len(predictions.labels)) if predictions.labels[j] == label]
        answers.sort(key=lambda j: (-predictions.scores[j], predictions.image[j]))
        taken, hits, misses, curve = set(), 0, 0, []
        for j in answers:
            here = [(order, i) for order, i in enumerate(mine) if truth.image[i] == predictions.image[j]]
            overlaps = [(overlap(predictions.boxes[j], truth.boxes[i]), -order) for order, i in here]
            best, order = max(overlaps, default=(0.0, 0))
            if best >= 0.5 and apart[mine[-order]]:
                continue
            if best >= 0.5 and mine[-order] not in taken:
                taken.add(mine[-order])
                hits += 1
            else:
                misses += 1
            curve.append((hits, hits / (hits + misses)))
        values.append(read_curve(curve, positives, form))
    return 100 * sum(values) / len(values) if values else float("nan")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (float(v) for v in a), (float(v) for v in b)
    width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - width * height)


def read_curve(curve: list[tuple[int, float]], positives: int, form: str) -> float:
    def precision(hits: float) -> float:
        return max((p for h, p in curve if h >= hits), default=0.0)

    if form == "area":
        return sum(precision(h) for h in range(1, positives + 1)) / positives
    return sum(precision(-(-j * positives // 10)) for j in range(11)) / 11  # rounded up: the fewest hits with that recall


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(), st.sampled_from(["area", "11point"]))
def test_voc_equals_the_devkit(case: tuple[Predictions, GroundTruth], form: str) -> None:
    predictions, truth = case
    assert voc_ap(predictions, truth, form) == pytest.approx(by_devkit(predictions, truth, form), abs=1e-9, nan_ok=True)
    ones = np.ones((len(truth.image_ids), 1), np.float32)
    assert aps(voc_matches(predictions, truth, form=form), ones)[0] == pytest.approx(voc_ap(predictions, truth, form), abs=1e-9, nan_ok=True)


def test_voc_by_hand() -> None:
    """Hit, miss, hit of three objects: precisions 1, 1/2, 2/3, made to fall 1, 2/3, 2/3."""
    truth = truth_of([box(0), box(20), box(40)])
    predictions = predictions_of([found(0, 0.9), found(90, 0.8), found(20, 0.7)])
    assert voc_ap(predictions, truth) == pytest.approx(100 * (1 + 2 / 3) / 3)
    # recalls 0, .1, .2, .3 at precision 1; .4, .5, .6 at 2/3; beyond 2/3 none
    assert voc_ap(predictions, truth, "11point") == pytest.approx(100 * (4 + 3 * 2 / 3) / 11)


def test_a_recall_of_exactly_three_tenths_counts_as_reached() -> None:
    truth = truth_of([box(20 * i) for i in range(10)])
    predictions = predictions_of([found(20 * i, 0.9 - 0.1 * i) for i in range(3)])
    assert voc_ap(predictions, truth, "11point") == pytest.approx(100 * 4 / 11)


def test_voc_second_detection_of_an_object_is_wrong() -> None:
    truth = truth_of([box(0), box(20)])
    predictions = predictions_of([found(0, 0.9), found(0, 0.8), found(20, 0.7)])
    assert voc_ap(predictions, truth) == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_voc_takes_the_object_of_largest_overlap_even_if_it_is_taken() -> None:
    """COCO's greedy rule gives the second detection the free object, which it overlaps by 8/12; VOC's keeps it on the taken one, 9/11."""
    truth = truth_of([box(0), box(3)])
    predictions = predictions_of([found(0, 0.9), found(1, 0.8)])
    assert voc_ap(predictions, truth) == pytest.approx(50)
    assert coco_ap(predictions, truth)["ap50"] == pytest.approx(100)


def test_voc_difficult_objects_are_neither_found_nor_missed() -> None:
    truth = truth_of([box(0), box(20, difficult=1)])
    on_difficult = [found(20, 0.99), found(20, 0.98)]
    assert voc_ap(predictions_of([*on_difficult, found(0, 0.9)]), truth) == pytest.approx(100)
    assert voc_ap(predictions_of(on_difficult), truth) == 0
    assert np.isnan(voc_ap(predictions_of(on_difficult), truth_of([box(20, difficult=1)])))


def test_voc_half_overlap_counts_and_less_does_not() -> None:
    truth = truth_of([box(0)])
    assert voc_ap(predictions_of([found(0, 0.9, width=20)]), truth) == pytest.approx(100)
    assert voc_ap(predictions_of([found(0, 0.9, width=20.01)]), truth) == 0


def large() -> tuple[Predictions, GroundTruth]:
    """5,000 images, 36,000 objects, 480,000 detections, 80 classes as uneven as COCO's."""
    draw = np.random.default_rng(0)
    images, classes, objects, answers = 5000, 80, 36000, 480_000
    share = 1 / np.arange(1, classes + 1)
    where, labels = np.sort(draw.integers(0, images, objects)), draw.choice(classes, objects, p=share / share.sum())
    sides, corner = np.exp(draw.uniform(2, 6, (objects, 2))), draw.uniform(0, 300, (objects, 2))
    boxes = np.concatenate([corner, corner + sides], axis=1)
    source = draw.integers(0, objects, answers)
    far = draw.exponential(0.5, answers)[:, None]
    near = boxes[source] + draw.normal(0, 1, (answers, 4)) * np.tile(sides, 2)[source] * far
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    scores = np.clip(0.9 * np.exp(-far[:, 0]) * draw.uniform(0.5, 1, answers), 0, 1)
    crowd, difficult = draw.random((2, objects)) < 0.02
    truth = GroundTruth(np.arange(images), where, boxes, labels, crowd, difficult, sides.prod(1), tuple(map(str, range(classes))))
    order = np.argsort(where[source], kind="stable")
    return Predictions(where[source][order], near[order].astype(np.float32), scores[order].astype(np.float32), labels[source][order]), truth


def test_480_000_detections_are_scored_from_parquet_in_two_seconds(tmp_path: Path) -> None:
    predictions, truth = large()
    write_predictions(tmp_path / "p.parquet", predictions, limit_bytes=10**8)
    read_predictions(tmp_path / "p.parquet")  # imports pyarrow
    start = time.process_time()  # of all threads, which is no less than an idle machine's clock
    read = read_predictions(tmp_path / "p.parquet")
    values = coco_ap(read, truth)
    seconds = time.process_time() - start
    assert len(read.labels) > 400_000
    assert 0 < values["ap"] < 100
    assert seconds <= 2


def test_metrics_import_no_torch() -> None:
    code = "import sys; import bench.metrics, bench.metrics.store, bench.metrics.bootstrap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
