"""The AP of a run's detector in the form and precision that it is deployed in, measured on that form itself, beside the AP it learnt to."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from bench import machine, places
from bench.comparing import compare_results, run_predictions
from bench.datasets import parse_data
from bench.digest import digest
from bench.metrics import score_all
from bench.metrics.store import write_predictions
from bench.plan import metrics_digest
from bench.progress import showing
from bench.records import Record, write_record
from bench.subjects import WEIGHTS, Conditions, find_subject, run_of
from bench.timing_records import current_digest
from bench.types import Unavailable, UserError

if TYPE_CHECKING:
    from bench.comparing import Comparison
    from bench.plan import Run
    from bench.subjects import Subject

TESTED = "test"  # the split, as of every run
GRAPHS = "implementations.adapters.graphs"


def deploy(name: str, conditions: Conditions) -> tuple[Record, Comparison]:
    """Test a run's weights in a form (RUN@FORM; RUN alone: as it learns) and a precision: the record, kept in runs/deployed/, and form minus run.

    UserError for a name that is no run with weights here, and for a form or a precision that this machine or detector has not. That a detector cannot
    have a form is a result, and kept as a record that was skipped.
    """
    subject = find_subject(name, "proxy", conditions.data)
    if subject.kind != "run":
        raise UserError(f"{name}: only a run has an accuracy; allowed: a run's id, as in condensing.fpn-r50.proxy.s0@fused")
    run = run_of(subject, conditions.data)
    folder = places.runs() / "deployed" / f"{subject.label}.{conditions.precision}"
    try:
        record = _tested(subject, replace(conditions, images=1), folder / "predictions.parquet")
    except UserError as error:
        if _never(error):
            _keep_refusal(subject, conditions, run, str(error))
        raise
    found = compare_results(str(folder / "predictions.parquet"), run.id, conditions.data, TESTED)
    change = {f"{one.measure.lower().replace(' ', '_')}_change": [one.difference, one.low, one.high] for one in found.measured}
    record = replace(record, samples={"change": change, "against": run.id}, digest=deployed_digest(record, run.digest))
    write_record(record, folder / "record.json")
    return record, found


def deployed_digest(record: Record, run: str) -> str:
    """What a deployed record rests on: its run, of that digest, and the source of its form and row. Empty for a row that is gone."""
    form = current_digest(record)
    return digest({"run": run, "form": form}, {}) if form else ""


def _never(error: UserError) -> bool:
    """Whether it is the detector that cannot have the form: not the user's conditions, and not a package that is not installed here."""
    return isinstance(error.__cause__, Unavailable) and not isinstance(error.__cause__.__cause__, ImportError)


def _keep_refusal(subject: Subject, conditions: Conditions, run: Run, reason: str) -> None:
    """Write the record of a form that a run cannot have; predictions of an earlier code go, as they are of a form that there no longer is."""
    folder = places.runs() / "deployed" / f"{subject.label}.{conditions.precision}"
    record = replace(_blank(subject, conditions, run), status="skipped", reason=" ".join(reason.split()), samples={"against": run.id})
    (folder / "predictions.parquet").unlink(missing_ok=True)
    write_record(replace(record, digest=deployed_digest(record, run.digest)), folder / "record.json")


def _blank(subject: Subject, conditions: Conditions, run: Run) -> Record:
    """The record before anything was measured."""
    context = machine.source_state() | {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "metrics": metrics_digest(),
        **{key: value for key, value in asdict(conditions).items() if key not in {"images", "rois"}},
        "data": parse_data(conditions.data).name,
    }
    paper, _, tier = subject.name.split(".")[:3]
    name = f"{subject.label}.{conditions.precision}"
    return Record(name, "deployed", paper, subject.row, tier, run.seed, "ok", "", "", {}, context=context)


def artefact(subject: Subject, detector: Any, run: Run) -> dict[str, Any]:
    """The bytes of the files that are deployed, and the operators of exported graphs; a run as it learnt is its file of weights.

    Empty for a form that runs in torch, which has no file.
    """
    if not subject.form:
        return {"bytes": (places.run_folder(run.id) / WEIGHTS).stat().st_size}
    files = getattr(getattr(detector, "graphs", None), "files", ())
    if not files:
        return {}
    read = importlib.import_module(GRAPHS).operators  # found by name: bench imports no implementation
    return {"bytes": sum(path.stat().st_size for path in files), "operators": sorted({each for path in files for each in read(path)})}


def _tested(subject: Subject, conditions: Conditions, path: Any) -> Record:
    from lightning_fabric import Fabric

    from bench.detectors import weights_hash
    from bench.predict import predict
    from bench.timing_process import open_detector

    opened = open_detector(subject, conditions)
    run = run_of(subject, conditions.data)
    run_predictions(run.id, opened.split)  # asked before the test, which takes minutes and is compared with them
    kind = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}[conditions.precision]
    fabric = Fabric(accelerator=opened.runtime.device.type, devices=1, precision=kind)  # type: ignore[arg-type]  # one of its names
    with showing() as show:
        found = predict(fabric, opened.detector, opened.split, on_images=lambda done, whole: show(f"{subject.label}: testing", done / whole))
    values = score_all(write_predictions(path, found), opened.split.ground_truth())
    blank = _blank(subject, conditions, run)
    measured = {
        "data_digest": opened.split.digest,
        "tested_on": opened.split.name,
        "weights": weights_hash(opened.detector),
        "artefact": artefact(subject, opened.detector, run),
    }
    return replace(blank, values=values, context=dict(blank.context) | measured)


def in_json(record: Record) -> str:
    """The record for programs."""
    return json.dumps(asdict(record), indent=1)
