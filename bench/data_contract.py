"""What a dataset must give, rule by rule: what is broken, and how to mend it. One contract for ours and for those that packages add."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from bench.contract import Broken, Finding
from bench.datasets import open_split
from bench.datasets.source import SPLITS
from bench.types import UserError

if TYPE_CHECKING:
    from bench.datasets import Data
    from bench.types import Split

SHOWN = 32  # images of a split that are decoded, spread over it
SLACK = 1e-3  # px beyond the image that rounding may cause


def examine(data: Data) -> tuple[Finding, ...]:
    """Every rule on every split that the data gives; UserError where it gives none."""
    opened, absent = dict[str, Any](), dict[str, str]()
    for name in SPLITS:
        try:
            opened[name] = open_split(data, name)
        except UserError as error:
            absent[name] = str(error)
        except Exception as error:  # noqa: BLE001 - a reader of somebody's: anything may happen in it
            absent[name] = f"its reader raised {type(error).__name__}: {error}"
    if not opened:
        said = next((absent[name] for name in SPLITS if data.part(name)), absent[SPLITS[0]])  # of a split that was given, if one was
        raise UserError(f"{data.name}: no split can be opened; {said}")
    found = [Finding(f"{name}: opened", "not seen", said) for name, said in absent.items()]
    found += [finding for name, split in opened.items() for finding in _of_split(data, name, split)]
    return (*found, _alike(opened))


def _of_split(data: Data, name: str, split: Split) -> Iterator[Finding]:
    for rule, check in RULES.items():
        try:
            broken = check(data, name, split)
        except Exception as error:  # noqa: BLE001 - as above
            broken = f"raises {type(error).__name__}: {error}", "mend the reader"
        yield Finding(f"{name}: {rule}", "broken", *broken) if broken else Finding(f"{name}: {rule}", "ok")


def _alike(opened: dict[str, Split]) -> Finding:
    classes = {name: tuple(split.classes) for name, split in opened.items()}
    if len(set(classes.values())) == 1:
        return Finding("the same classes in every split", "ok")
    said = "; ".join(f"{name} has {len(each)}" for name, each in classes.items())
    return Finding("the same classes in every split", "broken", said, "give every split the classes of the whole dataset, in one order")


# ---- rules of one split: what is wrong and how to mend it, None where all is well


def _named(_: Data, __: str, split: Split) -> Broken | None:
    names = tuple(split.classes)
    if not names or len(set(names)) != len(names) or not all(isinstance(each, str) and each for each in names):
        return f"classes are {names[:5]}", "give the names of labels 0..C-1, each once"
    if len(split) < 1:
        return "it has no image", "give at least one"
    identifiers = [split.image_id(index) for index in range(len(split))]
    if len(set(identifiers)) != len(identifiers):
        return "two images share an image_id", "number the images of a split, each once"
    return None


def _digested(data: Data, name: str, split: Split) -> Broken | None:
    if not isinstance(split.digest, str) or not split.digest:
        return f"its digest is {split.digest!r}", "give a hash of all that the numbers depend on, as text"
    if open_split(data, name).digest != split.digest:
        return "its digest is another when it is opened again", "hash what is in the files, not when they were read"
    return None


def _pictured(_: Data, __: str, split: Split) -> Broken | None:
    for index in _spread(len(split)):
        image = split.image(index)
        what = f"{split.image_name(index)} is {str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
        if image.dtype != torch.float32 or image.ndim != 3 or image.shape[0] != 3:
            return what, "give float32 (3, H, W), RGB"
        if not torch.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            return f"{what} from {image.min():.3g} to {image.max():.3g}", "divide bytes by 255: pixels are 0..1"
    return None


def _boxed(_: Data, __: str, split: Split) -> Broken | None:
    for index in _spread(len(split)):
        target, (height, width) = split.target(index), split.image(index).shape[-2:]
        name, boxes = split.image_name(index), target.boxes
        if boxes.dtype != torch.float32 or boxes.ndim != 2 or boxes.shape[1] != 4:
            return f"{name}: boxes are {boxes.dtype} {tuple(boxes.shape)}", "give float32 (N, 4): x1, y1, x2, y2 in pixels"
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            return f"{name}: a box has no size", "order corners x1 < x2, y1 < y2 and leave out empty boxes"
        if len(boxes) and (boxes.min() < -SLACK or (boxes[:, [0, 2]] > width + SLACK).any() or (boxes[:, [1, 3]] > height + SLACK).any()):
            return f"{name}: a box lies outside its {width} x {height} pixels", "give pixels of the image as it is given, corners and not sizes"
    return None


def _labelled(_: Data, __: str, split: Split) -> Broken | None:
    count = len(split.classes)
    for index in _spread(len(split)):
        target, name = split.target(index), split.image_name(index)
        if target.labels.dtype != torch.int64 or len(target.labels) != len(target.boxes):
            return f"{name}: labels are {target.labels.dtype} {tuple(target.labels.shape)}", "give int64, one a box"
        if len(target.labels) and (target.labels.min() < 0 or target.labels.max() >= count):
            return f"{name}: labels from {target.labels.min()} to {target.labels.max()}, of {count} classes", "count from 0, without background"
    return None


def _agreeing(_: Data, __: str, split: Split) -> Broken | None:
    truth = split.ground_truth()
    if sorted(truth.image_ids.tolist()) != sorted(split.image_id(index) for index in range(len(split))):
        return "ground_truth() is of other images than the split", "give the ids of all its images, those without a box too"
    for index in _spread(len(split)):
        columns, target = truth.boxes[truth.image == split.image_id(index)], split.target(index)
        if columns.shape != tuple(target.boxes.shape) or abs(columns - target.boxes.numpy()).max(initial=0.0) > SLACK:
            return f"{split.image_name(index)}: ground_truth() and target() have other boxes", "give both the same boxes, in one order"
    return None


def _spread(count: int) -> list[int]:
    """Which images are looked at: SHOWN of them, evenly spread."""
    return sorted({place * count // min(count, SHOWN) for place in range(min(count, SHOWN))})


RULES: dict[str, Callable[[Data, str, Split], Broken | None]] = {
    "classes and images are named": _named,
    "a digest that stays": _digested,
    "images are float32 in 0..1": _pictured,
    "boxes inside the image": _boxed,
    "labels 0..C-1": _labelled,
    "ground truth as the targets": _agreeing,
}
