"""Whatever a COCO JSON or a VOC XML holds, a reader gives a valid split or says in one line what is wrong: no other exception, 2,400 cases."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.datasets import open_split, parse_data
from bench.types import UserError

DOCUMENT = {
    "info": {"year": 2026},
    "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}, {"id": 2, "file_name": "b.png", "width": 8, "height": 8}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 0, "ignore": 0},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0.5, 0, 7.5, 8], "iscrowd": 1, "segmentation": {"counts": "x", "size": [8, 8]}},
    ],
    "categories": [{"id": 7, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "cat"}],
}
XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>VOC2007</folder><filename>000001.jpg</filename><size><width>20</width><height>10</height><depth>3</depth></size>
<object><name>dog</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>15</xmax><ymax>10</ymax></bndbox></object>
<object><name>person</name><difficult>1</difficult><bndbox><xmin>3.5</xmin><ymin>2</ymin><xmax>20</xmax><ymax>9</ymax></bndbox>
<part><name>head</name><bndbox><xmin>4</xmin><ymin>2</ymin><xmax>6</xmax><ymax>3</ymax></bndbox></part></object></annotation>
"""
fuzzed = settings(max_examples=600, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
texts = st.sampled_from(["", "a.png", "../a.png", "/", ".", "a.png/", "\0", "\ud800", "dog", "1", "a\nb", "x" * 5000]) | st.text(max_size=3)
numbers = st.sampled_from([0, -1, 1, 2**63, -(2**63), 10**400, 1e308, -0.0, 7.0, float("nan"), float("inf")]) | st.integers(-9, 99) | st.floats()
scalars = st.sampled_from([None, True, False]) | numbers | texts
values = scalars | st.lists(scalars, max_size=4) | st.dictionaries(texts, scalars | st.lists(scalars, max_size=2), max_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images for both formats, and places for the files under test."""
    root = tmp_path_factory.mktemp("fuzz")
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / "VOC2007" / part).mkdir(parents=True)
    (root / "VOC2007/ImageSets/Main/train.txt").write_text("000001\n")
    Image.new("RGB", (20, 10)).save(root / "VOC2007/JPEGImages/000001.jpg")
    Image.new("RGB", (20, 10)).save(root / "a.png")
    Image.new("RGB", (8, 8)).save(root / "b.png")
    return root


def holds(text: str, path: Path) -> None:
    """A valid split whose boxes lie in their images, or one line that names the file."""
    try:
        split = open_split(parse_data(text), "train")
    except UserError as error:
        said = str(error)
        assert said.startswith((f"{path}: ", f"{path.parents[2]}: the split")), said  # that no box is left is a fault of the whole VOC folder
        assert len(said.splitlines()) == 1, said
        assert len(said) < 1500, said
        said.encode()  # it can be printed
        return
    assert len(split) > 0
    for at in range(len(split)):
        target, width, height = split.target(at), split.images[at].width, split.images[at].height
        x1, y1, x2, y2 = target.boxes.unbind(1)
        assert bool(((x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height) & (x1 <= x2) & (y1 <= y2)).all())
        assert bool(((target.labels >= 0) & (target.labels < len(split.classes))).all())
    truth = split.ground_truth()
    assert bool((truth.boxes[:, 2:] > truth.boxes[:, :2]).all())
    assert bool((truth.area >= 0).all())


def coco(folder: Path, content: bytes) -> None:
    path = folder / "part.json"
    path.write_bytes(content)
    holds(f"train={path}", path)


def voc(folder: Path, content: bytes) -> None:
    path = folder / "VOC2007/Annotations/000001.xml"
    path.write_bytes(content)
    holds(f"voc={folder},train=2007_train", path)


def places(value, path=()):
    """The path of every value inside a document, the document's own left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


PLACES = list(places(DOCUMENT))


def holder(document, path):
    for key in path[:-1]:
        document = document[key]
    return document


@st.composite
def mutated_documents(draw):
    """The valid document with one to three of its values replaced, deleted or doubled."""
    document = copy.deepcopy(DOCUMENT)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PLACES))
        try:
            inside = holder(document, path)
            kind = draw(st.sampled_from(["replace", "replace", "delete", "double", "add"]))
            if kind == "replace":
                inside[path[-1]] = draw(values)
            elif kind == "delete":
                del inside[path[-1]]
            elif isinstance(inside, list):
                inside.append(copy.deepcopy(inside[path[-1]]) if kind == "double" else draw(values))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier mutation took the place away
    return document


@fuzzed
@given(document=mutated_documents())
def test_mutated_coco(folder, document):
    coco(folder, json.dumps(document).encode())


@fuzzed
@given(document=values | st.fixed_dictionaries({key: st.lists(values, max_size=3) for key in ("images", "annotations", "categories")}))
def test_any_json(folder, document):
    coco(folder, json.dumps(document).encode())


def spliced(content: bytes, at: int, length: int, new: bytes) -> bytes:
    at %= len(content)
    return content[:at] + new + content[at + length :]


bytes_in = st.binary(max_size=6) | st.sampled_from(
    [b"<", b"&", b"]]>", b"<!DOCTYPE a>", b"&lt;", b"</object>", b'"', b"[", b"nan", b"1e999", b"-1", b"9" * 5000]
)


@fuzzed
@given(at=st.integers(0, 10_000), length=st.integers(0, 12) | st.just(10_000), new=bytes_in)
def test_spliced_coco(folder, at, length, new):
    coco(folder, spliced(json.dumps(DOCUMENT).encode(), at, length, new))


words = st.sampled_from(
    ["20", "10", "1", "2", "15", "0", "1", "dog", "person", "3.5", "bndbox", "object", "size", "xmin", "name", "difficult", "utf-8"]
)
plain = st.text(max_size=6) | st.sampled_from(
    ["nan", "inf", "-1", "1e999", "", "21", "1_0", "٣", "<a/>", "<a>", "&a;", "&#0;", "utf-16", "cp037", "x" * 3000]
)


@fuzzed
@given(
    changes=st.lists(st.tuples(words, plain, st.integers(0, 3)), min_size=1, max_size=3), splice=st.none() | st.tuples(st.integers(0, 900), bytes_in)
)
def test_mutated_voc(folder, changes, splice):
    text = XML
    for word, new, count in changes:
        text = text.replace(word, new, count)
    content = text.encode(errors="surrogatepass")
    voc(folder, content if splice is None else spliced(content, splice[0], len(splice[1]), splice[1]))


def test_valid_documents_are_read(folder):
    coco(folder, json.dumps(DOCUMENT).encode())
    voc(folder, XML.encode())
    assert len(open_split(parse_data(f"train={folder / 'part.json'}"), "train").ground_truth().boxes) == 2
    assert len(open_split(parse_data(f"voc={folder},train=2007_train"), "train").ground_truth().boxes) == 2
