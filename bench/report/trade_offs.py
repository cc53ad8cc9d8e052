"""Which accuracy is set against which cost: a group of plots for each paper, tier and dataset that has an accuracy. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import TYPE_CHECKING

from bench.catalogue import built
from bench.records import machine_of
from bench.report.scatter import Point, scatter

if TYPE_CHECKING:
    from bench.leaderboard import Line
    from bench.records import Record

COSTS = (("params_m", "parameters", "M"), ("macs_g", "multiply-adds", "G"))
SCOPE = "of the whole detector at the paper's scale"  # as the leaderboard has them


@dataclass(frozen=True)
class TradeOffs:
    """The plots of one paper at one tier on one dataset; `missing` says which there are none of, and why."""

    paper: str
    tier: str
    data: str
    plots: tuple[str, ...]
    missing: str


def trade_offs(lines: Sequence[Line], records: Sequence[Record]) -> tuple[TradeOffs, ...]:
    """The groups in the order of the leaderboard."""
    groups: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if not isnan(line.ap) and line.tier:
            groups[line.paper, line.tier, line.data].append(line)
    return tuple(_group(key, found, records) for key, found in groups.items())


def _group(key: tuple[str, str, str], lines: Sequence[Line], records: Sequence[Record]) -> TradeOffs:
    paper, tier, data = key
    references, machines = _references(paper), len({line.machine for line in lines})
    said, plots = f"AP, {tier} tier, {data}", []
    for measure, name, unit in COSTS:
        points = [_point(line, getattr(line, measure), f"{name} {getattr(line, measure):.3f} {unit}", references) for line in lines]
        plots += _plot(f"AP against {name}", points, (f"{name} {SCOPE}, {unit}", said))
    times, unheard = _timed(lines, records), ""
    for machine, found in times.items():
        points = [_point(line, ms, f"latency {ms:.1f} ms on {machine}", references, far=far) for line, ms, far in found]
        plots += _plot(f"AP against latency on {machine}", points, ("median to p90 of the whole detection at the paper's scale, ms", said))
    if not times:
        unheard = f"No latency of these rows is recorded yet: leandet time {paper}.ROW ..."
    more = f"Rows of {machines} machines." if machines > 1 else ""
    return TradeOffs(paper, tier, data, tuple(plots), " ".join(part for part in (unheard, more) if part))


def _plot(title: str, points: Sequence[Point], axes: tuple[str, str]) -> list[str]:
    drawn = [point for point in points if not isnan(point.x)]
    return [scatter(title, drawn, horizontal=axes[0], vertical=axes[1])] if drawn else []


def _point(line: Line, cost: float, said: str, references: frozenset[str], *, far: float = nan) -> Point:
    seeds = (
        f"mean of {line.seeds} seeds, 95 % interval {line.ap_low:.2f} to {line.ap_high:.2f}" if not isnan(line.ap_low) else "one seed, no interval"
    )
    words = f"{line.id} ({line.machine}): AP {line.ap:.2f}, {seeds}; {said}{'; the reference of other rows' if line.row in references else ''}"
    return Point(line.row, words, cost, line.ap, line.ap_low, line.ap_high, far, reference=line.row in references)


def _references(paper: str) -> frozenset[str]:
    """Rows that others of the paper are judged against and that are judged against none."""
    papers = built()
    rows = papers[paper].rows if paper in papers else ()
    return frozenset(row.reference for row in rows if row.reference) & frozenset(row.key for row in rows if not row.reference)


def _timed(lines: Sequence[Line], records: Sequence[Record]) -> Mapping[str, list[tuple[Line, float, float]]]:
    """Machine -> rows with their median time and its 90th percentile (nan: too few samples): the quietest record of each at the paper's scale."""
    best: dict[tuple[str, str, str], Record] = {}
    for record in sorted(records, key=lambda each: (each.context.get("quiet") == "noisy", not each.context.get("rois_given"), each.id)):
        if record.kind == "latency" and record.status == "ok" and record.tier == "paper" and "whole_ms" in record.values:
            best.setdefault((machine_of(record), record.paper, record.row), record)
    found: dict[str, list[tuple[Line, float, float]]] = defaultdict(list)
    for (machine, paper, row), record in sorted(best.items()):
        own = [line for line in lines if (line.paper, line.row) == (paper, row)]
        found[machine] += [(line, record.values["whole_ms"], record.values.get("whole_p90_ms", nan)) for line in own]
    return {machine: rows for machine, rows in found.items() if rows}
