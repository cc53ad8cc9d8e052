"""The standings: one line a row, tier, data and machine, from all records; a number has one home, and this is a rendering of it. No torch."""
# ruff: noqa: PD011 - a record's values are a mapping, not a column of pandas

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from math import isnan, nan, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from bench.evidence import RUNS, machine_of
from bench.spec import TIERS
from bench.verdicts import WORDS

if TYPE_CHECKING:
    import pandas as pd
    from pandera.pandas import DataFrameSchema

    from bench.records import Record
    from bench.tables import Outcome

SCORED = (*RUNS, "score")
ACCURACIES = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "voc_ap50")
COSTS = ("params_m", "size_mb", "macs_g")
# Student's t at 97.5 %, by degrees of freedom (seeds - 1); beyond, the normal's
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

Key = tuple[str, str, str, str, str]  # paper, row, tier, data, machine


@dataclass(frozen=True)
class Line:
    """A row at a tier, on one dataset and machine. AP in 0..100, mean over seeds; costs of the paper's own scale; nan where there is none."""

    id: str  # "condensing.k16-l5.proxy"; what `leandet rerun --row` takes
    rank: float  # by AP among the lines of the same tier and data that have one; never averaged over what is missing
    paper: str
    row: str
    tier: str  # empty: counted, never run
    data: str
    machine: str
    seeds: int
    status: str  # "ok", or why there is no number
    ap: float
    ap_low: float  # 95 % over seeds; nan with one seed
    ap_high: float
    ap50: float
    ap75: float
    ap_s: float
    ap_m: float
    ap_l: float
    voc_ap50: float
    params_m: float
    size_mb: float
    macs_g: float
    digest: str  # of the first seed's run, 12 hexadecimal digits
    commit: str
    outcomes: str  # of this row's published cells, counted: "reproduced 3; undecided 1"


def lines(records: Iterable[Record], outcomes: Iterable[Outcome] = ()) -> tuple[Line, ...]:
    """Every line, best first within a tier and its data; those without an AP last, by id."""
    groups: dict[Key, list[Record]] = defaultdict(list)
    costs: dict[tuple[str, str], Record] = {}
    for record in records:
        if record.kind == "cost":
            costs[record.paper, record.row] = record
        elif record.kind in SCORED:
            groups[_key(record)].append(record)
    ran = {(paper, row) for paper, row, *_ in groups}
    groups.update({(*pair, "", "", ""): [] for pair in costs if pair not in ran})
    counts = _counts(outcomes)
    return _ranked([_line(key, group, costs.get(key[:2]), counts.get(key[:2], "")) for key, group in groups.items()])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the mean over seeds, by Student's t; nan with fewer than two."""
    if len(values) < 2:
        return nan, nan
    half = STUDENT.get(len(values) - 1, 1.96) * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def _key(record: Record) -> Key:
    return record.paper, record.row, record.tier, str(record.context.get("data", "")), machine_of(record)


def _line(key: Key, group: list[Record], cost: Record | None, counts: str) -> Line:
    paper, row, tier, data, machine = key
    good = sorted((record for record in group if record.status == "ok"), key=lambda record: record.seed)
    bad = [f"{record.status}: {record.reason}" for record in group if record.status != "ok"]
    low, high = interval([record.values["ap"] for record in good if "ap" in record.values])
    first = good[0] if good else cost
    named = ".".join(part for part in (paper, row, tier) if part)
    return Line(
        id=named, rank=nan, paper=paper, row=row, tier=tier, data=data, machine=machine, seeds=len(good),
        status="ok" if good else bad[0] if bad else "counted, not run",
        ap_low=low, ap_high=high,
        digest=first.digest[:12] if first else "", commit=str(first.context.get("commit", ""))[:12] if first else "", outcomes=counts,
        **{measure: _mean(good, measure) for measure in ACCURACIES},
        **{measure: cost.values.get(measure, nan) if cost else nan for measure in COSTS},
    )  # fmt: skip


def _mean(records: Sequence[Record], measure: str) -> float:
    values = [record.values[measure] for record in records if measure in record.values]
    return fmean(values) if values and len(values) == len(records) else nan


def _counts(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], str]:
    counted: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        counted[outcome.paper, outcome.key][outcome.outcome] += 1
    return {pair: "; ".join(f"{word} {words[word]}" for word in WORDS if words[word]) for pair, words in counted.items()}


def _ranked(found: list[Line]) -> tuple[Line, ...]:
    ordered = sorted(found, key=_place)
    places: Counter[tuple[str, str]] = Counter()
    ranked = []
    for line in ordered:
        if isnan(line.ap):
            ranked.append(line)
            continue
        places[line.tier, line.data] += 1
        ranked.append(Line(**{**asdict(line), "rank": float(places[line.tier, line.data])}))
    return tuple(ranked)


def _place(line: Line) -> tuple[int, str, bool, float, str, str]:
    """The largest tier first, what was only counted last; within a tier and its data the best first."""
    tier = -TIERS.index(line.tier) if line.tier in TIERS else 1
    return tier, line.data, isnan(line.ap), 0.0 if isnan(line.ap) else -line.ap, line.id, line.machine


# ---- the published CSV


def schema() -> DataFrameSchema:
    """What leaderboard.csv may hold: the unit is in each name, and each number in its range."""
    from pandera.pandas import Check, Column, DataFrameSchema

    percent = Check.in_range(0, 100)
    numbers = {name: Column(float, percent, nullable=True) for name in ACCURACIES}
    numbers |= {name: Column(float, Check.ge(0), nullable=True) for name in COSTS}
    numbers |= {"rank": Column(float, Check.ge(1), nullable=True), "seeds": Column(int, Check.in_range(0, 1000))}
    numbers |= {name: Column(float, nullable=True) for name in ("ap_low", "ap_high")}
    texts = {field.name: Column(str) for field in fields(Line) if field.name not in numbers}
    texts["tier"] = Column(str, Check.isin(["", "smoke", "proxy", "real", "paper"]))
    texts["id"] = Column(str, Check.str_length(min_value=1))
    ordered = {field.name: ({**numbers, **texts})[field.name] for field in fields(Line)}
    inside = Check(lambda frame: frame.ap.isna() | frame.ap_low.isna() | ((frame.ap_low <= frame.ap) & (frame.ap <= frame.ap_high)))
    return DataFrameSchema(ordered, checks=inside, strict=True, ordered=True, unique=["id", "data", "machine"])


def frame(found: Sequence[Line]) -> pd.DataFrame:
    """The lines as a table that fits the schema; SchemaError names the first cell that does not."""
    import pandas as pd

    data = {field.name: [getattr(line, field.name) for line in found] for field in fields(Line)}
    kinds: dict[str, Any] = {name: str(column.dtype) for name, column in schema().columns.items()}
    table = pd.DataFrame({name: pd.Series(values, dtype="object" if kinds[name] == "str" else kinds[name]) for name, values in data.items()})
    return schema().validate(table)


def as_csv(found: Sequence[Line]) -> bytes:
    """leaderboard.csv: validated, three digits after the point, the same bytes for the same lines."""
    text: str = frame(found).to_csv(index=False, lineterminator="\n", float_format="%.3f")
    return text.encode()
