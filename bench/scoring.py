"""Anybody's results file as a row of this machine's leaderboard, without running a model. No torch for scenes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine, places
from bench.datasets import open_split, parse_data
from bench.datasets.source import files_of
from bench.metrics import score_all
from bench.metrics.store import read_coco_results, read_predictions, write_predictions
from bench.plan import slug
from bench.records import Record, write_record
from bench.types import UserError

if TYPE_CHECKING:
    from bench.datasets.source import Data
    from bench.types import GroundTruth, Predictions, Split


def score_file(path: Path, data: str, split: str, name: str) -> Record:
    """Score a COCO results file or a predictions.parquet on a split; the record and the predictions go to results/local/scores."""
    chosen = parse_data(data)
    opened = open_split(chosen, split)
    row = re.sub(r"[^a-z0-9]+", "-", (name or path.stem).lower()).strip("-")
    if not row:
        raise UserError(f"--name {name!r}: needs a letter or a digit, as in my-detector")
    truth = opened.ground_truth()
    predictions = predictions_of(path, chosen, split, truth)
    where = places.local_scores() / f"scored.{row}.{slug(chosen.name)}.{split}.json"
    values = score_all(predictions, truth)
    write_predictions(where.with_suffix(".parquet"), predictions, limit_bytes=10**9)
    record = Record(where.stem, "score", "scored", row, "real", 0, "ok", "", _hash(path), values, context=_context(chosen.name, opened))
    write_record(record, where)
    return record


def predictions_of(path: Path, data: Data, split: str, truth: GroundTruth) -> Predictions:
    """What a COCO results file or a predictions.parquet holds for the split with that ground truth."""
    return read_predictions(path) if path.suffix == ".parquet" else read_coco_results(path, truth, _categories(files_of(data.part(split))[0]))


def _categories(annotations: str) -> dict[int, int] | None:
    """The label of each category id of a COCO JSON, in the order of the ids, as its reader gives them; None for other data."""
    if not annotations.endswith(".json"):
        return None
    ids = sorted(int(entry["id"]) for entry in json.loads(Path(annotations).read_text())["categories"])
    return {key: label for label, key in enumerate(ids)}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _context(data: str, split: Split) -> dict[str, object]:
    known = {"data": data, "data_digest": split.digest, "tested_on": split.name, "test_images": len(split)}
    return known | machine.source_state() | {"versions": machine.versions(), "machine": {"name": "anywhere"}}
