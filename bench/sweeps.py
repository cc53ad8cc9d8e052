"""Accuracy over a quantity that rows differ by (sparsity, say): the curve with its intervals, and what its shape says. Pure; no torch.

The numbers are those of `leandet pareto` (bench.pareto_record): mean over seeds, resampled over seeds and images, and paired with the reference.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bench.catalogue import catalogue
from bench.evidence import SEEDS, data_of
from bench.pareto_record import kept_of, pareto_records
from bench.records import machine_of

if TYPE_CHECKING:
    from bench.pareto import Gain
    from bench.pareto_record import Kept
    from bench.published import Published
    from bench.records import Record
    from bench.spec import Series, Sweep

FLAT = 1.0  # points of AP, either way, within which two are equal: as for a claim of equality
LARGE = 0.1  # share of the reference's AP: where a point is more than that, a detector that lost a point has lost much of what it can
HEAD = (
    "paper", "sweep", "series", "tier", "data", "machine", "along", "row", "seeds", "AP", "95 %", "to the reference", "95 % of that", "printed",
    "printed to its reference",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One row on a curve."""

    along: float
    kept: Kept

    @property
    def ap(self) -> float:
        """0..100, mean over seeds."""
        return self.kept.point.ap


@dataclass(frozen=True)
class Line:
    """One series: its rows that have runs, in order; what the paper prints of it, as (where, AP), the reference among them."""

    name: str
    number: int  # its place among the sweep's series
    places: tuple[Place, ...]
    missing: tuple[float, ...]  # where a row has no run yet
    printed: tuple[tuple[float, float], ...]
    shape: str  # what the curve shows, in a sentence

    def printed_at(self, along: float) -> float | None:
        """What is printed there."""
        return dict(self.printed).get(along)


@dataclass(frozen=True)
class Drawn:
    """A sweep at one tier, on one dataset and machine."""

    paper: str
    sweep: Sweep
    tier: str
    data: str
    machine: str
    start: Place  # the reference
    lines: tuple[Line, ...]
    printed: tuple[tuple[float, float], ...]  # of the series that the paper prints, whether it has runs here or not


def sweeps(records: Sequence[Record]) -> tuple[Drawn, ...]:
    """Every sweep of every paper of which a kept field has the reference and a row more, by paper, sweep and field."""
    found = []
    for key, entry in catalogue().items():
        for sweep in entry.paper.sweeps if entry.paper else ():
            fields = ((record, {each.point.id: each for each in kept_of(record)}) for record in pareto_records(records))
            found += [drawn for record, known in fields if (drawn := _drawn(key, sweep, entry.published, record, known=known)) is not None]
    return tuple(found)


def _drawn(paper: str, sweep: Sweep, published: Published, record: Record, *, known: Mapping[str, Kept]) -> Drawn | None:
    where, key = sweep.reference
    start = known.get(f"{paper}.{key}")
    if start is None:
        return None
    first = Place(where, start)
    lines = []
    for number, series in enumerate(sweep.series):
        rows = {along: known.get(f"{paper}.{key}") for along, key in series.rows}
        places = tuple(Place(along, kept) for along, kept in rows.items() if kept is not None)
        missing = tuple(along for along, kept in rows.items() if kept is None)
        if places:
            lines.append(Line(series.name, number, places, missing, _printed(series, published), shape(first, places, sweep, missing)))
    printed = tuple(value for series in sweep.series for value in _printed(series, published))
    about = (record.tier, data_of(record), machine_of(record))
    return Drawn(paper, sweep, *about, first, tuple(lines), printed) if lines else None


def _printed(series: Series, published: Published) -> tuple[tuple[float, float], ...]:
    table, column = series.printed
    if not table:
        return ()
    rows = published.table(table).rows
    values = ((along, rows[place].values[column]) for along, place in series.places)
    return tuple((along, float(value)) for along, value in values if isinstance(value, int | float))


# ---- the shape


def shape(start: Place, places: Sequence[Place], sweep: Sweep, missing: Sequence[float]) -> str:
    """Whether it is flat up to where the paper has it so, falls from there, and has collapsed at its end, in a sentence.

    Flat: every interval of the difference to the reference lies within a point; not flat: one lies wholly outside. Where runs are missing or fewer
    than five, that is said.
    """
    said = [_flat(start, places, sweep.flat_to), _falls(places, sweep.flat_to), _end(start, places, sweep, missing)]
    young = [f"{place.along:g}" for place in (start, *places) if place.kept.point.seeds < SEEDS]
    said += [f"fewer than {SEEDS} seeds, which decide, at {', '.join(young)}"] if young else []
    said += [f"no run at {', '.join(f'{along:g}' for along in missing)} yet"] if missing else []
    return "; ".join(part for part in said if part)


def _flat(start: Place, places: Sequence[Place], limit: float) -> str:
    low = [(place, gain) for place in places if place.along <= limit and (gain := place.kept.gain) is not None]
    if not low:
        return f"nothing is known up to {limit:g}"
    outside = max(low, key=lambda each: _beyond(each[1]))
    flat = all(each.interval[0] > -FLAT and each.interval[1] < FLAT for _, each in low)
    limit = max(place.along for place, _ in low)
    if _beyond(outside[1]) > 0:
        return f"not flat to {limit:g} within a point ({_told(*outside)})"
    told = _told(*min(low, key=lambda each: each[1].interval[0]))
    if start.ap * LARGE < FLAT:
        return f"too young to tell whether it is flat to {limit:g}: a point is much of the reference's {start.ap:.2f} AP ({told})"
    return f"{'flat' if flat else 'not shown to be flat'} to {limit:g} within a point ({told})"


def _beyond(gain: Gain) -> float:
    """By how many points the whole interval lies outside a point either way; zero or less where it does not."""
    return max(-FLAT - gain.interval[1], gain.interval[0] - FLAT)


def _told(place: Place, gain: Gain) -> str:
    least, most = gain.interval
    return f"at {place.along:g} {gain.value:+.2f} [{least:+.2f}, {most:+.2f}]"


def _falls(places: Sequence[Place], limit: float) -> str:
    high = [place for place in places if place.along >= limit]
    if len(high) < 2:
        return ""
    rises = [f"{before.along:g} to {after.along:g}" for before, after in pairwise(high) if after.ap >= before.ap]
    return f"does not fall from {', '.join(rises)}" if rises else f"falls from {limit:g} on at every step"


def _end(start: Place, places: Sequence[Place], sweep: Sweep, missing: Sequence[float]) -> str:
    last = places[-1]
    if missing and max(missing) > last.along:
        return ""
    share = 100 * last.ap / start.ap if start.ap else 0.0
    return f"{'collapsed' if share < sweep.least else 'not collapsed'} at {last.along:g}: {share:.1f} % of the accuracy is left"


# ---- as text


def rows(found: Sequence[Drawn]) -> list[tuple[str, ...]]:
    """Every place of every curve as the texts under HEAD, the reference first."""
    return [_texts(drawn, line, place) for drawn in found for line in drawn.lines for place in (drawn.start, *line.places)]


def as_csv(found: Sequence[Drawn]) -> bytes:
    """sweeps.csv: the same bytes for the same curves."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows(rows(found))
    return text.getvalue().encode()


def _texts(drawn: Drawn, line: Line, place: Place) -> tuple[str, ...]:
    kept, printed, first = place.kept, line.printed_at(place.along), line.printed_at(drawn.start.along)
    gain = kept.gain if place is not drawn.start else None
    return (
        drawn.paper, drawn.sweep.key, line.name, drawn.tier, drawn.data, drawn.machine, f"{place.along:g}", kept.point.id.partition(".")[2],
        str(kept.point.seeds), f"{kept.point.ap:.2f}", "{:.2f} to {:.2f}".format(*kept.point.interval),
        "" if gain is None else f"{gain.value:+.2f}", "" if gain is None else "{:+.2f} to {:+.2f}".format(*gain.interval),
        "" if printed is None else f"{printed:.2f}", "" if printed is None or first is None else f"{printed - first:+.2f}",
    )  # fmt: skip
