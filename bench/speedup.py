"""Whether what a compressed row saves is saved on a clock: its record joined to the sessions that timed it beside its source. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bench.pareto_times import PairTime
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
    if not faster:
        return "no"
    if interval is None:
        return UNSEEN
    return "yes" if interval[1] < 1 else "no"


def source_of(paper: str, row: Row) -> str:
    """PAPER.ROW of what a row was compressed from, and is timed against: the row that it is judged against, else the one that it starts from."""
    named = row.reference or next(iter(row.needs), "")
    return named if "." in named or not named else f"{paper}.{named}"


def speedup_of(record: Record, source: str, sessions: Sequence[PairTime]) -> Speedup | None:
    """What the sessions that timed a compressed row and its source in turns say, row over source; None for a row that nothing was done to.

    The first quiet one decides. A session that was noisy decides nothing: it is named and the row stays "not timed".
    """
    if "speedup_realised" not in record.context:
        return None
    faster, kernels = record.context["speedup_realised"] != "no", str(record.context.get("kernels", ""))
    found = next((each for each in sessions if not each.noisy), None)
    if found is None:
        why = f"the only session was noisy: {sessions[0].ids[0]}" if sessions else f"next: leandet time {source}.{_end(record)} {record.id}"
        return Speedup(speedup_realised(faster=faster, interval=None), kernels if not faster else f"{kernels}; {why}")
    ratio, interval = found.ratio.value, (found.ratio.low, found.ratio.high)
    said = f"{kernels}; {ratio:.2f} [{interval[0]:.2f}, {interval[1]:.2f}] of the time of {source} on {found.clock}"
    return Speedup(speedup_realised(faster=faster, interval=interval), said, ratio, interval)


def _end(record: Record) -> str:
    """What follows PAPER.ROW in a run's id."""
    return record.id.removeprefix(f"{record.paper}.{record.row}.")
