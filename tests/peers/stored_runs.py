"""Records of runs with predictions beside them, as a machine called desk would have left them: each row finds a share of the objects, exactly."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bench.datasets import open_split, parse_data
from bench.metrics import score_all
from bench.metrics.store import write_predictions
from bench.records import Record, write_record
from bench.types import GroundTruth, Predictions


def write_runs(place: Path, truth: GroundTruth, found: Iterable[tuple[str, int, np.ndarray]]) -> None:
    """A record of Condensing's row and seed at the proxy tier for each mask of the objects that it finds."""
    digest = open_split(parse_data("scenes-v1"), "test").digest
    for row, seed, mask in found:
        scores = np.full(mask.sum(), 0.9, np.float32)
        predictions = Predictions(truth.image[mask], truth.boxes[mask].astype(np.float32), scores, truth.labels[mask])
        run = f"condensing.{row}.proxy.s{seed}"
        kept = write_predictions(place / "desk" / f"{run}.parquet", predictions)
        context = {"data": "scenes-v1", "data_digest": digest, "machine": {"name": "desk"}}
        record = Record(run, "train", "condensing", row, "proxy", seed, "ok", "", "now", score_all(kept, truth), context=context)
        write_record(record, place / "desk" / f"{run}.json")
