"""Anybody's detections in COCO's results format, checked entry by entry."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.types import GroundTruth, Predictions, UserError

if TYPE_CHECKING:
    from pathlib import Path

FURTHEST = 1e7  # px; no image is larger, and the fixed point of stored predictions holds it
KEYS = ("image_id", "category_id", "bbox", "score")
NUMBERS = (int, float)  # compared with `type(x) in`, as a bool is an int to isinstance


def read_coco_results(path: Path, truth: GroundTruth, categories: Mapping[int, int] | None = None) -> Predictions:
    """A JSON list of {image_id, category_id, bbox: [x, y, width, height], score}; other keys of an entry are left aside.

    `categories` gives the label 0..C-1 of each category_id; without it 1..C are the classes in order. Corners stay float64, so that the numbers
    are pycocotools'. UserError names the file and the first entry (from 0) that is wrong.
    """
    known = dict(categories) if categories is not None else {number: label for label, number in enumerate(range(1, len(truth.classes) + 1))}
    entries = _entries(path)
    images = set(truth.image_ids.tolist())
    for number, entry in enumerate(entries):
        fault = _fault(entry, images, known)
        if fault:
            raise UserError(f"{path}: entry {number}: {fault}")
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    return Predictions(
        np.array([entry["image_id"] for entry in entries], dtype=np.int64),
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        np.array([entry["score"] for entry in entries], dtype=np.float32),
        np.array([known[entry["category_id"]] for entry in entries], dtype=np.int64),
    )


def _entries(path: Path) -> list[Any]:
    """The JSON list in a file; of a cut file, how far it goes."""
    try:
        text = path.read_text(encoding="utf-8")
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}, in or after entry {max(text.count(KEYS[0], 0, error.pos) - 1, 0)}"
        raise UserError(f"{path}: {place}: JSON breaks off or is not valid ({error.msg}); write the results again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); give a list of {{{', '.join(KEYS)}}}") from error
    if not isinstance(entries, list):
        raise UserError(f"{path}: the top is a {type(entries).__name__}; allowed is a list of {{{', '.join(KEYS)}}}; give a COCO results file")
    return entries


def _fault(entry: Any, images: Collection[int], known: Collection[int]) -> str:
    """What is wrong with an entry, what is allowed and the next step; empty if nothing is."""
    if type(entry) is not dict or not all(key in entry for key in KEYS):
        return f"{entry!r:.80} is not an object with {', '.join(KEYS)}; write all four"
    image, category, box, score = entry["image_id"], entry["category_id"], entry["bbox"], entry["score"]
    if type(image) is not int or image not in images:
        return f"image_id {image!r:.80} is not in the data, which has {_some(images)}; are these results of another split?"
    if type(category) is not int or category not in known:
        return f"category_id {category!r:.80} is not in the data, which has {_some(known)}; write the data's category ids"
    if type(score) not in NUMBERS or not 0 <= score <= 1:
        return f"score {score!r:.80}: allowed is a number from 0 to 1; write probabilities"
    if type(box) is not list or len(box) != 4 or not all(type(side) in NUMBERS and -FURTHEST <= side <= FURTHEST for side in box) or min(box[2:]) < 0:
        return f"bbox {box!r:.80}: allowed are [x, y, width, height] in finite pixels up to {FURTHEST:g}, sides not below 0; write no second corner"
    return ""


def _some(ids: Collection[int]) -> str:
    """The first of the allowed ids and how many there are."""
    return ", ".join(map(str, sorted(ids)[:6])) + (f" .. ({len(ids)} in all)" if len(ids) > 6 else "") if ids else "none"
