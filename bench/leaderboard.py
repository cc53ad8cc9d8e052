"""The standings: one line a row, tier, data and machine, from all records; a number has one home, and this is a rendering of it. No torch."""
# ruff: noqa: PD011 - a record's values are a mapping, not a column of pandas

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from math import isnan, nan, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from bench.evidence import MAIN, RUNS, data_of
from bench.records import machine_of
from bench.spec import TIERS
from bench.verdicts import WORDS

if TYPE_CHECKING:
    import pandas as pd
    from pandera.pandas import Check, DataFrameSchema

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
    """A row at a tier, on one dataset and machine. AP in 0..100, mean over seeds; nan where there is none.

    Costs are of the whole detector at the paper's own scale,
    whatever part of it the paper's tables count, so that rows of several papers can be compared.
    """

    id: str  # "condensing.k16-l5.proxy"; what `leandet rerun --row` takes
    # The best and the worst place that the 95 % intervals of AP leave open among the lines of the same tier and data that have one: a line stands
    # above another only where its whole interval does. Equal numbers are a sure place, a range is a tie; nan: no interval (one seed, or none).
    rank: float
    rank_to: float
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
    leandet: str  # versions that made the first seed's run
    torch: str
    outcomes: str  # of this row's published cells where they are judged, counted: "reproduced 3; undecided 1"


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
    return ranked([_line(key, group, costs.get(key[:2]), counts(key)) for key, group in groups.items()])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the mean over seeds, by Student's t; nan with fewer than two."""
    if len(values) < 2:
        return nan, nan
    half = STUDENT.get(len(values) - 1, 1.96) * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def _key(record: Record) -> Key:
    return record.paper, record.row, record.tier, data_of(record), machine_of(record)


def _line(key: Key, group: list[Record], cost: Record | None, counts: str) -> Line:
    paper, row, tier, data, machine = key
    good = sorted((record for record in group if record.status == "ok"), key=lambda record: record.seed)
    bad = [f"{record.status}: {record.reason}" for record in group if record.status != "ok"]
    low, high = interval([record.values["ap"] for record in good] if all("ap" in record.values for record in good) else [])
    first = good[0] if good else cost
    versions = first.context.get("versions", {}) if first else {}
    return Line(
        id=named(paper, row, tier), rank=nan, rank_to=nan, paper=paper, row=row, tier=tier, data=data, machine=machine, seeds=len(good),
        status="ok" if good else bad[0] if bad else "counted, not run",
        ap_low=low, ap_high=high,
        digest=first.digest[:12] if first else "", commit=str(first.context.get("commit", ""))[:12] if first else "", outcomes=counts,
        leandet=str(versions.get("leandet", "")), torch=str(versions.get("torch", "")),
        **{measure: _mean(good, measure) for measure in ACCURACIES},
        **_whole(cost),
    )  # fmt: skip


def _whole(cost: Record | None) -> dict[str, float]:
    """Of a cost record what the whole detector costs; where it was counted as a whole alone, its numbers bear no prefix."""
    values = cost.values if cost else {}
    return {measure: values.get(f"model_{measure}", values.get(measure, nan)) for measure in COSTS}


def _mean(records: Sequence[Record], measure: str) -> float:
    values = [record.values[measure] for record in records if measure in record.values]
    return fmean(values) if values and len(values) == len(records) else nan


def _counts(outcomes: Iterable[Outcome]) -> Callable[[Key], str]:
    """A line's outcomes, counted: all of its row's where published cells are judged, elsewhere those that this tier has decided."""
    counted: dict[tuple[str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for outcome in outcomes:
        counted[outcome.paper, outcome.key][outcome.outcome, outcome.tier] += 1

    def of(key: Key) -> str:
        paper, row, tier, data, _ = key
        judged, variant = tier in {"", "paper"} or (tier, data) == ("proxy", MAIN), tier == "proxy"
        words: Counter[str] = Counter()
        for (word, at), count in counted[paper, row].items():
            words[word] += count if judged or (at == tier and not variant) else 0
        return "; ".join(f"{word} {words[word]}" for word in WORDS if words[word])

    return of


def named(paper: str, row: str, tier: str) -> str:
    """A line's id."""
    return ".".join(part for part in (paper, row, tier) if part)


def ranked(found: Iterable[Line]) -> tuple[Line, ...]:
    """The lines in their order, each with the places that its interval leaves open; what other lines miss moves none.

    Tiers and data of which no line has an interval come after those that rank.
    """
    lines = tuple(found)
    groups: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if not isnan(line.ap_low):
            groups[line.tier, line.data].append(line)
    ordered = sorted(lines, key=lambda line: ((line.tier, line.data) not in groups, *_place(line)))
    return tuple(_between(line, groups.get((line.tier, line.data), ())) for line in ordered)


def _between(line: Line, group: Sequence[Line]) -> Line:
    if isnan(line.ap_low):
        return replace(line, rank=nan, rank_to=nan)
    above = sum(other.ap_low > line.ap_high for other in group)
    below = sum(other.ap_high < line.ap_low for other in group)
    return replace(line, rank=float(1 + above), rank_to=float(len(group) - below))


def place_text(line: Line) -> str:
    """A line's place as a reader sees it: "2", "1-3" for a tie, nothing where no interval gives it one."""
    if isnan(line.rank):
        return ""
    return f"{line.rank:.0f}" if line.rank == line.rank_to else f"{line.rank:.0f}-{line.rank_to:.0f}"


def _place(line: Line) -> tuple[int, str, bool, float, str, str]:
    """The largest tier first, what was only counted last; within a tier and its data the best first."""
    tier = -TIERS.index(line.tier) if line.tier in TIERS else 1
    return tier, line.data, isnan(line.ap), 0.0 if isnan(line.ap) else -line.ap, line.id, line.machine


# ---- the published CSV


_COUNTED = re.compile(rf"(?:(?:{'|'.join(WORDS)}) \d+(?:; |$))*")
PATTERNS = {  # text columns: what they may hold, in words and as a pattern
    "id": ("PAPER.ROW.TIER, or PAPER.ROW of a row that was only counted, ROW perhaps with @FORM", r"[\w-]+\.[\w-]+(?:@\w+)*(?:\.[a-z]+)?"),
    "status": ('"ok", "failed: REASON", "skipped: REASON" or "counted, not run"', r"ok|(?:failed|skipped): [\s\S]*|counted, not run"),
    "digest": ("up to 12 hexadecimal digits", r"[0-9a-f]{0,12}"),
    "commit": ("up to 12 hexadecimal digits", r"[0-9a-f]{0,12}"),
    "leandet": ("a version, as in 0.1.0, or nothing", r"(?:\d+(?:\.\d+)+\S*)?"),
    "torch": ("a version, as in 2.8.0+cpu, or nothing", r"(?:\d+(?:\.\d+)+\S*)?"),
    "outcomes": (f"counts of outcomes joined by semicolons, as in reproduced 3; the outcomes are {', '.join(WORDS)}", _COUNTED.pattern),
}


def schema() -> DataFrameSchema:
    """What leaderboard.csv may hold: the unit is in each name, each number in its range, each word one of those there are."""
    from pandera.pandas import DataFrameSchema

    columns = {**_numbers(), **_texts()}
    return DataFrameSchema(
        {field.name: columns[field.name] for field in fields(Line)},
        checks=_across(), strict=True, ordered=True, unique=["id", "data", "machine"],
    )  # fmt: skip


def _numbers() -> dict[str, Any]:
    from pandera.pandas import Check, Column

    percent, least = Check.in_range(0, 100, error="0 to 100, or nothing"), Check.ge(0, error="0 or more, or nothing")
    numbers = {name: Column(float, percent, nullable=True) for name in ACCURACIES}
    numbers |= {name: Column(float, least, nullable=True) for name in COSTS}
    numbers |= {name: Column(float, Check.ge(1, error="1 or more, or nothing"), nullable=True) for name in ("rank", "rank_to")}
    numbers |= {name: Column(float, nullable=True) for name in ("ap_low", "ap_high")}
    return numbers | {"seeds": Column(int, Check.in_range(0, 1000, error="0 to 1000"))}


def _texts() -> dict[str, Any]:
    from pandera.pandas import Check, Column

    texts = {name: Column(str) for name in ("data", "machine")}
    texts |= {name: Column(str, Check.str_length(min_value=1, error="not empty")) for name in ("paper", "row")}
    texts["tier"] = Column(str, Check.isin(["", *TIERS], error=f"nothing, {', '.join(TIERS)}"))
    return texts | {name: Column(str, Check.str_matches(rf"^(?:{pattern})$", error=said)) for name, (said, pattern) in PATTERNS.items()}


def _across() -> list[Check]:
    """What the columns of one line must be to each other."""
    from pandera.pandas import Check

    def inside(frame: pd.DataFrame) -> pd.Series:
        return frame.ap_low.isna() & frame.ap_high.isna() | (frame.ap_low <= frame.ap) & (frame.ap <= frame.ap_high)

    def ties(frame: pd.DataFrame) -> pd.Series:
        return frame["rank"].isna() & frame.rank_to.isna() | (frame["rank"] <= frame.rank_to) & frame.ap_low.notna()

    def names(frame: pd.DataFrame) -> pd.Series:
        wanted = [named(paper, row, tier) for paper, row, tier in zip(frame.paper, frame.row, frame.tier, strict=True)]
        return frame.id == wanted

    return [
        Check(inside, error="ap_low <= ap <= ap_high, or neither end"),
        Check(ties, error="rank <= rank_to where there is an interval of ap, or neither"),
        Check(names, error="the id is made of paper, row and tier"),
    ]


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
