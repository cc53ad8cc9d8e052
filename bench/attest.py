"""Replay what a record keeps of its run: bit-equal, it stands for the code as it is now; otherwise its cells stay stale."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import machine, places
from bench.assemble import open_fabric
from bench.catalogue import built
from bench.datasets import open_split
from bench.devices import on_device
from bench.execute import WEIGHTS, Setup, calibrate, load_weights, opening, prepared, settings_of
from bench.plan import Run, effort_of, row_of, schedule_of
from bench.predict import detections_hash
from bench.records import Record, write_record
from bench.train import REPLAYED, Job, train


@dataclass(frozen=True)
class Replay:
    """What came of a replay: equal or not, and in words what was compared."""

    equal: bool
    said: str


def attest(run: Run, record: Record, path: Path) -> Replay:
    """Replay a record's first steps, and its detections where its weights are at hand; bit-equal adds the run's digest to the file at `path`.

    Only for the same settings under other code: twenty equal steps say nothing about a longer schedule.
    """
    found = _settings(run, record) or (_derived(run, record) if run.kind == "transform" else _losses(run, record))
    if found.equal and run.kind not in {"pretrain", "transform"}:
        found = _with_detections(run, record, found)
    if found.equal and run.digest not in record.digests:
        write_record(replace(record, attested=(*record.attested, run.digest)), path)
    return found


def _settings(run: Run, record: Record) -> Replay | None:
    """What was set otherwise then; None where nothing was. A setting that is new since shows in the replay."""
    now = json.loads(json.dumps(settings_of(run, built())))
    changed = [name for name, value in now.items() if name in record.context and not _holds(value, record.context[name])]
    return Replay(equal=False, said=f"set otherwise then: {', '.join(changed)}") if changed else None


def _holds(now: Any, then: Any) -> bool:
    """Whether all that was set then is set so now."""
    if isinstance(now, dict) and isinstance(then, dict):
        return all(name in now and _holds(now[name], value) for name, value in then.items())
    return bool(now == then)


def _losses(run: Run, record: Record) -> Replay:
    kept = list(record.samples.get("losses", ()))[:REPLAYED]
    if not kept:
        return Replay(equal=False, said="the record keeps no losses")
    with tempfile.TemporaryDirectory(prefix="leandet-") as folder:
        again = _replayed(run, Path(folder), str(record.context.get("precision", machine.precision())))
    if again[: len(kept)] == kept:
        return Replay(equal=True, said=f"{len(kept)} losses equal bit for bit")
    place = next((index for index, pair in enumerate(zip(kept, again, strict=False)) if pair[0] != pair[1]), len(again))
    return Replay(equal=False, said=f"loss {place + 1} differs: {again[place : place + 1]} now, {kept[place]} in the record{_elsewhere(record)}")


def _replayed(run: Run, folder: Path, precision: str) -> list[float]:
    papers = built()
    fabric = open_fabric(precision, effort_of(run, row_of(papers, run)).threads)
    model, split = opening(run, Setup(papers), fabric.device)
    schedule = schedule_of(run, None if run.kind == "pretrain" else papers[run.paper].row(run.row))
    job = Job(folder, schedule, run.seed, stop_after=schedule.batch * REPLAYED)
    return train(fabric, model, split, job).losses


def _with_detections(run: Run, record: Record, found: Replay) -> Replay:
    weights = places.run_folder(run.id) / WEIGHTS
    if not weights.exists() or hashlib.sha256(weights.read_bytes()).hexdigest() != record.samples.get("weights"):
        return Replay(equal=True, said=f"{found.said}; its weights are not here, so its detections were not compared")
    equal = _detections(run, record, trained=True) == record.samples["detections"]
    return Replay(equal=equal, said=f"{found.said}, detections {'equal too' if equal else 'differ'}")


def _derived(run: Run, record: Record) -> Replay:
    equal = _detections(run, record, trained=False) == record.samples["detections"]
    return Replay(equal=equal, said=f"it learns nothing; its detections {'are equal bit for bit' if equal else 'differ'}")


def _detections(run: Run, record: Record, *, trained: bool) -> str:
    fabric = open_fabric(str(record.context.get("precision", machine.precision())), effort_of(run, row_of(built(), run)).threads)
    split = on_device(open_split(run.data, "val"), fabric.device)
    detector = prepared(run, Setup(built()), len(split.classes))
    if trained:
        load_weights(run, detector)
    fabric.setup_module(detector)
    if run.kind == "transform":
        calibrate(detector, on_device(open_split(run.data, "train"), fabric.device))
    return detections_hash(fabric, detector, split)


def _elsewhere(record: Record) -> str:
    """What is different here, as far as it may explain a difference."""
    then, now = record.context.get("versions", {}), machine.versions()
    other = [f"{name} {then.get(name)} then, {now[name]} now" for name in machine.ARITHMETIC if then.get(name) != now[name]]
    there = record.context.get("machine", {}).get("name", "")
    other += [f"made on {there}, this is {machine.describe()['name']}"] if there != machine.describe()["name"] else []
    return f" ({'; '.join(other)})" if other else ""
