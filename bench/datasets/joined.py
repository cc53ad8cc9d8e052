"""Splits of several COCO files: each is read as it would be alone, then all stand one after another in the order given.

An image keeps its id, so that predictions made with one of the files can be scored on the joined split; two files that share an id are refused.
All files of all splits must have the same categories.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.datasets.annotations import AnnotatedImages, shown
from bench.datasets.coco import categories_of, open_coco
from bench.datasets.source import JOIN, SPLITS, Data, files_of
from bench.types import GroundTruth, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


def open_joined(data: Data, split: str) -> AnnotatedImages:
    """The split of COCO data that has one or more files a split; UserError as the reader of one file has it."""
    given = data.part(split)
    if not given:
        raise UserError(f"{data.name}: the data has no {split} split; give it as {split}=FILE.json in --data")
    names = files_of(given)
    _check_categories(data, names[0])
    parts = [open_coco(_alone(data, split, name), split) for name in names]
    _check_ids(names, parts)
    if len(parts) == 1:
        return parts[0]
    text = "".join(part.digest for part in parts)
    ends = np.cumsum([0, *(len(part.truth.image) for part in parts)])
    return AnnotatedImages(
        name=f"coco:{JOIN.join(Path(name).name for name in names)}",
        digest=hashlib.sha256(f"leandet-joined-1 {text}".encode()).hexdigest(),
        images=tuple(image for part in parts for image in part.images),
        truth=_truth([part.truth for part in parts]),
        starts=np.concatenate([*(part.starts[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)), ends[-1:]]),
    )


def _alone(data: Data, split: str, name: str) -> Data:
    """The same data with that file as its only split."""
    return Data("coco", data.name, (*((key, value) for key, value in data.parts if key not in SPLITS), (split, name)))


def _check_categories(data: Data, first: str) -> None:
    """All files of all splits must have the categories of the first, ids and names."""
    ours = categories_of(Path(first))
    for name in dict.fromkeys(name for split in SPLITS if data.part(split) for name in files_of(data.part(split)) if name != first):
        theirs = categories_of(Path(name))
        if theirs != ours:
            key = min(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
            here = f"category {key} is {shown(theirs.get(key))}, in {first} it is {shown(ours.get(key))}"
            raise UserError(f"{name}: {here}; allowed are the same categories in all files of the data; correct one of the files")


def _check_ids(names: Sequence[str], parts: Sequence[AnnotatedImages]) -> None:
    seen: dict[int, str] = {}
    for name, part in zip(names, parts, strict=True):
        twice = [image.id for image in part.images if seen.setdefault(image.id, name) != name]
        if twice:
            more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
            raise UserError(f"{name}: image id {twice[0]} is that of an image in {seen[twice[0]]} too{more}; renumber the images of one of the files")


def _truth(parts: Sequence[GroundTruth]) -> GroundTruth:
    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return GroundTruth(
        image_ids=column("image_ids"),
        image=column("image"),
        boxes=column("boxes"),
        labels=column("labels"),
        crowd=column("crowd"),
        difficult=column("difficult"),
        area=column("area"),
        classes=parts[0].classes,
    )
