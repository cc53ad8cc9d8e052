"""The standings on the screen: as many columns as fit, whole; what is left out is said. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING

from bench.leaderboard import Line, place_text

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2  # spaces between two columns
LEAST_STATUS = 16  # of the one column whose text may go over several lines


@dataclass(frozen=True)
class _Column:
    name: str
    text: Callable[[Line], str]
    left: bool = False


def _number(name: str, digits: int) -> Callable[[Line], str]:
    return lambda line: "" if isnan(getattr(line, name)) else f"{getattr(line, name):.{digits}f}"


def interval_text(line: Line) -> str:
    """As in "57.44 to 57.92"; nothing for one seed."""
    return "" if isnan(line.ap_low) else f"{line.ap_low:.2f} to {line.ap_high:.2f}"


SHOWN = (
    _Column("rank", place_text),
    _Column("id", lambda line: line.id, left=True),
    _Column("data", lambda line: line.data, left=True),
    _Column("machine", lambda line: line.machine, left=True),
    _Column("seeds", lambda line: str(line.seeds)),
    _Column("AP", _number("ap", 2)),
    _Column("95 %", interval_text),
    _Column("AP50", _number("ap50", 2)),
    _Column("params M", _number("params_m", 3)),
    _Column("size MB", _number("size_mb", 3)),
    _Column("GMAC", _number("macs_g", 3)),
    _Column("status", lambda line: line.status, left=True),
)
NEEDED = ("id", "AP", "rank", "95 %", "params M", "GMAC", "seeds", "size MB", "status", "AP50", "data", "machine")  # the first stay the longest


def print_leaderboard(found: Sequence[Line], console: Console) -> None:
    """The standings as a table as wide as the console; columns that do not fit are left out and named below it."""
    from rich.markup import escape
    from rich.table import Table

    columns = fitting(found, console.width)
    shown = Table(padding=(0, GAP // 2), box=None, pad_edge=False)
    for column in columns:
        shown.add_column(column.name, justify="left" if column.left else "right", overflow="fold", no_wrap=column.name not in {"status", "id"})
    for line in found:
        shown.add_row(*(escape(column.text(line)) for column in columns))
    console.print(shown)
    if any(not isnan(line.rank) and line.rank < line.rank_to for line in found):
        console.print("A rank such as 1-2 is a tie: the 95 % intervals of these rows overlap. One seed has no interval and no rank.", markup=False)
    left_out = [column.name for column in SHOWN if column not in columns]
    if left_out:
        console.print(f"Left out at a width of {console.width}: {', '.join(left_out)}; `leandet leaderboard --csv` has all.", markup=False)


def fitting(found: Sequence[Line], width: int) -> tuple[_Column, ...]:
    """The columns that fit into so many characters, chosen in the order of NEEDED, shown in their own."""
    columns, chosen, left = {column.name: column for column in SHOWN}, set(), width + GAP
    for name in NEEDED:
        wide = _width(columns[name], found) + GAP
        if wide <= left or name == "id":  # a row is never without its name
            chosen.add(name)
            left -= wide
    return tuple(column for column in SHOWN if column.name in chosen)


def _width(column: _Column, found: Sequence[Line]) -> int:
    from rich.cells import cell_len

    longest = max((cell_len(column.text(line)) for line in found), default=0)
    return max(cell_len(column.name), min(longest, LEAST_STATUS) if column.name == "status" else longest)
