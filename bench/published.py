"""What a paper prints, read from its published.json: tables, cells, claims. Standard library only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.types import UserError

KINDS = ("accuracy", "cost", "latency", "training-time", "setting", "other")

Value = float | tuple[float, ...] | Mapping[str, float]  # 79.9; (mean, standard deviation); milliseconds by class of GPU


@dataclass(frozen=True)
class PublishedColumn:
    """A printed column: its heading, its unit in words, and its kind (one of KINDS)."""

    name: str
    unit: str
    kind: str


@dataclass(frozen=True)
class PublishedRow:
    """A printed row: the cells as printed (bold dropped), what they mean, and the line of the paper's text (from 1)."""

    cells: tuple[str, ...]
    values: tuple[Value | None, ...]  # None: a word, a dash or a blank
    line: int
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # note, label_inferred, printed_gain


@dataclass(frozen=True)
class PublishedTable:
    """A printed table; `garbled` tells where the text extraction is damaged and how it is read."""

    id: str
    caption: str
    conditions: str
    columns: tuple[PublishedColumn, ...]
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...]
    garbled: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class PublishedClaim:
    """A sentence with a number in running text; `agrees`: whether the paper's own tables bear it out, None where they cannot."""

    claim: str
    value: float | tuple[float, ...] | None
    unit: str
    kind: str
    line: int
    agrees: bool | None
    note: str


@dataclass(frozen=True)
class Cell:
    """One number of one table, with the places (from 0) of its row and column."""

    paper: str
    table: str
    row: str  # the row's label, unique in its table
    column: str
    unit: str
    kind: str
    printed: str
    value: Value
    at: tuple[int, int]  # row, column


@dataclass(frozen=True)
class Published:
    """All that a paper prints."""

    paper: str
    title: str
    text: str  # file name of the paper's text
    tables: tuple[PublishedTable, ...]
    claims: tuple[PublishedClaim, ...]
    settings: tuple[Mapping[str, Any], ...]

    def table(self, key: str) -> PublishedTable:
        """The table of that id; KeyError if there is none."""
        return {table.id: table for table in self.tables}[key]


def labels(table: PublishedTable) -> tuple[str, ...]:
    """A label a row: its setting cells; rows that print the same settings are told apart by the line they stand on."""
    setting = [place for place, column in enumerate(table.columns) if column.kind == "setting"]
    plain = [", ".join(row.cells[place].strip() for place in setting if row.cells[place].strip(" \\")) for row in table.rows]
    seen = Counter(plain)
    return tuple(label if seen[label] == 1 else f"{label} (line {row.line})" for label, row in zip(plain, table.rows, strict=True))


def result_cells(published: Published) -> tuple[Cell, ...]:
    """Every number that is a result, in the order of the paper; columns that only state a setting, and dashes, are left out."""
    return tuple(cell for cell in numeric_cells(published) if cell.kind != "setting")


def numeric_cells(published: Published) -> tuple[Cell, ...]:
    """Every printed number of every table, settings included."""
    return tuple(cell for table in published.tables for cell in _cells(published.paper, table))


def _cells(paper: str, table: PublishedTable) -> list[Cell]:
    return [
        Cell(paper, table.id, label, column.name, column.unit, column.kind, row.cells[j], value, (i, j))
        for i, (label, row) in enumerate(zip(labels(table), table.rows, strict=True))
        for j, (column, value) in enumerate(zip(table.columns, row.values, strict=True))
        if value is not None
    ]


@cache
def read_published(path: Path) -> Published:
    """The published.json of a paper; UserError names the file and the table where it is damaged."""
    place = "the file"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tables = []
        for table in data["tables"]:
            place = f"table {table['id']}"
            tables.append(_table(table))
        place = "claims"
        claims = tuple(_claim(claim) for claim in data["claims"])
        return Published(data["paper"], data["title"], data["text"], tuple(tables), claims, tuple(data["settings"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {place} cannot be read ({error!r}); take the file from version control again") from error


def _table(data: Mapping[str, Any]) -> PublishedTable:
    columns = tuple(PublishedColumn(**column) for column in data["columns"])
    for column in columns:
        if column.kind not in KINDS:
            raise ValueError(f"column {column.name}: kind {column.kind!r}, allowed: {', '.join(KINDS)}")
    rows = tuple(_row(row, len(columns)) for row in data["rows"])
    return PublishedTable(data["id"], data["caption"], data["conditions"], columns, rows, tuple(data["notes"]), tuple(data["garbled"]))


def _row(data: Mapping[str, Any], columns: int) -> PublishedRow:
    cells, values = tuple(data["cells"]), tuple(_value(value) for value in data["values"])
    if not len(cells) == len(values) == columns:
        raise ValueError(f"line {data['line']}: {len(cells)} cells, {len(values)} values, {columns} columns")
    extra = {key: value for key, value in data.items() if key not in {"cells", "values", "line"}}
    return PublishedRow(cells, values, data["line"], MappingProxyType(extra))


def _value(value: Any) -> Value | None:
    if isinstance(value, list):
        return tuple(float(number) for number in value)
    if isinstance(value, dict):
        return MappingProxyType({str(key): float(number) for key, number in value.items()})
    return None if value is None else float(value)


def _claim(data: Mapping[str, Any]) -> PublishedClaim:
    value = data["value"]
    parsed = tuple(float(number) for number in value) if isinstance(value, list) else None if value is None else float(value)
    return PublishedClaim(data["claim"], parsed, data["unit"], data["kind"], data["line"], data.get("agrees_with_tables"), data.get("note", ""))
