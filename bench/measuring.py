"""What `leandet measure` does: parameters, bytes, multiply-adds, latency, memory and, with data, AP of detectors, in one table. No torch here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import adapters, machine, places
from bench.datasets.source import or_one_file, parse_data
from bench.leaderboard import Line, as_csv, lines
from bench.plan import slug
from bench.progress import showing
from bench.records import Record, write_record
from bench.subjects import Conditions, Subject, find_subject, image_split
from bench.timing import Lane, Manner, Session, time_subjects
from bench.timing_records import adapter_digest, keep
from bench.timing_worker import Worker
from bench.types import UserError

if TYPE_CHECKING:
    from bench.types import Predictions, Split

STEP = 16  # images of one request while a split is scored
RANDOM = "random"


@dataclass(frozen=True)
class Asked:
    """The options of the command. `data`: as after --data, or a COCO JSON's path, `coco:` before it or not; empty: drawn images."""

    names: tuple[str, ...]
    size: str = ""
    data: str = ""
    weights: str = ""
    quick: bool = False
    images: int = 11  # the least that bound a median


@dataclass(frozen=True)
class Measured:
    """One detector's records: latency (with memory and cost among its values), cost, and AP where it was scored."""

    subject: Subject
    latency: Record
    cost: Record | None
    score: Record | None
    notes: tuple[str, ...] = field(default=())

    @property
    def records(self) -> tuple[Record, ...]:
        """What the leaderboard takes."""
        if self.score is None or self.cost is None:
            return tuple(record for record in (self.cost, self.score) if record is not None)
        return (replace(self.cost, paper=self.score.paper, row=self.score.row), self.score)  # one line, also of a run that has its own


def measure(asked: Asked, conditions: Conditions, *, quiet: bool = False) -> tuple[Measured, ...]:
    """Measure the detectors together; UserError before anything is timed for a mistake in what was asked, or a detector that cannot be used."""
    conditions, split = _conditions(asked, conditions)
    subjects = tuple(_subject(name, asked, conditions, split) for name in asked.names)
    with showing(quiet=quiet) as show:
        session = time_subjects(subjects, conditions, Manner(asked.quick), show, _hold_to_contract)
        _say_what_failed(session)
        latencies = keep(session)
        scored = [_scored(lane.subject, lane.facts, conditions, split, show) if asked.data else (None, "") for lane in session.lanes]
    return tuple(
        Measured(lane.subject, latency, _cost(lane.subject, latency), score, (note,) if note else ())
        for lane, latency, (score, note) in zip(session.lanes, latencies, scored, strict=True)
    )


def _conditions(asked: Asked, conditions: Conditions) -> tuple[Conditions, Split]:
    """The conditions with the data and the size that were asked for, and the split that is opened for them."""
    adapters.size_of(asked.size)
    data = or_one_file(asked.data)
    conditions = replace(conditions, data=data or conditions.data, size=asked.size)
    split = image_split(conditions.data, conditions.size)
    return replace(conditions, images=min(asked.images, len(split))), split


def _subject(name: str, asked: Asked, conditions: Conditions, split: Split) -> Subject:
    subject = replace(find_subject(name, "paper", conditions.data), size=asked.size)
    if asked.weights:
        if len(asked.names) > 1:
            raise UserError(f"--weights {asked.weights}: goes with one detector and {len(asked.names)} are named; measure them one by one")
        if subject.kind != "adapter":
            raise UserError(f"--weights {asked.weights}: {name} brings its own weights; allowed with ADAPTER:NAME, or leave it out")
        if not Path(asked.weights).is_file():
            raise UserError(f"--weights {asked.weights}: there is no such file; give a state dict as .safetensors or .pth")
    classes = len(split.classes) if asked.data and subject.kind == "adapter" else 0
    return replace(subject, weights=asked.weights, classes=classes)


# ---- what can go wrong, said before it costs time


def _hold_to_contract(lane: Lane) -> None:
    """One answer of a detector; UserError where it cannot be built, gives none, or breaks the contract."""
    told, name = lane.ask("contract"), lane.subject.name
    if lane.failed:
        raise UserError(f"{name}: {lane.failed}; mend it, or look with `leandet check {name}`")
    if told["broken"]:
        raise UserError(f"{name}: its answer breaks the contract: {told['broken'][0]}; `leandet check {name}` says all")


def _say_what_failed(session: Session) -> None:
    failed = [lane for lane in session.lanes if lane.failed]
    if failed:
        raise UserError(f"{failed[0].subject.name}: {failed[0].failed}; mend it, or measure without it")


# ---- accuracy


def _scored(subject: Subject, facts: Mapping[str, Any], conditions: Conditions, split: Split, show: Any) -> tuple[Record | None, str]:
    """(record, note): AP on the whole split by the process and weights that were timed; none for random weights, with the reason."""
    if facts["weights_from"] == RANDOM:
        return None, "no AP: its weights are random; give --weights FILE, or a name that brings its own"
    from bench.metrics import score_all
    from bench.metrics.store import write_predictions

    found = _predictions(subject, conditions, split, show)
    data = parse_data(conditions.data).name
    # A run of a paper's row has its own records, beside which this one is another row
    paper, row = subject.place if subject.foreign else ("measured", slug(subject.label))
    where = places.local_scores() / f"{subject.label}.{slug(data)}.test.json"
    where.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(where.with_suffix(".parquet"), found, limit_bytes=10**9)
    context = {"data": data, "data_digest": split.digest, "tested_on": split.name, "test_images": len(split)} | _made()
    context |= {"weights_from": facts["weights_from"], "input": subject.size or "its own", "detector": subject.told, "size": subject.size}
    record = Record(
        where.stem, "score", paper, row, "real", 0, "ok", "", str(facts["weights"]), score_all(found, split.ground_truth()), context=context
    )
    write_record(record, where)
    return record, ""


def _predictions(subject: Subject, conditions: Conditions, split: Split, show: Any) -> Predictions:
    import numpy as np

    from bench.types import Predictions

    columns: dict[str, list[Any]] = {"image": [], "boxes": [], "scores": [], "labels": []}
    with closing(Worker(subject, conditions)) as worker:
        worker.open()
        for first in range(0, len(split), STEP):
            told = worker.ask("answers", first=first, count=STEP)
            for name, values in columns.items():
                values.extend(told[name])
            show(f"{subject.label}: scored {min(first + STEP, len(split))} of {len(split)} images", (first + STEP) / len(split))
    boxes = np.array(columns["boxes"], dtype=np.float32).reshape(-1, 4)
    kinds = {"image": np.int64, "scores": np.float32, "labels": np.int64}
    given = {name: np.array(columns[name], dtype=kind) for name, kind in kinds.items()}
    return Predictions(given["image"], boxes, given["scores"], given["labels"])


def _made() -> dict[str, Any]:
    return machine.source_state() | {"versions": machine.versions(), "machine": machine.describe()}


# ---- cost


def _cost(subject: Subject, latency: Record) -> Record | None:
    """The cost record beside a latency: a paper's row as it is has its own, counted by its paper's rule; of all else it is the whole model."""
    paper, row = subject.place
    if not subject.foreign and not subject.manner:
        from bench.catalogue import find_paper
        from bench.costing import cost_of
        from bench.subjects import row_of

        return cost_of(find_paper(paper), row_of(subject))
    values = {name: latency.values[name] for name in ("params_m", "size_mb", "macs_g", "macs_fixed_g", "macs_per_roi_g") if name in latency.values}
    about = {name: latency.context[name] for name in ("input", "unknown", "weights_from", "versions")}
    context = _made() | about | {"scope": "model", "convention": "mac", "rois": latency.values.get("rois", 0), "precision": "float32"}
    context |= {"detector": subject.told, "size": subject.size}
    digest = adapter_digest(subject) if subject.kind == "adapter" else latency.digest
    record = Record(f"{subject.label}.cost", "cost", paper, row, "", 0, "ok", "", digest, values, context=context)
    write_record(record, places.costs() / f"{record.id}.json")
    return record


# ---- leaderboard rows


def rows_of(found: Sequence[Measured]) -> tuple[Line, ...]:
    """The leaderboard's rows of what was measured, as its schema has them."""
    return lines({record.id: record for each in found for record in each.records}.values())


def in_csv(found: Sequence[Measured]) -> bytes:
    """The rows as leaderboard.csv has them."""
    return as_csv(rows_of(found))


def in_json(found: Sequence[Measured]) -> bytes:
    """{"leaderboard": rows as leaderboard.csv has them, "measured": the latency records}; what there is not is null."""
    rows = [{name: None if isinstance(value, float) and isnan(value) else value for name, value in asdict(line).items()} for line in rows_of(found)]
    measured = [asdict(each.latency) | {"notes": list(each.notes)} for each in found]
    return json.dumps({"leaderboard": rows, "measured": measured}, indent=1).encode() + b"\n"


def writable(option: str, path: str) -> None:
    """UserError, before minutes are spent, for a file that could not be written then."""
    folder = Path(path).absolute().parent
    if path and (Path(path).is_dir() or not os.access(folder, os.W_OK)):
        why = "is a folder" if Path(path).is_dir() else "its folder is not there" if not folder.is_dir() else "may not be written"
        raise UserError(f"{option} {path}: {why}; give a file in a folder that is there and may be written")
