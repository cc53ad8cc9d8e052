"""Latency records: medians, percentiles that the count supports, ratios, marks; the raw samples beside them as Parquet. No torch."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench import adapters, machine, places
from bench.datasets.source import parse_data
from bench.digest import Place, callables, closure, digest, places_of
from bench.percentiles import PERCENTILES, bound
from bench.plan import file_hash
from bench.records import Record, write_atomically, write_record
from bench.subjects import DEPLOY, Subject, row_of
from bench.timing import Lane, Session
from bench.two_samples import ratio_of_medians
from bench.types import UserError
from bench.watching import SPREAD, UNKNOWN

PHASES = ("prepare_ms", "network_ms", "finish_ms", "whole_ms")
COMPARED = ("network_ms", "whole_ms")
MACS = ("macs_g", "macs_fixed_g", "macs_per_roi_g", "params_m", "size_mb")
LAST = 10  # warm-up samples whose spread is looked at


def records_of(session: Session) -> tuple[Record, ...]:
    """A record a lane; ratios are to the first lane that did not fail."""
    first = next((lane for lane in session.lanes if not lane.failed), None)
    return tuple(_record(session, lane, first if lane is not first else None) for lane in session.lanes)


def keep(session: Session) -> tuple[Record, ...]:
    """Write the session's records and samples to runs/latency/<machine>/; what was there under another key stays as it is."""
    records = records_of(session)
    for record, lane in zip(records, session.lanes, strict=True):
        path = places.latencies() / str(record.context["machine"]["name"]) / f"{record.id}.json"
        if lane.samples or lane.warmed:
            write_atomically(path.with_suffix(".parquet"), samples_parquet(lane))
        write_record(record, path)
    return records


def _record(session: Session, lane: Lane, reference: Lane | None) -> Record:
    subject, context = lane.subject, _context(session, lane, reference)
    paper, row = subject.place
    seed = int(subject.name.rsplit(".s", 1)[1].split(".")[0]) if subject.kind == "run" else 0
    tier = "" if subject.foreign else subject.tier
    status, values = ("failed", {}) if lane.failed else ("ok", _values(session, lane, reference))
    name = f"{subject.label}.latency.{key(context)}"
    return Record(name, "latency", paper, row, tier, seed, status, lane.failed, subject_digest(subject), values, context=context)  # type: ignore[arg-type]


# ---- what names a record

KEYED = ("weights", "image_list", "images", "device", "gpu", "precision", "threads", "rois_given", "memory_format", "quick", "against")


def key(context: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of all that makes two latencies of one name different things: weights, machine, images, conditions, reference."""
    named = {name: context[name] for name in KEYED} | {"machine": context["machine"]["name"], "torch": context["versions"]["torch"]}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]


def subject_digest(subject: Subject) -> str:
    """Of the meter's source and the detector's."""
    meter = (("bench.meters.latency", "time_image"), ("bench.meters.rois", "hold_rois"))
    if subject.kind == "file":
        return digest({"file": file_hash(Path(subject.name.rsplit(":", 1)[0]))}, closure(meter))
    if subject.kind == "adapter":
        return adapter_digest(subject, meter)
    row = row_of(subject)
    settings = {"kind": "latency", "tier": subject.tier, "row": row.build, "arguments": row.arguments, "setting": row.setting}
    deployed = (DEPLOY[subject.form],) if subject.form else ()
    return digest(
        settings | ({"form": subject.form} if deployed else {}), closure((*meter, *deployed, *places_of(callables([row.build, row.arguments]))))
    )


def adapter_digest(subject: Subject, start: Sequence[Place] = ()) -> str:
    """Of the adapter's source and its framework's versions, and of what is measured with."""
    adapter = adapters.ready_adapter(subject.name)
    settings = {"adapter": subject.label, "versions": adapters.framework_versions(adapter), "source": adapters.source_of(subject.name)}
    return digest(settings, closure((*start, *places_of([adapter.build]))))


def current_digest(record: Record) -> str:
    """What a latency record's digest would be now; empty for what is no paper's, which may lie anywhere, and for a row that is gone."""
    if record.paper == "file" or record.context.get("adapter"):
        return ""
    try:
        row, *manner = record.row.split("@")
        form = next((each for each in manner if each in DEPLOY), "")
        return subject_digest(Subject(f"{record.paper}.{row}", record.tier, form))
    except UserError:
        return ""


def _frameworks(subject: Subject) -> dict[str, str]:
    """The versions that an adapter's detector rests on beside those that all numbers do."""
    return adapters.framework_versions(adapters.find_adapter(adapters.parts_of(subject.name)[0])) if subject.kind == "adapter" else {}


def _context(session: Session, lane: Lane, reference: Lane | None) -> dict[str, Any]:
    """What a latency may not travel without."""
    given, facts = session.conditions, lane.facts
    return machine.source_state() | {
        "machine": machine.describe(),
        "versions": machine.versions() | _frameworks(lane.subject),
        "data": parse_data(given.data).name,
        "image_list": session.image_list or UNKNOWN,
        "images": given.images,
        "batch": 1,
        "input": lane.warmed.get("input", UNKNOWN),  # height and width of the first image as the network sees it, padding left out
        "weights": facts.get("weights", UNKNOWN),
        "trained": lane.subject.kind == "run",
        "weights_file": facts.get("weights_file", ""),  # the hash that the run's own record has of its weights; empty for what is no run
        "weights_from": facts.get("weights_from", UNKNOWN),
        **({"adapter": lane.subject.name.partition(":")[0]} if lane.subject.kind == "adapter" else {}),
        **({"detector": lane.subject.told} if lane.subject.foreign else {}),
        **({"size": given.size} if given.size else {}),
        "device": facts.get("device", given.device),
        "gpu": facts.get("gpu", ""),
        "precision": given.precision,
        "threads": facts.get("threads", given.threads),
        "memory_format": lane.warmed.get("formats", UNKNOWN),
        "rois_given": given.rois,  # 0: each detector's own
        "quick": session.manner.quick,
        "turns": [each.subject.label for each in session.lanes],
        "against": [reference.subject.label, reference.facts["weights"]] if reference else [],
        "samples": len(lane.samples),
        "warm_up": {"samples": len(lane.warmed.get("samples_ms", ())), "steady": lane.warmed.get("steady", False)},
        "seen": asdict(session.seen),
        "quiet": verdict(session, lane),
        "marks": marks(session, lane),
        "audits": lane.findings if session.manner.audit else "not asked for",
        "unknown": lane.macs.get("unknown", []),  # operators without a formula: if there are any, macs_g is a lower bound
    }


# ---- numbers


def column(lane: Lane, name: str, rounds: Sequence[int] | None = None) -> list[float]:
    """One phase's times in ms, or those of these rounds; "whole_ms" is the sum of the three."""
    parts = PHASES[:3] if name == "whole_ms" else (name,)
    return [sum(sample[part] for part in parts) for sample in lane.samples if rounds is None or sample["round"] in rounds]


def _values(session: Session, lane: Lane, reference: Lane | None) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in PHASES:
        times, stem = column(lane, name), name.removesuffix("_ms")
        values[name] = median(times)
        bounds = {} if session.manner.quick else {percentile: bound(times, percentile) for percentile in PERCENTILES}
        values |= {f"{stem}_p{percentile}_ms": value for percentile, value in bounds.items() if value is not None}
    for name in ("rois", "detections"):
        counts = [sample[name] for sample in lane.samples if sample[name] is not None]
        values |= {name: float(median(counts))} if counts else {}
    values |= lane.memory | {name: lane.macs[name] for name in MACS if name in lane.macs}
    return values | (ratios(lane, reference) if reference else {})


def ratios(lane: Lane, reference: Lane) -> dict[str, float]:
    """Medians of this lane over the reference's, with intervals, over the rounds that both have."""
    rounds = sorted({sample["round"] for sample in lane.samples} & {sample["round"] for sample in reference.samples})
    found: dict[str, float] = {}
    for name in COMPARED if rounds else ():
        ratio, stem = ratio_of_medians(column(lane, name, rounds), column(reference, name, rounds)), name.removesuffix("_ms")
        found |= {f"{stem}_ratio": ratio.value, f"{stem}_ratio_low": ratio.low, f"{stem}_ratio_high": ratio.high}
    return found


# ---- marks


def spread(samples: Sequence[float]) -> float:
    """Quartile range over median of one image's last warm-up samples; 0 where there are too few to say."""
    last = sorted(samples[-LAST:])
    if len(last) < LAST:
        return 0.0
    low, _, high = quantiles(last, n=4)
    return (high - low) / median(last)


def marks(session: Session, lane: Lane) -> list[str]:
    """What a reader of the row must know: a noisy row is marked, never dropped."""
    found = [f"noisy: {reason}" for reason in session.seen.noise()]
    wide = spread(lane.warmed.get("samples_ms", ()))
    found += [f"noisy: the same image varies by {100 * wide:.0f} %"] if wide > SPREAD else []
    found += ["quick"] if session.manner.quick else []
    if lane.warmed and not lane.warmed["steady"] and not session.manner.quick:
        found.append(f"not steady after {len(lane.warmed['samples_ms'])} warm-up images")
    found += [f"cannot tell: {name}" for name in session.seen.unread()] + lane.notes
    return found + [f"audit {finding['audit']}: {finding['said']}" for finding in lane.findings]


def verdict(session: Session, lane: Lane) -> str:
    """Whether it was quiet: "noisy", "unknown" where something could not be read, "ok" only where all was read and nothing seen."""
    if session.seen.noise() or spread(lane.warmed.get("samples_ms", ())) > SPREAD:
        return "noisy"
    return UNKNOWN if session.seen.unread() else "ok"


# ---- raw samples


def samples_parquet(lane: Lane) -> bytes:
    """Every sample, the warm-up's too (phase "warm", whole times alone); times in ms."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    warm = [{"phase": "warm", "round": place, "whole_ms": time} for place, time in enumerate(lane.warmed.get("samples_ms", ()))]
    rows = warm + [{"phase": "measured", **sample, "whole_ms": sum(sample[name] for name in PHASES[:3])} for sample in lane.samples]
    whole = ("round", "height", "width", "rois", "detections")
    kinds = {"phase": pa.string(), "image": pa.string()} | dict.fromkeys(whole, pa.int32()) | dict.fromkeys(PHASES, pa.float64())
    table = pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()})
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()
