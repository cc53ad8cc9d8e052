"""Any COCO JSON: boxes x, y, width, height in pixels; crowds, images without a box, `ignore`.

`iscrowd` becomes Target.crowd, the one flag that pycocotools ignores by; `ignore` and `difficult` become Target.difficult, which only the VOC metric
ignores. Category ids become labels 0..C-1 in the order of the ids; all splits of a dataset must have the same categories.
Images are sought beside the JSON, then in images/<stem of the JSON>/ there; or in the given folder, then in <folder>/<stem of the JSON>/.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets.annotations import EMPTY, AnnotatedImages, Box, ImageFile, columns, fit, folder_digest, raise_faults, reason, shown
from bench.datasets.source import SPLITS
from bench.types import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeGuard

    from bench.datasets.source import Data

_LARGEST = 2**63 - 1  # of an id, as the columns are int64
_NUMBERS = {int, float, bool}  # bool is among them for flags alone
_FLAGS = {0, 1}  # which 0.0, 1.0, false and true equal


def open_coco(data: Data, split: str) -> AnnotatedImages:
    """The split of COCO data; UserError names the first faulty entry, what is allowed, and how many more there are."""
    with _uncollected():
        return _open(data, split)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles, which walks all of a file's millions of values again and again while they are made: half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _open(data: Data, split: str) -> AnnotatedImages:
    path = _file(data, split)
    text = _read(path)
    document = _parse(path, text)
    categories = _categories(path, document)
    images = _images(path, document, _folders(data, path))
    boxes = _boxes(path, document, images, labels={key: label for label, key in enumerate(sorted(categories))}, drop=bool(data.part("empty")))
    _check_agreement(data, split, categories)
    truth, starts = columns(images, boxes, tuple(categories[key] for key in sorted(categories)))
    digest = folder_digest((text, data.part("empty").encode()), images)
    return AnnotatedImages(f"coco:{path.name}", digest, tuple(images), truth, starts)


def _file(data: Data, split: str) -> Path:
    given = data.part(split)
    if not given:
        raise UserError(f"{data.name}: the data has no {split} split; give it as {split}=FILE.json in --data")
    return Path(given)


def _folders(data: Data, path: Path) -> tuple[Path, Path]:
    given = data.part("images")
    if given and not Path(given).is_dir():
        raise UserError(f"{given}: there is no such folder of images; give images=DIR an existing one, or leave it out")
    return (Path(given), Path(given) / path.stem) if given else (path.parent, path.parent / "images" / path.stem)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; give the path of a COCO JSON in --data") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); give the path of a COCO JSON in --data") from error


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise UserError(f"{path}: not a COCO JSON (nested too deeply); write it anew") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({reason(error)}); it may be cut off, so copy or write it anew") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: holds a {type(document).__name__}; allowed is a JSON object with images, annotations and categories; write it anew")
    return document


def _entries(path: Path, document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of objects under a key of the document."""
    entries = document.get(key)
    if not isinstance(entries, list):
        what = f"is {shown(entries)}" if key in document else "is missing"
        raise UserError(f"{path}: {key!r} {what}; allowed is a list of objects; write the file anew")
    wrong = [
        f"{key}[{at}] is {shown(entry)}; allowed is an object; correct or delete it" for at, entry in enumerate(entries) if type(entry) is not dict
    ]
    raise_faults(path, wrong)
    return entries


def _whole(value: object, least: int = -_LARGEST) -> int | None:
    """The value as an integer of 64 bits not below `least`, or None; 3.0 counts, true does not."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and least <= value <= _LARGEST else None


def _identified(entries: Sequence[dict[str, Any]], key: str, faults: list[str]) -> dict[int, dict[str, Any]]:
    """The entries by their id; those without a proper one of their own go to the faults."""
    found: dict[int, dict[str, Any]] = {}
    for at, entry in enumerate(entries):
        identifier = _whole(entry.get("id"))
        if identifier is None:
            faults.append(f"{key}[{at}]: its id is {shown(entry.get('id'))}; allowed is an integer of its own; correct the entry")
        elif identifier in found:
            faults.append(f"{key}[{at}]: id {identifier} is there twice; allowed is one entry an id; delete or renumber one")
        else:
            found[identifier] = entry
    return found


def _categories(path: Path, document: dict[str, Any]) -> dict[int, str]:
    """Names by category id."""
    faults: list[str] = []
    names: dict[int, str] = {}
    for key, entry in _identified(_entries(path, document, "categories"), "categories", faults).items():
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip():
            faults.append(f"category {key}: its name is {shown(name)}; allowed is a text that is not empty; correct the entry")
        elif name in names.values():
            faults.append(f"category {key}: the name {shown(name)} is there twice; allowed is one category a name; merge or rename one")
        else:
            names[key] = name
    raise_faults(path, faults)
    if not names:
        raise UserError(f"{path}: it lists no category; at least one is needed; write the file anew")
    return names


def _images(path: Path, document: dict[str, Any], folders: tuple[Path, Path]) -> list[ImageFile]:
    faults: list[str] = []
    images: list[ImageFile] = []
    for key, entry in _identified(_entries(path, document, "images"), "images", faults).items():
        name, width, height = entry.get("file_name"), _whole(entry.get("width"), 1), _whole(entry.get("height"), 1)
        if not _is_file_name(name):
            faults.append(f"image {key}: its file_name is {shown(name)}; allowed is a relative path without '..'; correct the entry")
        elif width is None or height is None:
            size = f"{shown(entry.get('width'))} x {shown(entry.get('height'))}"
            faults.append(f"image {key} ({shown(name)}): its size is {size}; allowed are positive integers as width and height; correct the entry")
        elif (file := next((folder / name for folder in folders if (folder / name).is_file()), None)) is None:
            faults.append(f"image {key}: {shown(name)} is neither in {folders[0]} nor in {folders[1]}; put it there or give images=DIR")
        else:
            images.append(ImageFile(key, name, file, width, height))
    raise_faults(path, faults)
    if not images:
        raise UserError(f"{path}: the split is empty: it lists no image; at least one is needed; give another file")
    return images


def _is_file_name(name: object) -> TypeGuard[str]:
    """Whether it names a file inside a folder, in characters that a file system knows."""
    if not isinstance(name, str) or not name.strip() or "\0" in name or len(name) > 1000:
        return False
    return not name.startswith("/") and ".." not in name.split("/") and name.isprintable()


def _boxes(path: Path, document: dict[str, Any], images: Sequence[ImageFile], *, labels: Mapping[int | None, int], drop: bool) -> list[Box]:
    faults: list[str] = []
    boxes: list[Box] = []
    places: dict[int | None, int] = {image.id: at for at, image in enumerate(images)}
    for key, entry in _identified(_entries(path, document, "annotations"), "annotations", faults).items():
        at, label = places.get(_whole(entry.get("image_id"))), labels.get(_whole(entry.get("category_id")))
        if at is None:
            faults.append(f"annotation {key}: image_id {shown(entry.get('image_id'))} is not among the images; add that image or delete the entry")
        elif label is None:
            faults.append(
                f"annotation {key}: category_id {shown(entry.get('category_id'))} is not among the categories {_listed(labels)}; correct it"
            )
        elif isinstance(box := _box(entry, at, label, image=images[at]), Box):
            boxes.append(box)
        elif not (drop and box.endswith(EMPTY)):
            hint = "; correct or delete it, or leave out all such by empty=drop in --data" if box.endswith(EMPTY) else "; correct or delete the entry"
            faults.append(f"annotation {key} of image {images[at].id} ({images[at].name}): {box}{hint}")
    raise_faults(path, faults)
    if not boxes:
        raise UserError(f"{path}: the split holds no box; at least one is needed to learn or to score; give another file")
    return boxes


def _listed(labels: Mapping[int | None, int]) -> str:
    keys = list(labels)
    return ", ".join(map(str, keys[:10])) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")


def _box(entry: dict[str, Any], at: int, label: int, *, image: ImageFile) -> Box | str:
    """The annotation, or what is wrong with it and what is allowed."""
    given = entry.get("bbox")
    if type(given) is not list or len(given) != 4 or not _NUMBERS.issuperset(map(type, given)) or bool in map(type, given):
        return f"bbox is {shown(given)}; allowed are four numbers: x, y, width, height in pixels"
    try:
        x, y, width, height = map(float, given)
        area = width * height if entry.get("area") is None else float(_number(entry["area"]))
    except OverflowError:  # an integer beyond a float
        return f"bbox {shown(given)} or its area is not of finite numbers"
    corners = fit((x, y, x + width, y + height), image.width, image.height)
    if isinstance(corners, str):
        return f"bbox {shown(given)} (x, y, width, height) {corners}"
    if not 0 <= area < math.inf:
        return f"area is {shown(entry['area'])}; allowed is a number of square pixels, or none"
    flags = entry.get("iscrowd", 0), entry.get("ignore", 0), entry.get("difficult", 0)
    if not _NUMBERS.issuperset(map(type, flags)) or not _FLAGS.issuperset(flags):
        return f"iscrowd, ignore, difficult are {', '.join(map(shown, flags))}; allowed are 0 and 1"
    return Box(at, *corners, label, bool(flags[0]), bool(flags[1] or flags[2]), area)


def _number(value: object) -> float:
    return value if type(value) in (int, float) else math.nan  # type: ignore[return-value]  # the test of the type is exact, to keep true out


def _check_agreement(data: Data, split: str, categories: dict[int, str]) -> None:
    """All splits must have the same categories, ids and names, or labels would mean different things in training and in scoring."""
    for other in SPLITS:
        path = Path(data.part(other))
        if other == split or not data.part(other) or path == Path(data.part(split)):
            continue
        theirs = _categories(path, _only_categories(path))
        if theirs != categories:
            key = min(key for key in {*theirs, *categories} if theirs.get(key) != categories.get(key))
            here = f"category {key} is {shown(theirs.get(key))}, in {data.part(split)} it is {shown(categories.get(key))}"
            raise UserError(f"{path}: {here}; allowed are the same categories in all splits; correct one of the files")


def _only_categories(path: Path) -> dict[str, Any]:
    """The document with its categories, without parsing the rest of a file of hundreds of megabytes where that can be told safely."""
    text, key = _read(path), b'"categories"'
    at = text.find(key)
    if at >= 0 and text.find(key, at + 1) < 0:
        rest = text[at + len(key) : at + 1_000_000].lstrip().removeprefix(b":").lstrip()
        with contextlib.suppress(ValueError, RecursionError):
            return {"categories": json.JSONDecoder().raw_decode(rest.decode())[0]}
    return _parse(path, text)


def categories_of(path: Path) -> dict[int, str]:
    """The names by category id of a COCO JSON, without its images and boxes."""
    return _categories(path, _only_categories(path))


def image_entries(path: Path) -> list[dict[str, Any]]:
    """The entries under "images" of a COCO JSON, as they stand in the file."""
    return _entries(path, _parse(path, _read(path)), "images")
