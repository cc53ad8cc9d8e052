"""The AP of a run's detector in the form and precision that it is deployed in, measured on that form itself, beside the AP it learnt to."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from bench import machine, places
from bench.comparing import compare_results
from bench.digest import digest
from bench.metrics import score_all
from bench.metrics.store import write_predictions
from bench.plan import metrics_digest
from bench.progress import showing
from bench.records import Record, write_record
from bench.subjects import Conditions, find_subject, run_of
from bench.timing_records import current_digest
from bench.types import UserError

if TYPE_CHECKING:
    from bench.comparing import Comparison
    from bench.subjects import Subject

TESTED = "test"  # the split, as of every run


def deploy(name: str, conditions: Conditions) -> tuple[Record, Comparison]:
    """Test a run's weights in a form (RUN@FORM; RUN alone: as it learns) and a precision: the record, kept in runs/deployed/, and form minus run.

    UserError for a name that is no run with weights here, and for a form or a precision that this machine or detector has not.
    """
    subject = find_subject(name, "proxy", conditions.data)
    if subject.kind != "run":
        raise UserError(f"{name}: only a run has an accuracy; allowed: a run's id, as in condensing.fpn-r50.proxy.s0@fused")
    run = run_of(subject, conditions.data)
    folder = places.runs() / "deployed" / f"{subject.label}.{conditions.precision}"
    record = _tested(subject, replace(conditions, images=1), folder / "predictions.parquet")
    found = compare_results(str(folder / "predictions.parquet"), run.id, conditions.data, TESTED)
    change = {f"{one.measure.lower().replace(' ', '_')}_change": [one.difference, one.low, one.high] for one in found.measured}
    record = replace(record, samples={"change": change, "against": run.id}, digest=deployed_digest(record, run.digest))
    write_record(record, folder / "record.json")
    return record, found


def deployed_digest(record: Record, run: str) -> str:
    """What a deployed record rests on: its run, of that digest, and the source of its form and row. Empty for a row that is gone."""
    form = current_digest(record)
    return digest({"run": run, "form": form}, {}) if form else ""


def _tested(subject: Subject, conditions: Conditions, path: Any) -> Record:
    from lightning_fabric import Fabric

    from bench.detectors import weights_hash
    from bench.predict import predict
    from bench.timing_process import open_detector

    opened = open_detector(subject, conditions)
    kind = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}[conditions.precision]
    fabric = Fabric(accelerator=opened.runtime.device.type, devices=1, precision=kind)  # type: ignore[arg-type]  # one of its names
    with showing() as show:
        found = predict(fabric, opened.detector, opened.split, on_images=lambda done, whole: show(f"{subject.label}: testing", done / whole))
    values = score_all(write_predictions(path, found), opened.split.ground_truth())
    context = machine.source_state() | {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "metrics": metrics_digest(),
        **{key: value for key, value in asdict(conditions).items() if key not in {"images", "rois"}},
        "data_digest": opened.split.digest,
        "tested_on": opened.split.name,
        "weights": weights_hash(opened.detector),
    }
    paper, _, tier = subject.name.split(".")[:3]
    run = run_of(subject, conditions.data)
    name = f"{subject.label}.{conditions.precision}"
    return Record(name, "deployed", paper, subject.row, tier, run.seed, "ok", "", "", values, context=context)


def in_json(record: Record) -> str:
    """The record for programs."""
    return json.dumps(asdict(record), indent=1)
