"""Splits of several COCO files: whatever way a file is cut in pieces, joining them gives the file; each fault by its message."""

import json
import os
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from coco_files import write
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.catalogue import built
from bench.datasets import open_split, parse_data
from bench.plan import Choice, plan
from bench.scoring import score_file
from bench.types import UserError

SHARED = Path(os.environ.get("LEANDET_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "aquarium"


def message(text: str, split: str = "test") -> str:
    with pytest.raises(UserError) as caught:
        open_split(parse_data(text), split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_pieces_of_a_file_are_the_file(data):
    """Cut anywhere: the images, boxes, flags and rows of each image are those of the whole file read alone."""
    ids = data.draw(st.lists(st.integers(0, 10**9), unique=True, min_size=2, max_size=6))
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, len(ids) - 1), min_size=1, max_size=3))), len(ids)]
    boxes = [(image, label) for image in ids for label in data.draw(st.lists(st.sampled_from([3, 7]), max_size=3))]
    boxes += [(ids[start], 7) for start in cuts[:-1]]  # a file without any box is refused
    boxes.sort(key=lambda box: ids.index(box[0]))  # as the pieces have them
    with tempfile.TemporaryDirectory() as folder:
        whole = write(Path(folder), "whole", ids, boxes)
        document = json.loads(whole.read_text())
        names = []
        for start, end in pairwise(cuts):
            own = set(ids[start:end])
            piece = {**document, "images": document["images"][start:end]}
            piece["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] in own]
            names.append(Path(folder) / f"{start}.json")
            names[-1].write_text(json.dumps(piece))
        joined = open_split(parse_data(f"test={'+'.join(map(str, names))}"), "test")
        alone = open_split(parse_data(f"test={whole}"), "test")
        assert (len(joined), joined.classes) == (len(alone), alone.classes)
        for column in ("image_ids", "image", "boxes", "labels", "crowd", "difficult", "area"):
            assert np.array_equal(getattr(joined.ground_truth(), column), getattr(alone.ground_truth(), column)), column
        for at in range(len(ids)):
            assert joined.image_id(at) == alone.image_id(at)
            assert joined.image_name(at) == alone.image_name(at)
            assert joined.image(at).equal(alone.image(at))
            assert joined.target(at).boxes.equal(alone.target(at).boxes)
            assert joined.target(at).labels.equal(alone.target(at).labels)


@pytest.fixture
def three(tmp_path: Path) -> dict[str, Path]:
    return {stem: write(tmp_path / "pets", stem, [at], [(at, 3), (at, 7)]) for at, stem in enumerate("abc", 1)}


def test_the_kind_is_chosen_by_a_plus_alone(three, tmp_path):
    plain = parse_data("train={a},val={b},test={c}".format(**three))
    joined = parse_data("train={a},val={b},test={b} + {c}".format(**three))
    assert (plain.kind, joined.kind) == ("coco", "joined")
    assert plain.name == joined.name == "coco:pets"
    assert parse_data("train={a}+{b},test={c}".format(**three)).name == "coco:pets"
    assert [len(open_split(joined, split)) for split in ("train", "val", "test")] == [1, 1, 2]
    assert open_split(joined, "test").name == "coco:b.json+c.json"
    assert open_split(joined, "train").digest == open_split(plain, "train").digest  # a split of one file is that file's
    odd = write(tmp_path, "cat+dog", [1], [(1, 3)])
    assert parse_data(f"test={odd}").kind == "coco"  # a plus in the name of a file that exists joins nothing
    assert len(open_split(parse_data(f"test={odd}"), "test")) == 1


def test_the_digest_is_of_every_file(three):
    text = "train={a},val={b},test={b}+{c}".format(**three)
    digest = open_split(parse_data(text), "test").digest
    first = {run.id: run.digest for run in plan(built().values(), Choice("real", parse_data(text), rows=("fpn-r50",)))}
    assert "condensing.fpn-r50.real.pets.s0" in first
    swapped = parse_data("train={a},val={b},test={c}+{b}".format(**three))
    assert open_split(swapped, "test").digest != digest  # the images have another order
    three["c"].write_text(three["c"].read_text().replace('"category_id": 3', '"category_id": 7'))
    assert open_split(parse_data(text), "test").digest != digest
    second = {run.id: run.digest for run in plan(built().values(), Choice("real", parse_data(text), rows=("fpn-r50",)))}
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {name for name in first if ".pets." in name}  # not what they start from


def test_each_fault_in_one_line(three, tmp_path):
    a, b, c = (three[stem] for stem in "abc")
    link = tmp_path / "link.json"
    link.symlink_to(b)
    assert "has an empty file name" in message(f"test={b}+")
    assert f"test has {b} twice" in message(f"test={b}+{c}+{b}")
    assert f"test has {b} twice" in message(f"test={b}+{link}")
    assert f"{c} is in train and in test" in message(f"train={a}+{c},test={b}+{c}")
    assert f"{b} is in train and in test" in message(f"train={b},test={link}+{c}")
    assert "there is no such file" in message(f"test={b}+{tmp_path / 'none.json'}")
    assert "has no val split" in message(f"test={b}+{c}", "val")
    assert len(open_split(parse_data(f"train={a},val={b},test={b}+{c}"), "test")) == 2  # val chooses nothing
    same = write(tmp_path / "more", "same", [2, 9], [(9, 3)])
    assert f"image id 2 is that of an image in {b} too; renumber" in message(f"test={b}+{same}")
    other = write(tmp_path / "more", "other", [9], [(9, 3)], [{"id": 3, "name": "cat"}, {"id": 7, "name": "cow"}])
    assert f"{other}: category 7 is 'cow', in {b} it is 'dog'" in message(f"test={b}+{other}")
    assert f"{other}: category 7 is 'cow'" in message(f"train={other},test={b}+{c}")
    assert "the same categories" in message(f"train={other},test={b}+{c}", "train")


def test_results_of_others_are_scored_on_a_joined_split(three, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.places.home", lambda: tmp_path)
    truth = [entry for stem in "bc" for entry in json.loads(three[stem].read_text())["annotations"]]
    results = tmp_path / "perfect.json"
    results.write_text(json.dumps([{**{key: entry[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9} for entry in truth]))
    record = score_file(results, "test={b}+{c}".format(**three), "test", "")
    assert record.values["ap"] == pytest.approx(100)
    assert record.context["test_images"] == 2


def test_val_and_test_of_aquarium():
    if not SHARED.is_dir():
        pytest.skip("the real data set aquarium is not beside this repository (shared/data, or $LEANDET_SHARED)")
    data = parse_data(f"train={SHARED / 'train.json'},val={SHARED / 'val.json'},test={SHARED / 'val.json'}+{SHARED / 'test.json'}")
    split = open_split(data, "test")
    assert (len(split), len(split.ground_truth().boxes), len(split.classes)) == (190, 909 + 582, 7)
    assert data.name == "coco:aquarium"
    assert split.image_name(126) != split.image_name(127)
    assert split.image(189).shape[0] == 3
    assert len(open_split(data, "train")) == 448
