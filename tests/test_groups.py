"""Images that belong together: which they are, and resamples that draw them together, against resamples spelled out image by image."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from coco_files import write
from hypothesis import given, settings
from hypothesis import strategies as st
from resamples import made, replicated

from bench.comparing import MEASURES, compare_results, in_json, in_words
from bench.datasets import open_split, parse_data
from bench.datasets.groups import CLIPS, groups_of
from bench.metrics import coco_ap, score_all, voc_ap
from bench.metrics.bootstrap import (
    aps,
    detectable_by_resamples,
    group_weights,
    image_weights,
    paired_difference,
    seed_and_image_interval,
    smallest_detectable_difference,
)
from bench.metrics.matches import coco_matches, voc_matches
from bench.metrics.store import write_predictions
from bench.records import Record, write_record
from bench.types import Predictions, UserError

SHARED = Path(os.environ.get("LEANDET_SHARED", Path(__file__).parents[2] / "shared")) / "data"


def shifted(predictions: Predictions, seed: int) -> Predictions:
    """The same with other scores and boxes a little off: a second detector on the same images."""
    draw = np.random.default_rng([seed, 9])
    boxes = predictions.boxes + np.tile(draw.normal(0, 4, (len(predictions.boxes), 2)), 2).astype(np.float32)
    return Predictions(predictions.image, boxes, draw.permutation(predictions.scores), predictions.labels)


# ---- resamples


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 10**6))
def test_groups_of_one_are_the_plain_bootstrap_bit_for_bit(seed, images, shuffle):
    """Whatever the groups are called."""
    names = np.random.default_rng(shuffle).permutation(3 * images)[:images]
    assert group_weights(names, 20, seed).tobytes() == image_weights(images, 20, seed).tobytes()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_differences_of_groups_of_one_are_the_plain_ones_bit_for_bit(seed, images):
    predictions, truth = made(seed, images=images)
    a, b = coco_matches(predictions, truth), coco_matches(shifted(predictions, seed), truth)
    plain = seed_and_image_interval([a, b], [b, a], samples=30, seed=seed)
    grouped = seed_and_image_interval([a, b], [b, a], samples=30, seed=seed, groups=np.arange(images)[::-1])
    assert plain.samples.tobytes() == grouped.samples.tobytes()
    assert np.array_equal([plain.difference, plain.low, plain.high], [grouped.difference, grouped.low, grouped.high], equal_nan=True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=2, max_size=10))
def test_resampled_groups_are_the_copied_images_scored_by_the_metrics_themselves(seed, groups):
    """The slow reference: draw the groups, list their images, copy them under new ids, and score both detectors by the plain metrics."""
    predictions, truth = made(seed, images=len(groups))
    other = shifted(predictions, seed)
    members = [[at for at, group in enumerate(groups) if group == name] for name in dict.fromkeys(groups)]
    drawn = np.random.default_rng(seed).integers(0, len(members), size=(6, len(members)))
    slow: dict[str, list[float]] = {"coco": [], "area": []}
    for row in drawn:
        counts = np.zeros(len(groups), int)
        for group in row:
            for image in members[group]:
                counts[image] += 1
        pairs = [replicated(each, truth, counts) for each in (predictions, other)]
        slow["coco"].append(np.subtract(*(coco_ap(*pair).get("ap", np.nan) for pair in pairs)))
        slow["area"].append(np.subtract(*(voc_ap(*pair) for pair in pairs)))
    for form, rule in (("coco", coco_matches), ("area", voc_matches)):
        fast = paired_difference(rule(predictions, truth), rule(other, truth), samples=6, seed=seed, groups=np.array(groups))
        expected = np.array(slow[form])
        expected = expected[~np.isnan(expected)]
        assert fast.samples == pytest.approx(expected, abs=1e-9)
        if len(expected):
            assert [fast.low, fast.high] == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=1e-9)


def test_frames_that_repeat_each_other_do_not_narrow_the_interval():
    """Every image five times over: resampled by clip the interval is that of the images once; resampled one by one it is far too narrow."""
    predictions, truth = made(5, images=20, objects=100)
    five = replicated(predictions, truth, np.full(20, 5))
    other = replicated(shifted(predictions, 5), truth, np.full(20, 5))
    clips = np.repeat(np.arange(20), 5)
    once = paired_difference(voc_matches(predictions, truth), voc_matches(shifted(predictions, 5), truth), samples=300)
    a, b = voc_matches(*five), voc_matches(other[0], five[1])
    grouped = paired_difference(a, b, samples=300, groups=clips)
    plain = paired_difference(a, b, samples=300)
    assert grouped.samples == pytest.approx(once.samples, abs=1e-6)
    assert plain.high - plain.low < 0.65 * (grouped.high - grouped.low)  # 1 / sqrt(5) = 0.45


def test_weights_of_two_groups_by_hand():
    weights = group_weights(np.array([8, 3, 8]), 200, 1)
    assert {tuple(column) for column in weights.T} == {(2, 0, 2), (1, 1, 1), (0, 2, 0)}
    with pytest.raises(ValueError, match="2 groups named for 12 images"):
        paired_difference(coco_matches(*made(1)), coco_matches(*made(1)), groups=np.zeros(2, int))


def test_what_resamples_can_show_by_hand():
    assert detectable_by_resamples(np.array([1.0, 3.0])) == pytest.approx((1.959964 + 0.841621) * 2**0.5, abs=1e-5)
    assert np.isnan(detectable_by_resamples(np.array([1.0])))


# ---- which images belong together


def renamed(path: Path, names: dict[int, str], groups: dict[int, object] | None = None) -> Path:
    """A COCO file with other file names, the images moved along, and the field "group"."""
    document = json.loads(path.read_text())
    for entry in document["images"]:
        if entry["id"] in names:
            target = path.parent / names[entry["id"]]
            target.parent.mkdir(exist_ok=True)
            (path.parent / entry["file_name"]).rename(target)
            entry["file_name"] = names[entry["id"]]
        if groups and entry["id"] in groups:
            entry["group"] = groups[entry["id"]]
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def clips(tmp_path) -> str:
    """Train: one frame of clip x. Val: two stills. Test: two frames of x, one of y, two stills."""
    folder = tmp_path / "film"
    train = renamed(write(folder, "train", [1, 2], [(1, 3)]), {1: "x/1.png"})
    val = write(folder, "val", [20, 21], [(20, 3)])
    test = renamed(write(folder, "test", [14, 13, 12, 11, 10], [(at, 3) for at in range(10, 15)]), {10: "x/2.png", 12: "x/3.png", 13: "y/1.png"})
    return f"train={train},val={val},test={test}"


def test_groups_by_an_expression_on_file_names(clips):
    groups = groups_of(parse_data(clips), "test", r"^(\w+)/")
    assert groups.keys == {10: "x", 11: None, 12: "x", 13: "y", 14: None}
    assert (groups.count, groups.numbers()) == (4, [0, 1, 0, 2, 3])
    assert (groups.shared_groups, groups.shared_images, groups.train) == (1, 2, True)
    whole = groups_of(parse_data(clips), "test", "^x|^y")  # without parentheses all that is found counts
    assert whole.keys == groups.keys
    with pytest.raises(UserError, match=r"not a regular expression .* allowed is one"):
        groups_of(parse_data(clips), "test", "(")


def test_groups_by_the_field_of_the_files(clips):
    data = parse_data(clips)
    assert (groups_of(data, "test").rule, groups_of(data, "test").count) == ("", 5)
    renamed(Path(data.part("test")), {}, {10: "slide", 14: "slide", 11: 7, 12: ""})
    renamed(Path(data.part("train")), {}, {2: "7"})
    groups = groups_of(data, "test")
    assert groups.keys == {10: "slide", 11: "7", 12: None, 13: None, 14: "slide"}
    assert (groups.shared_groups, groups.shared_images) == (1, 1)
    assert groups_of(data, "test", r"^(\w+)/").keys[10] == "x"  # the user's word goes first
    renamed(Path(data.part("test")), {}, {10: [1]})
    with pytest.raises(UserError, match=r"image 10: its group is \[1\]; allowed is a text"):
        groups_of(data, "test")


def test_drawn_scenes_have_no_groups():
    groups = groups_of(parse_data("scenes-v1"), "test")
    assert (groups.rule, groups.count, groups.train) == ("", len(open_split(parse_data("scenes-v1"), "test")), False)
    assert len(set(groups.numbers())) == groups.count


def test_clips_of_aquarium_are_those_of_its_notes():
    folder = SHARED / "aquarium"
    if not folder.is_dir():
        pytest.skip("the real data set aquarium is not beside this repository (shared/data, or $LEANDET_SHARED)")
    assert set(CLIPS) == {"coco:aquarium"}
    every = groups_of(parse_data(f"test={folder / 'train.json'}+{folder / 'val.json'}+{folder / 'test.json'}"), "test")
    frames = [key for key in every.keys.values() if key is not None]
    assert (len(frames), len(set(frames)), every.count) == (81, 17, 638 - 81 + 17)
    joined = groups_of(parse_data(f"train={folder / 'train.json'},test={folder / 'val.json'}+{folder / 'test.json'}"), "test")
    assert len(joined.keys) == 190
    names = {
        split: {entry["file_name"] for entry in json.loads((folder / f"{split}.json").read_text())["images"]} for split in ("train", "val", "test")
    }
    films = {split: {name.split("_MOV-")[0] for name in found if "_MOV-" in name} for split, found in names.items()}
    tested = [name.split("_MOV-")[0] for name in names["val"] | names["test"]]
    assert joined.shared_groups == len(films["train"] & (films["val"] | films["test"])) > 0
    assert joined.shared_images == sum(name in films["train"] for name in tested)


# ---- the command


@pytest.fixture
def results(clips, tmp_path, monkeypatch) -> tuple[str, Path, Path]:
    """The data, a results file that finds every object, and one that misses those of clip x."""
    monkeypatch.setattr("bench.places.home", lambda: tmp_path / "home")
    monkeypatch.setattr("bench.places.committed_records", lambda: tmp_path / "home" / "results" / "records")
    entries = json.loads(Path(parse_data(clips).part("test")).read_text())["annotations"]
    found = [{**{key: entry[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9} for entry in entries]
    every, some = tmp_path / "every.json", tmp_path / "some.json"
    every.write_text(json.dumps(found))
    some.write_text(json.dumps([entry for entry in found if entry["image_id"] not in {10, 12}]))
    return clips, every, some


def test_anybodys_results_are_compared(results):
    data, every, some = results
    found = compare_results(str(every), str(some), data, "test", r"^(\w+)/")
    assert (found.images, found.groups) == (5, 4)
    assert found.of_train == "not independent of train: 2 of 5 images are of groups (1 in all) that train has images of too"
    assert [each.measure for each in found.measured] == ["AP", "AP50", "VOC AP50"]
    voc = found.measured[2]
    assert (voc.first, voc.second, voc.difference) == pytest.approx((100, 60, 40))
    assert voc.low == 0  # clip x, all that they differ in, is in none of the four groups drawn in 32 % of the resamples
    plain = compare_results(str(every), str(some), data, "test")
    assert plain.measured[2].high < voc.high  # two images that always fail together are less sure
    assert plain.of_train == "unknown, as nothing says which images belong together"
    words = in_words(found)
    assert "not independent of train: 2 of 5" in words
    assert "smallest detectable difference" in words
    assert json.loads(in_json(found))["measured"][2] == asdict(voc)
    assert compare_results(str(every), str(some), f"test={parse_data(data).part('test')}", "test", "x").of_train.endswith("no train split")


def test_runs_are_compared_by_their_ids_seed_by_seed(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.places.home", lambda: tmp_path / "home")
    split = open_split(parse_data(clips), "test")
    truth = split.ground_truth()
    ids = {row: [f"condensing.{row}.real.film.s{seed}" for seed in range(3)] for row in ("a", "b")}
    kept: dict[str, Predictions] = {}
    for at, name in enumerate([*ids["a"], *ids["b"]]):
        boxes = (truth.boxes + np.random.default_rng(at).uniform(0, 2, truth.boxes.shape)).astype(np.float32)
        predictions = Predictions(truth.image, boxes, np.linspace(0.5, 0.9, len(boxes)).astype(np.float32), truth.labels)
        kept[name] = write_predictions(tmp_path / "home" / "runs" / name / "predictions.parquet", predictions)
        context = {"data": "coco:film", "data_digest": split.digest if name != ids["b"][2] else "of other images", "tested_on": "coco:x.json"}
        record = Record(name, "train", "condensing", name.split(".")[1], "real", at % 3, "ok", "", "", {}, context=context)
        write_record(record, tmp_path / "home" / "runs" / name / "record.json")
    found = compare_results(",".join(ids["a"][:2]), ",".join(ids["b"][:2]), clips, "test")
    scores = {name: score_all(predictions, truth) for name, predictions in kept.items()}
    for each, key in zip(found.measured, ("ap", "ap50", "voc_ap50"), strict=True):
        ours, theirs = ([scores[name][key] for name in ids[row][:2]] for row in ("a", "b"))
        assert (each.first, each.second) == pytest.approx((np.mean(ours), np.mean(theirs)), abs=1e-6)
        assert each.difference == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-6)
        assert each.detectable_by_seeds == pytest.approx(smallest_detectable_difference(np.subtract(ours, theirs).tolist()), abs=1e-6)
    for bad, said in (
        ((ids["a"][0], ids["b"][2]), "tested on other images (coco:film, coco:x.json)"),
        ((ids["a"][0], "nothing"), "'nothing': neither a file nor a run with predictions here"),
        ((ids["a"][0], ""), "'': neither a file nor a run"),
        ((ids["a"][0], ",".join(ids["b"][:2])), "1 and 2 results"),
    ):
        with pytest.raises(UserError) as caught:
            compare_results(*bad, clips, "test")
        assert said in str(caught.value)


def test_predictions_on_other_images_are_refused(clips, tmp_path):
    stray = tmp_path / "stray.parquet"
    box = np.array([[0, 0, 5, 5]], np.float32)
    for image, label, said in ((99, 0, "image 99 is not in coco:test.json"), (10, 2, "label 2 is no class")):
        write_predictions(stray, Predictions(np.array([image]), box, np.array([0.5], np.float32), np.array([label])))
        with pytest.raises(UserError, match=said):
            compare_results(str(stray), str(stray), clips, "test")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_numbers_compared_are_those_that_score_gives(seed):
    predictions, truth = made(seed)
    values = score_all(predictions, truth)
    once = np.ones((len(truth.image_ids), 1), np.float32)
    for rule, key in zip(MEASURES.values(), ("ap", "ap50", "voc_ap50"), strict=True):
        assert aps(rule(predictions, truth), once)[0] == pytest.approx(values[key], abs=1e-9)
