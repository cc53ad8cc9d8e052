"""Where papers contradict themselves, copy, or show nowhere what they say: computed from the published cells each time. No torch."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from bench.catalogue import FOLDER, printing
from bench.published import labels
from bench.types import UserError
from bench.verdicts import printed_number

if TYPE_CHECKING:
    from rich.console import Console

    from bench.published import Published, PublishedTable
    from bench.spec import Check, FindingKind


@dataclass(frozen=True)
class Finding:
    """One place where a paper's printed numbers disagree."""

    paper: str
    key: str  # unique in its paper
    kind: FindingKind
    title: str
    arithmetic: str  # the printed cells, and what follows from them
    source: str  # table, section and line of the paper


@dataclass(frozen=True)
class Printed:
    """A paper's cells, asked for by the labels of row and column; KeyError for one that there is not."""

    published: Published

    def rows(self, table: str) -> tuple[str, ...]:
        """The labels of a table's rows, in its order."""
        return labels(self.published.table(table))

    def text(self, table: str, row: str, column: str) -> str:
        """A cell as printed."""
        found, place, across = self._place(table, row, column)
        return found.rows[place].cells[across]

    def number(self, table: str, row: str, column: str) -> float:
        """A cell's number."""
        return float(printed_number(self.text(table, row, column)))

    def pair(self, table: str, row: str, column: str) -> tuple[float, float]:
        """A cell's mean and standard deviation."""
        found, place, across = self._place(table, row, column)
        value = found.rows[place].values[across]
        assert isinstance(value, tuple), f"{self.published.paper} {table} {row} {column} holds no pair"
        return value[0], value[1]

    def between(self, table: str, row: str, column: str) -> tuple[float, float]:
        """The least and the largest number that would be printed as this cell is."""
        number = printed_number(self.text(table, row, column))
        half = Decimal(5).scaleb(int(number.as_tuple().exponent) - 1)
        return float(number - half), float(number + half)

    def column(self, table: str, column: str) -> tuple[float, ...]:
        """Every number of a column, words and dashes left out."""
        found = self.published.table(table)
        across = [each.name for each in found.columns].index(column)
        return tuple(float(printed_number(row.cells[across])) for row in found.rows if any(sign.isdigit() for sign in row.cells[across]))

    def said(self, index: int) -> tuple[float, ...]:
        """The numbers of a sentence."""
        value = self.published.claims[index].value
        assert value is not None, f"{self.published.paper}: claim {index} holds no number"
        return value if isinstance(value, tuple) else (value,)

    def _place(self, table: str, row: str, column: str) -> tuple[PublishedTable, int, int]:
        found, names = self.published.table(table), self.rows(table)
        columns = [each.name for each in found.columns]
        if row not in names or column not in columns:
            raise KeyError(f"{self.published.paper} {table} has no cell {row!r}, {column!r}")
        return found, names.index(row), columns.index(column)


def audit(published: Published, checks: Sequence[Check]) -> tuple[Finding, ...]:
    """What these checks find in what a paper prints."""
    found = [(check, check.find(Printed(published))) for check in checks]
    return tuple(Finding(published.paper, check.key, check.kind, check.title, said, check.source) for check, said in found if said)


def checks_of(paper: str) -> tuple[Check, ...]:
    """The checks of a paper's findings.py; none where it has no such file."""
    if not (FOLDER / paper / "findings.py").exists():
        return ()
    checks: tuple[Check, ...] = importlib.import_module(f"{FOLDER.name}.{paper}.findings").CHECKS
    return checks


def findings(paper: str = "") -> tuple[Finding, ...]:
    """Of one paper, or of all by key, in the order in which their checks stand; UserError for a paper that there is not."""
    entries = printing()
    if paper and paper not in entries:
        raise UserError(f"paper {paper!r}: unknown; allowed: {', '.join(entries)}")
    return tuple(found for key, entry in entries.items() if paper in {"", key} for found in audit(entry.published, checks_of(key)))


def asked(paper: str = "") -> dict[str, int]:
    """How many checks there are of each paper, those that find nothing among them."""
    return {key: len(checks_of(key)) for key in printing() if paper in {"", key}}


def rows(paper: str = "") -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """The findings as the page shows them: title, arithmetic, sources."""
    return tuple((f"{each.paper}: {each.title} ({each.kind})", each.arithmetic, (each.source,)) for each in findings(paper))


def print_findings(found: Sequence[Finding], counts: dict[str, int], console: Console) -> None:
    """Every finding with its arithmetic, paper by paper, and how many checks found nothing."""
    for paper, count in counts.items():
        own = [each for each in found if each.paper == paper]
        console.print(f"{paper}: {len(own)} findings of {count} checks", style="bold", markup=False)
        for each in own:
            console.print(f"  {each.key} ({each.kind}): {each.title}", markup=False)
            console.print(f"    {each.arithmetic}", markup=False, highlight=False)
            console.print(f"    {each.source}", style="dim", markup=False, highlight=False)
