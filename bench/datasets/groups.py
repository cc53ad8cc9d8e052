"""Which images of a dataset belong together and are no independent sample: frames of one clip, shots of one slide.

What says so, the first of these that there is:
1. a regular expression given by the user: images in whose file name (with folders) it finds the same text, that of its first pair of parentheses if
   it has one, are a group;
2. the field "group" of images in the COCO files, a text or a whole number: images with the same one are a group, across files and splits;
3. the rule in CLIPS for the name of the data.
An image that the rule says nothing of is alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from bench.datasets import open_split
from bench.datasets.annotations import shown
from bench.datasets.coco import image_entries
from bench.datasets.source import Data, files_of
from bench.types import UserError

# By Data.name, frozen. Roboflow's Aquarium: 81 of its 638 images are frames of 17 clips, IMG_8496_MOV-0.jpg, IMG_8496_MOV-2.jpg and so on.
CLIPS: Mapping[str, str] = MappingProxyType({"coco:aquarium": r"^(.+_MOV)-\d+"})


class _Listed(NamedTuple):
    """An image as its dataset lists it."""

    id: int
    name: str
    group: str | None  # the COCO file's own field


@dataclass(frozen=True)
class Groups:
    """The groups of a split. `keys` has the group of each image by its id, None for an image alone; `shared` counts what train has images of too."""

    rule: str  # in words; empty where nothing is known of groups
    keys: Mapping[int, str | None]
    shared_groups: int = 0
    shared_images: int = 0  # of this split
    train: bool = False  # whether there is a train split to compare with

    @property
    def count(self) -> int:
        """Number of groups, each image alone as one."""
        return len({key for key in self.keys.values() if key is not None}) + sum(key is None for key in self.keys.values())

    def numbers(self) -> list[int]:
        """The number of the group of each image, in the order of the ids."""
        seen: dict[object, int] = {}
        return [seen.setdefault(("alone", name) if key is None else key, len(seen)) for name, key in sorted(self.keys.items())]


def groups_of(data: Data, split: str, pattern: str = "") -> Groups:
    """The groups of the "train", "val" or "test" split of the data, by the user's regular expression if there is one."""
    ours = _listed(data, split)
    train = _listed(data, "train") if _has_train(data) and split != "train" else []
    rule = pattern or ("" if any(image.group for image in (*ours, *train)) else CLIPS.get(data.name, ""))
    if not rule and not any(image.group for image in (*ours, *train)):
        return Groups("", {image.id: None for image in ours}, train=bool(train))
    keys, theirs = (_keys(images, rule) for images in (ours, train))
    both = {key for key in keys.values() if key is not None} & set(theirs.values())
    words = f"file names by the regular expression {rule}" if rule else 'the field "group" of the COCO files'
    return Groups(words, keys, len(both), sum(key in both for key in keys.values()), train=bool(train))


def _has_train(data: Data) -> bool:
    return data.kind == "voc" or bool(data.part("train"))


def _listed(data: Data, split: str) -> list[_Listed]:
    if data.kind in {"coco", "joined"} and data.part(split):
        return [image for name in files_of(data.part(split)) for image in _in_file(Path(name))]
    opened = open_split(data, split)
    return [_Listed(opened.image_id(at), opened.image_name(at), None) for at in range(len(opened))]


def _in_file(path: Path) -> list[_Listed]:
    return [_Listed(int(entry["id"]), str(entry["file_name"]), _field(path, entry.get("group"), str(entry["id"]))) for entry in image_entries(path)]


def _field(path: Path, value: object, image: str) -> str | None:
    """The field as a text; an empty one says as little as none."""
    if value is not None and type(value) not in {str, int}:
        raise UserError(f"{path}: image {image}: its group is {shown(value)}; allowed is a text or a whole number, or none; correct the entry")
    return None if value is None or value == "" else str(value)


def _keys(images: list[_Listed], rule: str) -> dict[int, str | None]:
    """The group of each image by its id: by the rule, or by the field where that is empty."""
    if not rule:
        return {image.id: image.group for image in images}
    try:
        found = {image.id: re.search(rule, image.name) for image in images}
    except re.error as error:
        raise UserError(f"--groups {rule!r}: not a regular expression ({error}); allowed is one in Python's syntax, as in '^(.+)_frame'") from error
    return {image: None if match is None else (match[1] if match.re.groups else match[0]) for image, match in found.items()}
