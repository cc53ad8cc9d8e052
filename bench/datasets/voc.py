"""PASCAL VOC folders (VOC2007, VOC2012 or any built likewise: Annotations, ImageSets/Main, JPEGImages), several years joined to one split.

VOC's corners count pixels from 1 and include the last one; here they are continuous and 0-based: x1 - 1, y1 - 1, x2, y2. `difficult` is kept.
A split is image sets joined by "+", each <folder without VOC>_<file in ImageSets/Main without .txt>. By default, as the papers have it, train is
2007_trainval+2012_trainval and test is 2007_test; val is 2007_val, which lies inside train: it watches the learning and chooses nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.datasets.annotations import EMPTY, AnnotatedImages, Box, ImageFile, columns, fit, folder_digest, raise_faults, reason, shown
from bench.types import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from xml.etree.ElementTree import Element

    from bench.datasets.source import Data

CLASSES = (  # of VOC 2007 to 2012, in the devkit's order
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
DEFAULTS = {"train": "2007_trainval+2012_trainval", "val": "2007_val", "test": "2007_test"}
_EMPTY = f"{EMPTY}; correct or delete it, or leave out all such by empty=drop in --data"


class _Entry(NamedTuple):
    """One line of an image set: the year's folder and the image's name without extension."""

    folder: Path
    name: str


class _Annotated(NamedTuple):
    """What an XML says: the image's size in pixels and the elements of its objects."""

    width: int
    height: int
    objects: list[Element]


def open_voc(data: Data, split: str) -> AnnotatedImages:
    """The split of VOC folders; UserError names the file, its first fault, what is allowed, and how many faults more there are."""
    root = _root(data)
    sets = data.part(split, DEFAULTS[split])
    entries = [entry for word in sets.split("+") for entry in _image_set(root, word.strip())]
    classes = tuple(name.strip() for name in data.part("classes", "+".join(CLASSES)).split("+"))
    if len(set(classes)) < len(classes) or "" in classes:
        raise UserError(f"classes={data.part('classes')}: a name is empty or there twice; allowed are different names joined by '+'")
    texts = [_bytes(entry.folder / "Annotations" / f"{entry.name}.xml") for entry in entries]
    images, boxes = _contents(entries, texts, labels={name: label for label, name in enumerate(classes)}, drop=bool(data.part("empty")))
    if not boxes:
        raise UserError(f"{root}: the split {sets} holds no box; at least one is needed to learn or to score; give other image sets")
    truth, starts = columns(images, boxes, classes)
    header = f"voc {sets} {'+'.join(classes)} {data.part('empty')}".encode()
    return AnnotatedImages(f"voc:{sets}", folder_digest((header, *texts), images), tuple(images), truth, starts)


def _root(data: Data) -> Path:
    given = Path(data.part("voc"))
    if not given.is_dir():
        raise UserError(f"{given}: there is no such folder; give voc=DIR one that holds VOC2007, or download it with `leandet download voc2007`")
    return given / "VOCdevkit" if (given / "VOCdevkit").is_dir() else given


def _image_set(root: Path, word: str) -> list[_Entry]:
    year, _, name = word.partition("_")
    if not re.fullmatch(r"[\w.-]+_[\w.-]+", word) or ".." in word:
        raise UserError(f"{root}: image set {shown(word)} is not FOLDER_SET; allowed is, for one, 2007_trainval; correct --data")
    folder = root / f"VOC{year}"
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    try:
        lines = _bytes(path).decode().split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8 ({error.reason}); copy it anew") from error
    names = [line.strip() for line in lines if line.strip()]
    faults = [
        f"{shown(entry)} is not the name of an image; allowed is one a line; correct it" for entry in names if not re.fullmatch(r"[\w-]+", entry)
    ]
    faults += [f"{shown(entry)} is there twice; delete one" for entry in _repeated(names)]
    raise_faults(path, faults)
    if not names:
        raise UserError(f"{path}: the image set is empty; at least one name is needed; give another")
    return [_Entry(folder, entry) for entry in names]


def _repeated(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]  # add gives None: not seen before


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; a VOC folder needs it, so unpack the archive anew or correct --data") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); correct the folder's rights or --data") from error


def _contents(entries: Sequence[_Entry], texts: Sequence[bytes], *, labels: Mapping[str, int], drop: bool) -> tuple[list[ImageFile], list[Box]]:
    images: list[ImageFile] = []
    boxes: list[Box] = []
    ids = _ids(entries)
    faulty: list[tuple[Path, str]] = []
    for at, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        path = entry.folder / "Annotations" / f"{entry.name}.xml"
        image = entry.folder / "JPEGImages" / f"{entry.name}.jpg"
        if not image.is_file():
            faulty.append((image, "there is no such image; put it there or take it out of the image set"))
        annotated = _parse(text)
        if isinstance(annotated, str):
            faulty.append((path, annotated))
            continue
        found = [_box(element, at, labels, annotated) for element in annotated.objects]
        images.append(ImageFile(ids[at], f"{entry.folder.name}/JPEGImages/{image.name}", image, annotated.width, annotated.height))
        boxes += [box for box in found if isinstance(box, Box)]
        faulty += [
            (path, f"object {number}: {box}") for number, box in enumerate(found, 1) if isinstance(box, str) and not (drop and box.endswith(_EMPTY))
        ]
    if faulty:
        raise_faults(faulty[0][0], [fault for _, fault in faulty])
    return images, boxes


def _ids(entries: Sequence[_Entry]) -> list[int]:
    """VOC's names are numbers (000012 is 12, 2008_000001 is 2008000001); where one is not, or two clash, images count from 1 in their order."""
    numbers = [int(entry.name.replace("_", "")) for entry in entries if re.fullmatch(r"[0-9]{1,9}(_[0-9]{1,9})?", entry.name)]
    return numbers if len(set(numbers)) == len(entries) else list(range(1, len(entries) + 1))


def _parse(text: bytes) -> _Annotated | str:
    """What the XML says, or what is wrong with it. Entities and DTDs, by which a bomb unfolds or a file leaks, are refused."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import ElementTree

    try:
        root: Element = ElementTree.fromstring(text, forbid_dtd=True)
    except ParseError as error:
        return f"not valid XML ({reason(error)}); it may be cut off, so copy it anew"
    except (ValueError, LookupError) as error:  # defusedxml's own faults are ValueErrors; an encoding that Python lacks is a LookupError
        return f"XML that is not allowed ({reason(error)}); allowed are plain elements in UTF-8; write it anew"
    size = [_number(root.find(f"size/{side}")) for side in ("width", "height")]
    if not all(value is not None and value >= 1 and value.is_integer() and value < 2**31 for value in size):
        return "its size/width and size/height are not positive integers; correct them"
    return _Annotated(int(size[0] or 0), int(size[1] or 0), root.findall("object"))


def _number(element: Element | None) -> float | None:
    """The number in an element (VOC 2012 has fractions), NaN for "nan"; None where there is none."""
    try:
        return None if element is None else float(element.text or "")
    except ValueError:
        return None


def _box(element: Element, at: int, labels: Mapping[str, int], size: _Annotated) -> Box | str:
    """One object, or what is wrong with it. The parts of a person (head, hand, foot) lie deeper and are not objects."""
    name = (element.findtext("name") or "").strip()
    if name not in labels:
        return f"its name is {shown(name)}; allowed are {', '.join(labels)}; correct it or give classes=A+B in --data"
    given = [_number(element.find(f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax")]
    x1, y1, x2, y2 = given
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return f"its bndbox is {shown(given)}; allowed are four numbers xmin, ymin, xmax, ymax; correct it"
    corners = fit((x1 - 1, y1 - 1, x2, y2), size.width, size.height)
    if isinstance(corners, str):
        return f"bndbox {shown(given)} {_EMPTY}" if corners == EMPTY else f"bndbox {shown(given)} {corners}; correct or delete it"
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        return f"difficult is {shown(difficult)}; allowed are 0 and 1; correct it"
    area = (corners[2] - corners[0]) * (corners[3] - corners[1])
    return Box(at, *corners, labels[name], crowd=False, difficult=difficult == "1", area=area)
