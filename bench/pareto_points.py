"""From stored records and predictions to the points of the Pareto plots, with the paired differences of all pairs. No torch but to count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from itertools import combinations
from typing import TYPE_CHECKING

from bench.catalogue import built
from bench.evidence import MAIN, RUNS, SEEDS, Evidence, length_of
from bench.pareto import Costs, Field, Gain, Interval, Pair, Point, best_first
from bench.pareto_times import Times, Turn, times_of
from bench.plan import canonical, slug
from bench.published import Published
from bench.records import machine_of
from bench.speedup import source_of, speedup_of
from bench.types import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from bench.datasets.source import Data
    from bench.gather import Stored
    from bench.records import Record
    from bench.spec import Paper, Row, Tier
    from bench.types import GroundTruth

    Tables = Mapping[int, NDArray[np.float64]]  # by seed: (1 + B,) AP on all images, then on each resample

SAMPLES = 1000


@dataclass(frozen=True)
class Question:
    """Which runs are asked for: of one tier, on one dataset, of one machine (empty: the one with the most) and one length (0: what most have)."""

    tier: Tier = "proxy"
    data: str = MAIN  # as after --data
    machine: str = ""
    rows: tuple[str, ...] = ()  # PAPER.ROW; none: all
    length: int = 0  # times the tier's schedule


@dataclass(frozen=True)
class _Trained:
    """A row with its runs that ended well, and each one's predictions."""

    paper: Paper
    row: Row
    records: tuple[Record, ...]
    predictions: Mapping[str, Path]  # by record id

    @property
    def id(self) -> str:
        return f"{self.paper.key}.{self.row.key}"


def field_of(stored: Sequence[Stored], question: Question, digests: Mapping[str, str] | None = None) -> Field:
    """Every row that has runs there; UserError where none has, and for a row that there is not."""
    from bench.datasets import open_split, parse_data

    _known(question.rows)
    data = parse_data(question.data)
    ran = [each for each in stored if _is_run(each.record, question.tier, data.name)]
    machine = _machine([each.record for each in ran], question)
    ran = [each for each in ran if machine_of(each.record) == machine]
    ran, length, elsewhere = _of_one_length(ran, question)
    times = times_of([each.record for each in ran], stored)
    split = open_split(data, "test")
    trained = [_on_same_images(each, split.digest) for each in _trained(ran, question, data.name)]
    trained = [each for each in trained if each.records]
    groups = _groups(data)
    tables = {each.id: _tables(each, split.ground_truth(), groups) for each in trained}
    points = [_point(each, tables[each.id], len(split.classes), times, digests) for each in trained]
    known = _with_times(Field(best_first(points), _gains(tables), references=_references(trained)), times)
    known = replace(known, data=data.name, length=length, machine=machine, groups=len(split) if groups is None else int(groups.max()) + 1)
    return replace(known, missing=(*elsewhere, *_missing(known, question, times)))


def _with_times(known: Field, times: Times) -> Field:
    """The field with the ratios of its pairs, and the name of the clock where it timed one of its rows."""
    there = {point.id for point in known.points}
    found = {pair: time for pair, time in times.ratios().items() if there.issuperset(pair)}
    ratios = {pair: (time.ratio.low, time.ratio.high) for pair, time in found.items()}
    timed_on = times.clock if any(point.costs.ms is not None for point in known.points) else ""
    return replace(known, ratios=ratios, noisy=frozenset(pair for pair, time in found.items() if time.noisy), timed_on=timed_on)


def _groups(data: Data) -> NDArray[np.int64] | None:
    """Which images are drawn together, as frames of a clip are; None where each is alone."""
    import numpy as np

    from bench.datasets.groups import groups_of

    found = groups_of(data, "test") if data.parts else None
    return np.array(found.numbers(), np.int64) if found is not None and found.rule else None


def _references(trained: Sequence[_Trained]) -> dict[str, str]:
    """Id -> id of the row that it is judged against, or was made from."""
    named = {each.id: source_of(each.paper.key, each.row) for each in trained}
    return {own: other for own, other in named.items() if other}


def _known(rows: Iterable[str]) -> None:
    """UserError for a name that no paper has a row of."""
    there = [f"{key}.{row.key}" for key, paper in built().items() for row in paper.rows if row.build is not None]
    for name in rows:
        if name not in there:
            near = ", ".join(get_close_matches(name, there, 3, 0.3)) or "`leandet list` shows the papers"
            raise UserError(f"--rows {name!r}: there is no such row; allowed: PAPER.ROW, as in {near}")


def _is_run(record: Record, tier: str, data: str) -> bool:
    return record.kind in RUNS and record.status == "ok" and record.tier == tier and record.context.get("data", MAIN) == data


def _machine(records: Sequence[Record], question: Question) -> str:
    counted = Counter(machine_of(record) for record in records)
    if not counted:
        raise UserError(f"pareto: no run at the {question.tier} tier on {question.data}; next: leandet run PAPER --tier {question.tier}")
    if question.machine and question.machine not in counted:
        raise UserError(f"--machine {question.machine!r}: has no run there; allowed: {', '.join(sorted(counted))}")
    return question.machine or min(counted, key=lambda name: (-counted[name], name))


def _of_one_length(ran: Sequence[Stored], question: Question) -> tuple[list[Stored], int, tuple[str, ...]]:
    """Those of one length, that length, and how many others there are: rows of different lengths do not stand side by side.

    UserError for a length that none has. Where none is asked for, that of the most of the rows that are; of as many the longer.
    """
    named = [each for each in ran if not question.rows or f"{each.record.paper}.{each.record.row}" in question.rows]
    counted = Counter(length_of(each.record) for each in named or ran)
    if question.length and question.length not in counted:
        raise UserError(f"--length {question.length}: no run learnt so long; allowed: {', '.join(map(str, sorted(counted)))}")
    length = question.length or max(counted, key=lambda length: (counted[length], length))
    others = sum(counted.values()) - counted[length]
    said = (f"{others} runs of other lengths than x{length} are left out: --length takes another",) * bool(others)
    return [each for each in ran if length_of(each.record) == length], length, said


def _trained(stored: Sequence[Stored], question: Question, data: str) -> Iterator[_Trained]:
    """Each row that has runs, a twin's under the name of the first."""
    where = {each.record.id: each.predictions for each in stored if each.predictions is not None}
    for key, paper in built().items():
        evidence = Evidence(paper, Published(key, "", "", (), (), ()), tuple(each.record for each in stored if each.record.paper == key), data=data)
        for row in paper.rows:
            chosen = f"{key}.{row.key}" in question.rows if question.rows else row.key not in bodies(paper)
            runs = tuple(record for record in evidence.runs(row.key, question.tier) if record.id in where) if chosen else ()
            if runs and canonical(paper, row.key, question.tier) == row.key:
                yield _Trained(paper, row, runs, {record.id: where[record.id] for record in runs})


def bodies(paper: Paper) -> frozenset[str]:
    """Rows that are trained for others to start from: they learn longer than what they would be compared with."""
    return frozenset(row.body for row in paper.rows)


def _on_same_images(trained: _Trained, digest: str) -> _Trained:
    """Without the runs that were tested on other images than these."""
    return replace(trained, records=tuple(record for record in trained.records if record.context.get("data_digest", digest) == digest))


def _tables(trained: _Trained, truth: GroundTruth, groups: NDArray[np.int64] | None) -> Tables:
    from bench.metrics.bootstrap import resampled
    from bench.metrics.matches import coco_matches
    from bench.metrics.store import read_predictions

    runs = [coco_matches(read_predictions(trained.predictions[record.id]), truth) for record in trained.records]
    return {record.seed: table for record, table in zip(trained.records, resampled(runs, samples=SAMPLES, groups=groups), strict=True)}


def _spread(rows: Iterable[NDArray[np.float64]]) -> tuple[float, Interval]:
    import numpy as np

    from bench.metrics.bootstrap import over_seeds

    found = over_seeds(np.stack(list(rows)))
    return found.difference, (found.low, found.high)


def _gains(tables: Mapping[str, Tables]) -> dict[Pair, Gain]:
    """Of every pair of rows that share a seed: first minus second, resampled together."""
    found = {}
    for first, second in combinations(sorted(tables), 2):
        shared = sorted(tables[first].keys() & tables[second].keys())
        if shared:
            value, interval = _spread(tables[first][seed] - tables[second][seed] for seed in shared)
            found[first, second] = Gain(value, interval, len(shared))
    return found


def _point(trained: _Trained, tables: Tables, classes: int, times: Times, digests: Mapping[str, str] | None) -> Point:
    value, interval = _spread(tables.values())
    first = trained.records[0]
    timed, source = times.turn(trained.id), source_of(trained.paper.key, trained.row)
    speedup = speedup_of(first, source, times.of_pair(trained.id, source))
    notes = [speedup.reason] if speedup else []
    notes += ["one seed: its interval is over images alone"] if len(tables) == 1 else []
    notes += ["made by other code since"] if _stale(first, digests) else []
    notes += _timing_notes(timed, digests)
    return Point(trained.id, value, interval, len(tables), _costs(trained, classes, timed), speedup.word if speedup else "", tuple(notes))


def _timing_notes(timed: Turn | None, digests: Mapping[str, str] | None) -> list[str]:
    if timed is None:
        return []
    noisy = [f"timed in a noisy session: {timed.record.id}"] if timed.noisy else []
    return noisy + (["timed with other code since"] if _stale(timed.record, digests) else [])


def _stale(record: Record, digests: Mapping[str, str] | None) -> bool:
    return digests is not None and digests.get(record.id, record.digest) not in record.digests


def _costs(trained: _Trained, classes: int, timed: Turn | None) -> Costs:
    """Of the record where it holds them, else counted; both at the tier's own scale."""
    values = trained.records[0].values
    if "own_macs_g" not in values:
        from bench.own_costs import own_costs

        values = own_costs(trained.row, trained.records[0].tier, classes)  # type: ignore[arg-type]  # a record's tier is one
    counted = {each.name: values.get(f"own_{each.name}") for each in fields(Costs) if each.name != "ms"}
    return Costs(**counted, ms=None if timed is None else timed.record.values["whole_ms"])


# ---- what is not there


def _missing(known: Field, question: Question, times: Times) -> Iterator[str]:
    there = {point.id for point in known.points}
    for key, paper in built().items():
        own = [row for row in paper.rows if row.build is not None and row.recipe and row.key not in bodies(paper)]
        rows = [row for row in own if canonical(paper, row.key, question.tier) == row.key]
        ran = sum(f"{key}.{row.key}" in there for row in rows)
        if ran < len(rows):
            some = f"runs of {ran} of {len(rows)} rows" if ran else f"no run of its {len(rows)} rows"
            yield f"{key}: {some} at the {question.tier} tier on {known.machine}"
    yield from _untimed(known, question, times)
    young = sum(point.seeds < SEEDS for point in known.points)
    if young:
        yield f"{young} of {len(known.points)} rows have fewer than {SEEDS} seeds: what may beat them, and what they may beat, is undecided"


def _untimed(known: Field, question: Question, times: Times) -> Iterator[str]:
    untimed = [point.id for point in known.points if point.costs.ms is None]
    if untimed:
        data = ("" if known.data == MAIN else f".{slug(known.data)}") + (f".x{known.length}" if known.length > 1 else "")
        shown = " ".join(f"{name}.{question.tier}{data}.s0" for name in untimed[:3])
        where = f" on {known.timed_on}" if known.timed_on else ""
        more = " ..." * (len(untimed) > 3)
        yield f"{len(untimed)} of {len(known.points)} rows were not timed with their weights{where}: leandet time {shown}{more}"
    if times.overtaken:
        yield f"{len(times.overtaken)} latencies are of other weights than these runs have, and do not count: {', '.join(times.overtaken)}"
