"""What `leandet pareto` has found, kept as a record, so that the page shows it and resamples nothing. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench import machine, places
from bench.evidence import MAIN, RUNS, data_of
from bench.pareto import AXES, HEAD, Costs, Field, Gain, Point, beaten_text, standing, texts
from bench.pareto_points import SAMPLES
from bench.plan import slug
from bench.records import Record, machine_of, write_record

if TYPE_CHECKING:
    from pathlib import Path

CLOSE = 1e-6  # points of AP: rounding alone
CSV_HEAD = ("tier", "data", "machine", *HEAD)


@dataclass(frozen=True)
class Kept:
    """A point of a Pareto plot as it was found: with what beats it on each axis, and its difference to the row that it is judged against."""

    point: Point
    beaten: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # axis -> by what; "-": by nothing for certain
    reference: str = ""  # PAPER.ROW
    gain: Gain | None = None  # to the reference


def record_of(known: Field, tier: str) -> Record:
    """All points of a field with their verdicts; the id names tier, data, a length and the machine."""
    points = [_plain(known, point) for point in known.points]
    data = [] if known.data == MAIN else [slug(known.data)]
    length = {"length": known.length} if known.length > 1 else {}
    data += [f"x{known.length}"] * bool(length)
    name = ".".join(("pareto", tier, *data, slug(known.machine) if known.machine else "any"))
    context = machine.source_state() | {
        "data": known.data,
        "machine": {"name": known.machine},
        "timed_on": known.timed_on,
        "versions": machine.versions(),
        "samples": SAMPLES,
        "groups": known.groups,
        **length,
    }
    digest = sha256(json.dumps(points, sort_keys=True).encode()).hexdigest()
    samples = {"points": points, "missing": list(known.missing)}
    return Record(name, "pareto", "", "", tier, 0, "ok", "", digest, {"points": float(len(points))}, samples=samples, context=context)


def keep(known: Field, tier: str) -> Path:
    """Write the record to runs/pareto/<machine>/; where."""
    record = record_of(known, tier)
    path = places.pareto() / (known.machine or "any") / f"{record.id}.json"
    write_record(record, path)
    return path


def _plain(known: Field, point: Point) -> dict[str, Any]:
    """A point as plain values."""
    beaten = {axis: beaten_text(standing(known, axis, point)) for axis in AXES}
    reference = known.references.get(point.id, "")
    gain = known.gain(point.id, reference) if reference else None
    return asdict(point) | {"beaten": beaten, "reference": reference, "gain": None if gain is None else asdict(gain)}


def kept_of(record: Record) -> tuple[Kept, ...]:
    """The points of such a record, in its order."""
    return tuple(_kept(dict(each)) for each in record.samples["points"])


def _kept(values: dict[str, Any]) -> Kept:
    gain = values.pop("gain")
    beaten, reference = values.pop("beaten"), values.pop("reference")
    known = values | {"costs": Costs(**values["costs"]), "interval": tuple(values["interval"]), "notes": tuple(values["notes"])}
    return Kept(Point(**known), beaten, reference, None if gain is None else Gain(**gain | {"interval": tuple(gain["interval"])}))


def pareto_records(records: Sequence[Record]) -> tuple[Record, ...]:
    """Those that hold a field, by id."""
    return tuple(sorted((record for record in records if record.kind == "pareto"), key=lambda record: record.id))


def timed_on(record: Record) -> str:
    """The machine, device and threads of a kept field's times; empty where nothing was timed."""
    return str(record.context.get("timed_on", ""))


def changed(record: Record, records: Sequence[Record]) -> tuple[str, ...]:
    """Ids of the points that are not the mean of the runs that there are now."""
    found: dict[str, list[float]] = {}
    for each in records:
        same = _place(each) == _place(record)
        if each.kind in RUNS and each.status == "ok" and same and "ap" in each.values:
            found.setdefault(f"{each.paper}.{each.row}", []).append(each.values["ap"])
    return tuple(kept.point.id for kept in kept_of(record) if not _same(kept.point, found.get(kept.point.id, [])))


def _place(record: Record) -> tuple[str, str, str]:
    """Where a run or a field stands: the tier, what it learnt from and how long, the machine."""
    return record.tier, data_of(record) or MAIN, machine_of(record)


def _same(point: Point, aps: Sequence[float]) -> bool:
    return len(aps) == point.seeds and abs(fmean(aps) - point.ap) < CLOSE


def csv_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Every point of every kept field as the texts under CSV_HEAD."""
    return [
        (*_place(record), *texts(kept.point, [kept.beaten[axis] for axis in AXES], timed_on(record)))
        for record in pareto_records(records)
        for kept in kept_of(record)
    ]
