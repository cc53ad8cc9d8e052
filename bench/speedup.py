"""Whether what a compressed row saves is saved on a clock: its record joined to the latency records of its runs. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bench.records import Record
    from bench.spec import Row

Word = Literal["yes", "no", "not timed"]
UNSEEN: Word = "not timed"


@dataclass(frozen=True)
class Speedup:
    """The word, and what it rests on; `ratio` and `interval` are compressed over dense time, whole detection."""

    word: Word
    reason: str
    ratio: float | None = None
    interval: tuple[float, float] | None = None


def speedup_realised(*, faster: bool, interval: tuple[float, float] | None) -> Word:
    """Whether a saving is one on the clock: "yes" only where the interval of compressed over dense time lies below one.

    `faster`: whether any kernel has less to do; without that a saving in multiply-adds is "no", timed or not.
    """
    if interval is not None and interval[1] < 1:
        return "yes"
    return UNSEEN if interval is None and faster else "no"


def source_of(paper: str, row: Row) -> str:
    """PAPER.ROW of what a row was compressed from, and is timed against: the row that it is judged against, else the one that it starts from."""
    named = row.reference or next(iter(row.needs), "")
    return named if "." in named or not named else f"{paper}.{named}"


def speedup_of(record: Record, source: str, latencies: Sequence[Record]) -> Speedup | None:
    """What the latency records say of a compressed row's record; None for a row that nothing was done to.

    A session that was noisy decides nothing: it is named and the row stays "not timed".
    """
    if "speedup_realised" not in record.context:
        return None
    faster, kernels = record.context["speedup_realised"] != "no", str(record.context.get("kernels", ""))
    found = [each for each in latencies if _is_of(each, record) and str(each.context["against"][0]).startswith(f"{source}.")]
    quiet = [each for each in found if each.context["quiet"] != "noisy"]
    if not quiet:
        why = f"the only session was noisy: {found[0].id}" if found else f"next: leandet time {source}.{_end(record)} {record.id}"
        return Speedup(speedup_realised(faster=faster, interval=None), kernels if not faster else f"{kernels}; {why}")
    first = min(quiet, key=lambda each: each.id)
    ratio, low, high = (first.values[f"whole_ratio{end}"] for end in ("", "_low", "_high"))
    said = f"{kernels}; {ratio:.2f} [{low:.2f}, {high:.2f}] of the time of {first.context['against'][0]}"
    return Speedup(speedup_realised(faster=faster, interval=(low, high)), said, ratio, (low, high))


def _is_of(latency: Record, record: Record) -> bool:
    """Whether a latency is of the row at the record's own tier, with trained weights, and beside another one's."""
    same = (latency.paper, latency.row, latency.tier) == (record.paper, record.row, record.tier)
    return same and latency.kind == "latency" and latency.status == "ok" and "whole_ratio" in latency.values and bool(latency.context["trained"])


def _end(record: Record) -> str:
    """What follows PAPER.ROW in a run's id."""
    return record.id.removeprefix(f"{record.paper}.{record.row}.")
