"""The text after --data, and COCO JSON: truth by hand, and each fault by its message."""

import copy
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.datasets import DATASETS, Data, open_split, parse_data
from bench.datasets.annotations import fit
from bench.datasets.images import image_list_hash
from bench.types import Split, UserError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
DOCUMENT = {
    "images": [
        {"id": 30, "file_name": "c.png", "width": 40, "height": 30},
        {"id": 10, "file_name": "a.png", "width": 20, "height": 10},
        {"id": 20, "file_name": "b.png", "width": 8, "height": 8},
    ],
    "annotations": [
        {"id": 1, "image_id": 10, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 9.5},
        {"id": 2, "image_id": 30, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        {"id": 3, "image_id": 10, "category_id": 3, "bbox": [19.5, 9.5, 1.25, 0.5], "ignore": 1},
        {"id": 4, "image_id": 10, "category_id": 7, "bbox": [5, 5, 2, 2], "difficult": 1, "iscrowd": 0},
    ],
    "categories": CATEGORIES,
}


def write_images(folder: Path, document: dict = DOCUMENT) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for at, entry in enumerate(document["images"]):
        Image.new("RGB", (entry["width"], entry["height"]), (at, 100, 255)).save(folder / entry["file_name"])


def write_coco(folder: Path, document: dict = DOCUMENT, *, stem: str = "part") -> Path:
    write_images(folder)
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(document))
    return path


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


# ---- the text after --data


def test_parse_data():
    assert parse_data("scenes-v1") == Data("scenes", "scenes-v1")
    data = parse_data("val=x/b.json, train=x/a.json ,images=pictures")
    assert (data.kind, data.name) == ("coco", "coco:x")
    assert data.part("train") == "x/a.json"
    assert parse_data("test=coco17/annotations/val.json").name == "coco:coco17"  # a folder that lies in every dataset names none
    assert data.part("test", "none") == "none"
    assert data == parse_data("train=x/a.json,images=pictures,val=x/b.json")
    assert {data: 1}[parse_data("images=pictures,train=x/a.json,val=x/b.json")] == 1
    assert parse_data("voc=D,train=2007_train").kind == "voc"
    assert set(DATASETS) == {"scenes", "variant", "coco", "joined", "voc", "added"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "KEY=VALUE"),
        ("sceens", "scenes-v1"),
        ("train=a.json,valid=b.json", "allowed are train, val, test, images, empty"),
        ("voc=D,images=E", "allowed are voc, train, val, test, classes, empty"),
        ("train=a,train=b", "train is given twice"),
        ("train=", "KEY=VALUE"),
        ("images=D", "names no split"),
        ("train=a,empty=keep", "allowed is empty=drop"),
    ],
)
def test_parse_data_says_what_is_allowed(text, words):
    assert words in message(parse_data, text)


def test_no_split_of_that_name():
    assert "train, val, test" in message(open_split, parse_data("train=a.json"), "trainval")


def test_readers_import_no_torch(tmp_path):
    path = write_coco(tmp_path)
    code = (
        "import sys; from bench.datasets import open_split, parse_data; "
        f"print(len(open_split(parse_data({f'train={path}'!r}), 'train')), 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == ["3", "False"]


# ---- COCO JSON


def test_coco_by_hand(tmp_path):
    split = open_split(parse_data(f"train={write_coco(tmp_path)}"), "train")
    assert isinstance(split.name, str)
    assert (split.name, split.classes, len(split)) == ("coco:part.json", ("cat", "dog"), 3)
    assert [split.image_id(at) for at in range(3)] == [30, 10, 20]
    assert [split.image_name(at) for at in range(3)] == ["c.png", "a.png", "b.png"]

    target = split.target(1)
    assert target.boxes.tolist() == [[1, 2, 4, 6], [19.5, 9.5, 20, 10], [5, 5, 7, 7]]  # the second sticks out by 0.75: rounding
    assert (target.boxes.dtype, target.labels.dtype, target.crowd.dtype) == (torch.float32, torch.int64, torch.bool)
    assert target.labels.tolist() == [1, 0, 1]  # ids 3, 7 are labels 0, 1
    assert target.crowd.tolist() == [False, False, False]
    assert target.difficult.tolist() == [False, True, True]

    assert split.target(0).crowd.tolist() == [True]
    empty = split.target(2)
    assert (tuple(empty.boxes.shape), tuple(empty.labels.shape)) == ((0, 4), (0,))

    truth = split.ground_truth()
    assert truth.image_ids.tolist() == [30, 10, 20]
    assert truth.image.tolist() == [30, 10, 10, 10]
    assert truth.area.tolist() == [1200, 9.5, 0.625, 4]  # its own, else width times height as annotated
    assert truth.boxes[2].tolist() == [19.5, 9.5, 20, 10]
    assert (truth.boxes.dtype, truth.labels.dtype, truth.image_ids.dtype) == (np.float64, np.int64, np.int64)


def test_coco_image_is_float_rgb(tmp_path):
    split = open_split(parse_data(f"val={write_coco(tmp_path)}"), "val")
    image = split.image(1)
    assert (tuple(image.shape), image.dtype, image.is_contiguous()) == ((3, 10, 20), torch.float32, True)
    assert image[:, 3, 4].tolist() == pytest.approx([1 / 255, 100 / 255, 1.0])


def test_a_split_is_a_split_and_goes_to_another_process(tmp_path):
    split: Split = open_split(parse_data(f"val={write_coco(tmp_path)}"), "val")
    again = pickle.loads(pickle.dumps(split))
    assert again.digest == split.digest
    assert torch.equal(again.image(0), split.image(0))
    assert split.target(-1).boxes.shape == (0, 4)
    with pytest.raises(IndexError):
        split.target(3)


@pytest.mark.parametrize("place", [".", "images/part"])
def test_images_beside_the_json_or_in_the_folder_of_its_stem(tmp_path, place):
    write_images(tmp_path / place)
    path = tmp_path / "part.json"
    path.write_text(json.dumps(DOCUMENT))
    assert open_split(parse_data(f"train={path}"), "train").image(0).shape == (3, 30, 40)


@pytest.mark.parametrize("place", [".", "part"])
def test_images_in_a_folder_that_is_given(tmp_path, place):
    write_images(tmp_path / "elsewhere" / place)
    path = tmp_path / "part.json"
    path.write_text(json.dumps(DOCUMENT))
    assert open_split(parse_data(f"train={path},images={tmp_path / 'elsewhere'}"), "train").image(0).shape == (3, 30, 40)
    text = message(open_split, parse_data(f"train={path}"), "train")
    assert "image 30: 'c.png' is neither in" in text
    assert text.endswith("(and 2 more)")
    assert "no such folder" in message(open_split, parse_data(f"train={path},images={tmp_path / 'nowhere'}"), "train")


def test_digest_sees_annotations_and_images_and_not_the_folder(tmp_path):
    def digest(folder: Path, document: dict = DOCUMENT) -> str:
        return open_split(parse_data(f"train={write_coco(folder, document)}"), "train").digest

    first = digest(tmp_path / "one")
    assert digest(tmp_path / "two") == first
    moved = copy.deepcopy(DOCUMENT)
    moved["annotations"][0]["bbox"][0] = 2
    assert digest(tmp_path / "one", moved) != first
    assert digest(tmp_path / "one") == first
    with (tmp_path / "one" / "a.png").open("ab") as stream:
        stream.write(b"more")
    assert open_split(parse_data(f"train={tmp_path / 'one' / 'part.json'}"), "train").digest != first


def entry(kind: str, at: int, **changes):
    """An edit of the document: what of one entry changes; None takes the key away."""

    def change(document):
        for key, value in changes.items():
            if value is None:
                document[kind][at].pop(key)
            else:
                document[kind][at][key] = value

    return change


def doubled(kind: str):
    return lambda document: document[kind].append(dict(document[kind][0]))


BOX = "annotation 1 of image 10 (a.png)"
FAULTS = [
    (entry("annotations", 0, bbox=[1, 2, 30, 4]), [BOX, "lies outside its image of 20x10"]),
    (entry("annotations", 0, bbox=[-1.5, 2, 3, 4]), [BOX, "lies outside"]),
    (entry("annotations", 0, bbox=[1, 2, 0, 4]), [BOX, "zero or negative size", "empty=drop"]),
    (entry("annotations", 0, bbox=[5, 2, -3, 4]), [BOX, "zero or negative size"]),
    (entry("annotations", 0, bbox=[20.5, 2, 0.5, 4]), [BOX, "zero or negative size"]),  # nothing is left of it inside
    (entry("annotations", 0, bbox=[float("nan"), 2, 3, 4]), [BOX, "finite"]),
    (entry("annotations", 0, bbox=[1, 2, float("inf"), 4]), [BOX, "finite"]),
    (entry("annotations", 0, bbox=[1, 2, 10**400, 4]), [BOX, "finite"]),
    (entry("annotations", 0, bbox=[1, 2, 3]), [BOX, "four numbers"]),
    (entry("annotations", 0, bbox=["1", 2, 3, 4]), [BOX, "four numbers"]),
    (entry("annotations", 0, bbox=[True, 2, 3, 4]), [BOX, "four numbers"]),
    (entry("annotations", 0, bbox=None), [BOX, "four numbers"]),
    (entry("annotations", 0, area="big"), [BOX, "area is 'big'"]),
    (entry("annotations", 0, area=-1), [BOX, "area is -1"]),
    (entry("annotations", 0, iscrowd=2), [BOX, "allowed are 0 and 1"]),
    (entry("annotations", 0, ignore="yes"), [BOX, "allowed are 0 and 1"]),
    (entry("annotations", 0, image_id=99), ["annotation 1", "image_id 99 is not among the images"]),
    (entry("annotations", 0, image_id=None), ["annotation 1", "image_id None"]),
    (entry("annotations", 0, category_id=4), ["annotation 1", "category_id 4", "categories 3, 7"]),
    (entry("annotations", 0, id=None), ["annotations[0]", "allowed is an integer"]),
    (doubled("annotations"), ["annotations[4]", "id 1 is there twice"]),
    (doubled("images"), ["images[3]", "id 30 is there twice"]),
    (doubled("categories"), ["categories[2]", "id 7 is there twice"]),
    (entry("categories", 0, name="cat"), ["category 3", "there twice"]),
    (entry("categories", 0, name=5), ["category 7", "allowed is a text"]),
    (entry("images", 0, id="30"), ["images[0]", "id is '30'"]),
    (entry("images", 0, id=2**63), ["images[0]", "allowed is an integer"]),
    (entry("images", 0, width=0), ["image 30 ('c.png')", "positive integers"]),
    (entry("images", 0, height=None), ["image 30 ('c.png')", "positive integers"]),
    (entry("images", 0, file_name="../c.png"), ["image 30", "relative path without '..'"]),
    (entry("images", 0, file_name="/etc/passwd"), ["image 30", "relative path"]),
    (entry("images", 0, file_name="a\0b"), ["image 30", "relative path"]),
    (entry("images", 0, file_name="gone.png"), ["image 30", "'gone.png' is neither in"]),
    (lambda document: document.update(images=[], annotations=[]), ["the split is empty", "no image"]),
    (lambda document: document.update(annotations=[]), ["holds no box"]),
    (lambda document: document.update(categories=[]), ["no category"]),
    (lambda document: document.pop("images"), ["'images' is missing"]),
    (lambda document: document.update(annotations={"a": 1}), ["'annotations' is {'a': 1}", "list of objects"]),
    (lambda document: document["images"].append(5), ["images[3] is 5", "an object"]),
]


@pytest.mark.parametrize(("change", "words"), FAULTS, ids=[words[-1] for _, words in FAULTS])
def test_coco_faults_name_file_and_entry(tmp_path, change, words):
    document = copy.deepcopy(DOCUMENT)
    change(document)
    path = write_coco(tmp_path, document)
    text = message(open_split, parse_data(f"train={path}"), "train")
    assert text.startswith(f"{path}: ")
    assert all(word in text for word in words), text
    assert "; " in text  # what is allowed or to do next


def test_further_faults_are_counted(tmp_path):
    document = copy.deepcopy(DOCUMENT)
    for annotation in document["annotations"]:
        annotation["bbox"] = [0, 0, 1, 0]
    text = message(open_split, parse_data(f"train={write_coco(tmp_path, document)}"), "train")
    assert text.endswith("(and 3 more)")


def test_boxes_of_zero_size_are_left_out_when_asked(tmp_path):
    document = copy.deepcopy(DOCUMENT)
    document["annotations"][0]["bbox"] = [1, 2, 3, 0]
    path = write_coco(tmp_path, document)
    split = open_split(parse_data(f"train={path},empty=drop"), "train")
    assert split.target(1).boxes.tolist() == [[19.5, 9.5, 20, 10], [5, 5, 7, 7]]
    document["annotations"][0]["bbox"] = [1, 2, 30, 4]  # outside is another fault, and stays one
    path.write_text(json.dumps(document))
    assert "lies outside" in message(open_split, parse_data(f"train={path},empty=drop"), "train")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (json.dumps(DOCUMENT).encode()[:-40], "may be cut off"),
        (b"[1]", "holds a list"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"images": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_broken_json(tmp_path, content, words):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    text = message(open_split, parse_data(f"train={path}"), "train")
    assert text.startswith(f"{path}: ")
    assert words in text


def test_missing_files_and_splits(tmp_path):
    data = parse_data(f"train={tmp_path / 'gone.json'}")
    assert "gone.json: there is no such file" in message(open_split, data, "train")
    assert "no test split; give it as test=" in message(open_split, data, "test")
    assert "cannot be read" in message(open_split, parse_data(f"train={tmp_path}"), "train")


@pytest.mark.parametrize("key", ['"categories"', '"\\u0063ategories"'])
def test_categories_must_agree_between_the_splits(tmp_path, key):
    train, val = write_coco(tmp_path, stem="train"), write_coco(tmp_path, stem="val")
    data = parse_data(f"train={train},val={val}")
    val.write_text(json.dumps(DOCUMENT).replace('"categories"', key))
    assert open_split(data, "train").classes == open_split(data, "val").classes
    val.write_text(json.dumps({**DOCUMENT, "categories": [CATEGORIES[0], {"id": 3, "name": "cow"}]}).replace('"categories"', key))
    for split in ("train", "val"):
        text = message(open_split, data, split)
        assert "category 3 is" in text
        assert "'cow'" in text
        assert "'cat'" in text
    val.write_text(json.dumps({**DOCUMENT, "categories": [*CATEGORIES, {"id": 9, "name": "cow"}]}))
    assert "category 9 is 'cow'" in message(open_split, data, "train")
    val.unlink()
    assert "val.json: there is no such file" in message(open_split, data, "train")


@given(
    st.tuples(*[st.floats(-5, 105) for _ in range(4)]),
    st.integers(1, 100),
    st.integers(1, 100),
)
def test_fit_keeps_or_clips_or_refuses(corners, width, height):
    x1, y1, x2, y2 = corners
    result = fit(corners, width, height)
    inside = x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
    if inside and x1 < x2 and y1 < y2:
        assert result == corners
    if isinstance(result, str):
        assert not inside or x1 >= x2 or y1 >= y2
    else:
        assert 0 <= result[0] < result[2] <= width
        assert 0 <= result[1] < result[3] <= height
        assert max(abs(before - after) for before, after in zip(corners, result, strict=True)) <= 1


def test_a_file_of_the_size_of_coco_val_opens_within_a_second(tmp_path):
    images = [{"id": at, "file_name": f"{at % 50:012d}.jpg", "width": 640, "height": 480} for at in range(5000)]
    polygon = [float(x) for x in range(40)]
    boxes = [
        {
            "id": at,
            "image_id": at % 4952,
            "category_id": at % 80 + 1,
            "bbox": [10.25, 20.5, 100.75, 50.0],
            "area": 4000.5,
            "iscrowd": 0,
            "segmentation": [polygon],
        }
        for at in range(36_000)
    ]
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": at, "name": f"class {at}"} for at in range(1, 81)]}))
    for image in images[:50]:
        (tmp_path / image["file_name"]).touch()
    start = time.process_time()  # of this process alone
    json.loads(path.read_bytes())
    plain = time.process_time() - start
    start = time.process_time()
    split = open_split(parse_data(f"val={path}"), "val")
    seconds = time.process_time() - start
    assert len(split) == 5000
    assert split.ground_truth().boxes.shape == (36_000, 4)
    assert seconds < max(1.0, 3 * plain)  # a busy machine slows the bare parser too, which takes 0.3 s on an idle one


def test_hash_of_a_list_of_images_depends_on_order_and_pixels(tmp_path):
    split = open_split(parse_data(f"val={write_coco(tmp_path)}"), "val")
    first = image_list_hash(split, [0, 1])
    assert image_list_hash(split, [0, 1]) == first
    assert image_list_hash(split, [1, 0]) != first
    Image.new("RGB", (20, 10), (0, 0, 1)).save(tmp_path / "a.png")
    assert image_list_hash(split, [0, 1]) != first
