"""Predictions on disk: Parquet beside a record, small enough for git."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.coco_results import FURTHEST, read_coco_results
from bench.records import write_atomically
from bench.types import Predictions, UserError

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["compact", "read_coco_results", "read_predictions", "write_predictions"]

VERSION = 1
PIXEL = 16  # steps a pixel: corners are kept to 1/16 px
SCORE = 65535  # steps from score 0 to 1
# (detections an image, None for all; lowest score): what is dropped, step by step, until it fits. Low scores move AP least, so they go first.
STEPS = (
    (None, 0.0),
    (100, 0.0),
    (100, 0.001),
    (100, 0.005),
    (100, 0.01),
    (100, 0.02),
    (100, 0.05),
    *((most, 0.05) for most in (50, 40, 30, 25, 20, 15, 10, 5)),
)
COLUMNS = ("image", "label", "score", "x1", "y1", "x2", "y2")


def write_predictions(path: Path, predictions: Predictions, *, limit_bytes: int = 300_000) -> Predictions:
    """Write what fits, by rename, and give back exactly what a reader will see: metrics are computed from that, never from what was dropped.

    Columns, by image, then best first: image int64; label; score as whole 65535ths; x1 y1 x2 y2 as whole 16ths of a pixel. The schema's metadata
    say the units and what was dropped (STEPS). The same predictions give the same bytes. ValueError for what is no prediction or cannot fit.
    """
    _check(predictions)
    fixed = _fixed(predictions)
    for per_image, lowest in STEPS:
        kept = _best(fixed, per_image, lowest)
        data = _parquet(kept, {"per_image": per_image, "lowest_score": lowest, "dropped": len(fixed["image"]) - len(kept["image"])})
        if len(data) <= limit_bytes:
            write_atomically(path, data)
            return _predictions(kept)
    raise ValueError(f"{path}: {len(data)} bytes with {STEPS[-1][0]} detections an image, more than {limit_bytes}; raise limit_bytes or score a part")


def read_predictions(path: Path) -> Predictions:
    """What write_predictions wrote; UserError names a file that is not that."""
    import pyarrow as pa

    try:
        predictions = _predictions(_columns(path.read_bytes()))
        _check(predictions)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not predictions of leandet, version {VERSION} ({reason}); restore the file or run its stage again") from error
    return predictions


def _columns(data: bytes) -> dict[str, NDArray[Any]]:
    """The whole-number columns of a file; ValueError, KeyError or one of Arrow's own errors for another file."""
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    about = json.loads((table.schema.metadata or {})[b"leandet"])
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    if about["version"] != VERSION or tuple(columns) != COLUMNS or any(column.dtype.kind != "i" for column in columns.values()):
        raise ValueError(f"version {about['version']} with columns {', '.join(columns)}")
    return columns


def compact(predictions: Predictions, per_image: int, lowest: float = 0.0) -> Predictions:
    """The best `per_image` detections of each image with at least the lowest score; by image, then best first, ties as given."""
    order = np.lexsort((-predictions.scores, predictions.image))
    keep = order[(_places(predictions.image[order]) < per_image) & (predictions.scores[order] >= lowest)]
    return Predictions(predictions.image[keep], predictions.boxes[keep], predictions.scores[keep], predictions.labels[keep])


def _check(predictions: Predictions) -> None:
    """ValueError for what fixed point cannot hold."""
    scores, boxes = np.asarray(predictions.scores), np.asarray(predictions.boxes)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"score {scores[~((scores >= 0) & (scores <= 1))][0]}: allowed are 0 to 1")
    if not (np.abs(boxes) <= FURTHEST).all():
        raise ValueError(f"corner {boxes[~(np.abs(boxes) <= FURTHEST)][0]}: allowed are finite pixels up to {FURTHEST:g}")


def _fixed(predictions: Predictions) -> dict[str, NDArray[Any]]:
    """Whole-number columns in the file's order, every tie decided, so that one set of predictions has one file."""
    corners = np.rint(predictions.boxes.reshape(-1, 4).astype(np.float64) * PIXEL).astype(np.int32).T
    score = np.rint(predictions.scores.astype(np.float64) * SCORE).astype(np.int32)
    order = np.lexsort((*corners[::-1], predictions.labels, -score, predictions.image))
    values = (predictions.image.astype(np.int64), predictions.labels.astype(np.int32), score, *corners)
    return {name: value[order] for name, value in zip(COLUMNS, values, strict=True)}


def _places(image: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each row within its image; rows of an image stand together."""
    rows = np.arange(len(image))
    return rows - np.maximum.accumulate(np.where(np.diff(image, prepend=image[:1] - 1) != 0, rows, 0)) if len(image) else rows


def _best(fixed: Mapping[str, NDArray[Any]], per_image: int | None, lowest: float) -> dict[str, NDArray[Any]]:
    most = len(fixed["image"]) if per_image is None else per_image
    keep = (_places(fixed["image"]) < most) & (fixed["score"] >= lowest * SCORE)
    return {name: column[keep] for name, column in fixed.items()}


def _predictions(fixed: Mapping[str, NDArray[Any]]) -> Predictions:
    corners = np.stack([fixed[name] for name in COLUMNS[3:]], axis=1)
    return Predictions(
        fixed["image"].astype(np.int64),
        corners.astype(np.float32) / np.float32(PIXEL),
        (fixed["score"] / np.float64(SCORE)).astype(np.float32),
        fixed["label"].astype(np.int64),
    )


def _parquet(fixed: Mapping[str, NDArray[Any]], dropped: Mapping[str, float | None]) -> bytes:
    """Zstandard at its strongest; numbers split into their bytes, of which the upper compress well (measured against plain, delta, dictionary)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {"version": VERSION, "boxes": f"1/{PIXEL} px", "scores": f"1/{SCORE}", **dropped}
    fields, arrays = zip(*(_column(name, column) for name, column in fixed.items()), strict=True)
    schema = pa.schema(fields, metadata={"leandet": json.dumps(about, sort_keys=True)})
    stream = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(list(arrays), schema=schema),
        stream,
        compression="zstd",
        compression_level=19,
        use_dictionary=False,
        column_encoding={"image": "PLAIN", **dict.fromkeys(COLUMNS[1:], "BYTE_STREAM_SPLIT")},
        write_statistics=False,
        store_schema=True,
    )
    return stream.getvalue()


def _column(name: str, values: NDArray[Any]) -> tuple[pa.Field, pa.Array]:
    """A column with its unit."""
    import pyarrow as pa

    unit = "1/65535" if name == "score" else f"1/{PIXEL} px" if name in COLUMNS[3:] else "id"
    array = pa.array(values)
    return pa.field(name, array.type, nullable=False, metadata={"unit": unit}), array
