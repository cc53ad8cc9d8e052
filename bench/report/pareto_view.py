"""The Pareto plots and tables of the page, and the sweeps, from kept fields: nothing is resampled here. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

from bench.evidence import data_of
from bench.pareto import AXES, UNDECIDED, kind, least_drawn
from bench.pareto_record import changed, kept_of, pareto_records, timed_on
from bench.records import machine_of
from bench.report.scatter import Point, scatter
from bench.report.sweep_plot import sweep_plot
from bench.sweeps import rows as sweep_rows
from bench.sweeps import sweeps

if TYPE_CHECKING:
    from bench.pareto_record import Kept
    from bench.records import Record

# Columns of the table: field of Costs -> its name; the star is explained below the table
COSTS = {
    "stored_mb": "MB", "arithmetic_mb": "MB*", "stored_ratio": "MB/MB*", "macs_g": "GMAC", "effective_macs_g": "GMAC*", "bops_g": "Gbop",
    "effective_bops_g": "Gbop*", "ms": "ms",
}  # fmt: skip
DENSE = {"effective_macs_g": "macs_g", "effective_bops_g": "bops_g"}  # without zeros -> with them
AXIS_NAMES = {"stored_mb": "bytes", "macs_g": "multiply-adds", "ms": "time"}
UNSEEN = {"no": "no kernel", "not timed": "not timed"}  # what stands beside multiply-adds that were only saved on paper


@dataclass(frozen=True)
class Row:
    """One row of the table as texts."""

    id: str
    ap: str
    interval: str
    seeds: int
    costs: tuple[str, ...]
    speedup: str
    beaten: tuple[tuple[str, str], ...]  # (axes, by what)


@dataclass(frozen=True)
class View:
    """One kept field: its plots, its table, and what is to be known of both."""

    id: str  # of the record
    tier: str
    data: str
    machine: str  # what trained the rows
    timed_on: str  # what timed them
    plots: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def views(records: Sequence[Record]) -> tuple[View, ...]:
    """One for each kept field, by its id."""
    return tuple(_view(record, records) for record in pareto_records(records))


def _view(record: Record, records: Sequence[Record]) -> View:
    kept = kept_of(record)
    timed = timed_on(record)
    named = AXES | ({"ms": f"{AXES['ms']} on {timed}"} if timed else {})
    plots = [_plot(kept, axis, named[axis]) for axis in AXES if any(getattr(each.point.costs, axis) for each in kept)]
    untimed = () if any(each.point.costs.ms for each in kept) else ("No row was timed with these weights, so there is no plot against time",)
    old = changed(record, records)
    stale = f"{', '.join(old[:5])}{' and others' if len(old) > 5 else ''}: made anew since; next: leandet pareto --tier {record.tier}" if old else ""
    least = least_drawn([each.point for each in kept])
    low = sum(each.point.ap < least for each in kept)
    undrawn = (f"{low} rows below {least:.1f} AP, half of the best, stand in the table alone",) if low else ()
    notes = (*untimed, *undrawn, *(str(said) for said in record.samples["missing"]), *((stale,) if stale else ()))
    return View(record.id, record.tier, data_of(record), machine_of(record), timed, tuple(plots), tuple(map(_row, kept)), notes)


def _plot(kept: Sequence[Kept], axis: str, named: str) -> str:
    least = least_drawn([each.point for each in kept])
    points = [_point(each, axis) for each in kept if getattr(each.point.costs, axis) and each.point.ap >= least]
    return scatter(f"AP against {AXIS_NAMES[axis]}", points, horizontal=named, vertical="AP", logarithmic=True)


def _point(each: Kept, axis: str) -> Point:
    point, (low, high), by = each.point, each.point.interval, each.beaten[axis]
    found = kind(by)
    said = f"{point.id}: AP {point.ap:.2f} [{low:.2f}, {high:.2f}], {getattr(point.costs, axis):.4g} {AXES[axis]}"
    words = {
        "front": "beaten by nothing for certain",
        "undecided": f"undecided, may be beaten by {by.removeprefix(UNDECIDED)}",
        "beaten": f"beaten by {by}",
    }
    name, standing = "" if found == "beaten" else point.id.partition(".")[2], "" if found == "front" else found
    return Point(name, f"{said}; {words[found]}", getattr(point.costs, axis), point.ap, low, high, nan, standing=standing)


def _row(each: Kept) -> Row:
    point, (low, high) = each.point, each.point.interval
    costs = tuple(_cost(each, name) for name in COSTS)
    by = dict.fromkeys(text for text in each.beaten.values() if text not in {"", "-"})
    beaten = tuple((", ".join(AXIS_NAMES[axis] for axis in AXES if each.beaten[axis] == text), text) for text in by)
    return Row(point.id, f"{point.ap:.2f}", f"{low:.1f} to {high:.1f}", point.seeds, costs, point.speedup, beaten)


def _cost(each: Kept, name: str) -> str:
    """Four digits that count; multiply-adds that no clock has seen saved say so."""
    value = getattr(each.point.costs, name)
    if value is None:
        return ""
    dense = getattr(each.point.costs, DENSE[name]) if name in DENSE else None
    saved = dense is not None and value < dense
    return f"{value:.4g}" + (f" ({UNSEEN[each.point.speedup]})" if saved and each.point.speedup in UNSEEN else "")


# ---- sweeps


@dataclass(frozen=True)
class Swept:
    """The sweeps of one paper in one kept field: plots, what each series shows, and the table."""

    paper: str
    tier: str
    data: str
    machine: str
    plots: tuple[str, ...]
    shapes: tuple[tuple[str, str], ...]  # (sweep and series, what its shape is)
    rows: tuple[tuple[str, ...], ...]  # texts: sweep, series, and what follows the machine in bench.sweeps.HEAD


def swept(records: Sequence[Record]) -> tuple[Swept, ...]:
    """One for each paper and field that has a sweep."""
    found = sweeps(records)
    keys = dict.fromkeys((each.paper, each.tier, each.data, each.machine) for each in found)
    out = []
    for key in keys:
        own = [each for each in found if (each.paper, each.tier, each.data, each.machine) == key]
        shapes = tuple((f"{each.sweep.title}, {line.name}", line.shape) for each in own for line in each.lines)
        out.append(Swept(*key, tuple(map(sweep_plot, own)), shapes, tuple((*row[1:3], *row[6:]) for row in sweep_rows(own))))
    return tuple(out)
