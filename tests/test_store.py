from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.metrics import coco_ap
from bench.metrics.store import STEPS, compact, read_coco_results, read_predictions, write_predictions
from bench.types import GroundTruth, Predictions, UserError

NUMBERS = count()


def made(images: int, detections: int, seed: int = 0) -> Predictions:
    draw = np.random.default_rng(seed)
    image = np.sort(draw.integers(0, images, detections)) * 7 + 3
    boxes = draw.uniform(0, 300, (detections, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return Predictions(image, boxes, draw.beta(0.5, 2, detections).astype(np.float32), draw.integers(0, 10, detections))


def columns(predictions: Predictions) -> tuple[list, ...]:
    return tuple(column.tolist() for column in (predictions.image, predictions.boxes, predictions.scores, predictions.labels))


def truth_of(images: list[int], boxes: list[list[float]], classes: int = 2) -> GroundTruth:
    """One object of class 0 an image, crowd or difficult none."""
    table = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    flags, labels = np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=np.int64)
    return GroundTruth(
        np.array(images),
        np.array(images[: len(table)], dtype=np.int64),
        table,
        labels,
        flags,
        flags,
        np.full(len(table), 100.0),
        tuple("ab"[:classes]),
    )


def mistake_or(reader: Callable[..., Predictions], path: Path, *others: object) -> Predictions | None:
    """What a reader makes of a file; a mistake must be a UserError of one line that names the file."""
    try:
        return reader(path, *others)
    except UserError as error:
        text = str(error)
    assert str(path) in text
    assert len(text.splitlines()) == 1
    return None


def test_what_was_written_is_read_to_a_sixteenth_of_a_pixel(tmp_path: Path) -> None:
    given_ = made(20, 300)
    stored = write_predictions(tmp_path / "p.parquet", given_)
    assert columns(read_predictions(tmp_path / "p.parquet")) == columns(stored)
    order = np.lexsort((-given_.scores, given_.image))
    assert (stored.image == given_.image[order]).all()
    assert np.abs(stored.scores - given_.scores[order]).max() <= 0.5 / 65535 + 1e-7
    by_score = np.abs(np.sort(stored.boxes, axis=0) - np.sort(given_.boxes, axis=0))
    assert by_score.max() <= 1 / 32 + 1e-4  # half a step, and float32's own


def test_storing_twice_changes_nothing_more(tmp_path: Path) -> None:
    once = write_predictions(tmp_path / "a.parquet", made(20, 300))
    twice = write_predictions(tmp_path / "b.parquet", once)
    assert columns(once) == columns(twice)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_the_order_given_does_not_reach_the_file(tmp_path: Path) -> None:
    first = made(5, 200)
    mixed = np.random.default_rng(1).permutation(200)
    other = Predictions(first.image[mixed], first.boxes[mixed], first.scores[mixed], first.labels[mixed])
    write_predictions(tmp_path / "a.parquet", first)
    write_predictions(tmp_path / "b.parquet", other)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_thousand_images_fit_and_the_file_says_what_was_dropped(tmp_path: Path) -> None:
    given_ = made(1000, 60_000)
    stored = write_predictions(tmp_path / "p.parquet", given_)
    assert (tmp_path / "p.parquet").stat().st_size <= 300_000
    schema = pq.read_schema(tmp_path / "p.parquet")
    about = json.loads(schema.metadata[b"leandet"])
    assert about["dropped"] == 60_000 - len(stored.scores) > 0
    assert (about["per_image"], about["lowest_score"]) in STEPS
    assert np.unique(stored.image, return_counts=True)[1].max() <= about["per_image"]
    assert stored.scores.min() >= about["lowest_score"] - 1e-7
    assert schema.field("x1").metadata[b"unit"] == b"1/16 px"


def test_nothing_is_dropped_that_fits(tmp_path: Path) -> None:
    stored = write_predictions(tmp_path / "p.parquet", made(3, 2000))  # hundreds an image
    assert len(stored.scores) == 2000
    assert json.loads(pq.read_schema(tmp_path / "p.parquet").metadata[b"leandet"])["dropped"] == 0


def test_no_detections_can_be_stored(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", made(1, 0))
    assert len(read_predictions(tmp_path / "p.parquet").scores) == 0


def test_what_cannot_fit_says_so_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_predictions(path, made(5, 20))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="more than 3000"):
        write_predictions(path, made(1000, 9000), limit_bytes=3000)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["p.parquet"]


@pytest.mark.parametrize(("score", "side"), [(np.nan, 1), (1.5, 1), (-0.1, 1), (0.5, np.nan), (0.5, np.inf), (0.5, 1e9)])
def test_what_is_no_prediction_is_not_stored(tmp_path: Path, score: float, side: float) -> None:
    wrong = Predictions(np.array([1]), np.array([[0, 0, side, 1]], np.float32), np.array([score], np.float32), np.array([0]))
    with pytest.raises(ValueError, match="allowed are"):
        write_predictions(tmp_path / "p.parquet", wrong)
    assert not list(tmp_path.iterdir())


def test_compact_keeps_the_best_of_each_image() -> None:
    boxes = np.zeros((5, 4), np.float32)
    given_ = Predictions(np.array([2, 1, 2, 2, 1]), boxes, np.array([0.2, 0.9, 0.6, 0.4, 0.1]), np.array([0, 1, 2, 3, 4]))
    assert compact(given_, 2).labels.tolist() == [1, 4, 2, 3]
    assert compact(given_, 2, lowest=0.5).labels.tolist() == [1, 2]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 3000), flips=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), max_size=3))
def test_a_damaged_file_is_named_or_reads_as_predictions(tmp_path: Path, cut: int, flips: list[tuple[int, int]]) -> None:
    path = tmp_path / "p.parquet"
    if not path.exists():
        write_predictions(path, made(10, 60))
    data = bytearray(path.read_bytes())
    for place, mask in flips:
        data[place % len(data)] ^= mask
    broken = tmp_path / f"{next(NUMBERS)}.parquet"
    broken.write_bytes(bytes(data[: len(data) - cut % len(data)]) if cut % 2 else bytes(data))
    read = mistake_or(read_predictions, broken)
    if read:
        assert len(read.image) == len(read.boxes) == len(read.scores) == len(read.labels)


def test_another_parquet_file_and_no_file_are_named(tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    for name in ("other.parquet", "none.parquet"):
        with pytest.raises(UserError, match=name):
            read_predictions(tmp_path / name)


def results(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries))
    return path


ENTRY = {"image_id": 4, "category_id": 1, "bbox": [1, 2, 3.5, 4], "score": 0.5}


def test_coco_results_become_predictions(tmp_path: Path) -> None:
    path = results(tmp_path / "r.json", [ENTRY, {**ENTRY, "image_id": 9, "category_id": 2, "score": 1, "segmentation": []}])
    read = read_coco_results(path, truth_of([4, 9], []))
    assert columns(read) == ([4, 9], [[1, 2, 4.5, 6]] * 2, [0.5, 1.0], [0, 1])
    mapped = read_coco_results(results(path, [{**ENTRY, "category_id": 90}]), truth_of([4, 9], []), {17: 0, 90: 1})
    assert mapped.labels.tolist() == [1]


def test_no_results_are_no_detections(tmp_path: Path) -> None:
    truth = truth_of([4], [[0, 0, 10, 10]])
    read = read_coco_results(results(tmp_path / "r.json", []), truth)
    assert read.boxes.shape == (0, 4)
    assert coco_ap(read, truth)["ap"] == 0


WRONG = [
    ({"image_id": 5}, "image_id 5 .* has 4, 9"),
    ({"image_id": "4"}, "image_id '4'"),
    ({"image_id": True}, "image_id True"),
    ({"image_id": 4.0}, "image_id 4.0"),
    ({"image_id": None}, "image_id None"),
    ({"image_id": [4]}, "image_id"),
    ({"category_id": 3}, "category_id 3 .* has 1, 2"),
    ({"category_id": 10**30}, "category_id 1000"),
    ({"bbox": [1, 2, 3]}, "bbox .*allowed"),
    ({"bbox": [1, 2, -3, 4]}, "not below 0"),
    ({"bbox": [1, 2, float("nan"), 4]}, "bbox .*finite"),
    ({"bbox": [1, 2, float("inf"), 4]}, "bbox .*finite"),
    ({"bbox": [1, 2, 10**400, 4]}, "bbox .*finite"),
    ({"bbox": [1, 2, "3", 4]}, "bbox"),
    ({"bbox": "1234"}, "bbox"),
    ({"bbox": None}, "bbox"),
    ({"score": float("nan")}, "score nan.*0 to 1"),
    ({"score": 1.2}, "score 1.2.*0 to 1"),
    ({"score": "0.5"}, "score"),
    ({"score": False}, "score"),
]


@pytest.mark.parametrize(("change", "text"), WRONG)
def test_a_wrong_entry_is_named(tmp_path: Path, change: dict, text: str) -> None:
    path = results(tmp_path / "r.json", [ENTRY, ENTRY, {**ENTRY, **change}])
    with pytest.raises(UserError, match=text) as caught:
        read_coco_results(path, truth_of([4, 9], []))
    assert str(path) in str(caught.value)
    assert "entry 2" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", list(ENTRY))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    path = results(tmp_path / "r.json", [{k: v for k, v in ENTRY.items() if k != key}])
    with pytest.raises(UserError, match=f"entry 0: .*{key}"):
        read_coco_results(path, truth_of([4], []))


@pytest.mark.parametrize("entries", [{}, 3, None, "text", {"annotations": []}])
def test_another_json_is_named(tmp_path: Path, entries: object) -> None:
    with pytest.raises(UserError, match=r"r\.json.*allowed is a list"):
        read_coco_results(results(tmp_path / "r.json", entries), truth_of([4], []))


@pytest.mark.parametrize("data", [b"", b"\xff\xfe[", b"[" * 100_000, b"[1" + b"0" * 5000 + b"]", b"nonsense"])
def test_what_is_no_json_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r.json").write_bytes(data)
    with pytest.raises(UserError, match=r"r\.json") as caught:
        read_coco_results(tmp_path / "r.json", truth_of([4], []))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match="none"):
        read_coco_results(tmp_path / "none.json", truth_of([4], []))


def test_a_cut_file_tells_at_which_entry(tmp_path: Path) -> None:
    whole = json.dumps([ENTRY] * 10)
    (tmp_path / "r.json").write_text(whole[: whole.index("bbox", 500)])
    entry = whole[: whole.index("bbox", 500)].count("image_id") - 1
    with pytest.raises(UserError, match=f"entry {entry}: JSON breaks off"):
        read_coco_results(tmp_path / "r.json", truth_of([4], []))


ODD = [None, True, False, [], [1], [1, 2, 3, 4], [[1], 2, 3, 4], {}, {"image_id": 4}, "", "4", 0, 10**30, float("nan"), float("-inf")]
JSON = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=3)
VALUES = {
    "image_id": st.just(4) | JSON,
    "category_id": st.just(1) | JSON,
    "bbox": st.lists(st.floats(0, 50), min_size=4, max_size=4) | JSON,
    "score": st.floats(0, 1) | JSON,
}


@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(st.fixed_dictionaries(VALUES) | JSON, max_size=3), cut=st.none() | st.integers(0, 200))
def test_any_results_are_predictions_or_a_named_mistake(tmp_path: Path, entries: list, cut: int | None) -> None:
    path = tmp_path / f"{next(NUMBERS)}.json"  # a new file each time: to overwrite one waits for the disk
    path.write_text(json.dumps(entries)[:cut])
    read = mistake_or(read_coco_results, path, truth_of([4], []))
    if read:
        assert len(read.scores) == len(read.image) == (len(entries) if cut is None else len(json.loads(path.read_text())))
        assert np.isfinite(read.boxes).all()
        assert ((read.scores >= 0) & (read.scores <= 1)).all()


def test_a_hundred_thousand_entries_are_read_quickly(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("[" + ",".join([json.dumps(ENTRY)] * 100_000) + "]")
    start = time.process_time()
    read = read_coco_results(path, truth_of([4], []))
    assert len(read.scores) == 100_000
    assert time.process_time() - start < 2
