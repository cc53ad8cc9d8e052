"""Leaderboards of several machines: a file read and held to the schema line by line, two files joined to one. No torch."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from bench.leaderboard import Line, ranked, schema
from bench.types import UserError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = tuple(field.name for field in fields(Line))
NUMBERS = tuple(field.name for field in fields(Line) if field.type in {"float", "int"})
MEASURED = tuple(name for name in NUMBERS if name not in {"rank", "rank_to"})  # what a line is about; ranks are those of its file
MOST = 20 * 2**20  # bytes; a leaderboard of a thousand rows has a quarter of a megabyte

Row = dict[str, Any]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Fault:
    """What is wrong with one line of a file, counted from 1, the heading."""

    line: int
    said: str


@dataclass(frozen=True)
class Board:
    """A file's rows with the lines that they stand on, those that are good; and what is wrong with the others."""

    name: str
    lines: tuple[Line, ...]
    numbers: tuple[int, ...]
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Merged:
    """One leaderboard out of several: its lines, what to tell of them, and what stands in the way."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    conflicts: tuple[str, ...]


# ---- a file


def read_board(path: Path) -> Board:
    """A leaderboard.csv, or the JSON that `leandet measure` writes, every row held to the schema; UserError where it is neither.

    A row of a JSON is numbered as it would be in a CSV.
    """
    faults: list[Fault] = []
    rows: list[tuple[int, Row]] = []
    table = _objects(path) if path.suffix == ".json" else _records(path)
    head = next(table, (1, []))[1]
    faults += [Fault(1, said) for said in _head_faults(head)]
    for number, cells in table if not faults else ():
        row, wrong = _row(cells)
        faults += [Fault(number, said) for said in wrong]
        rows += [(number, row)] if not wrong else []
    faults += _schema_faults(rows)
    bad = {fault.line for fault in faults}
    good = [(number, Line(**row)) for number, row in rows if number not in bad]
    return Board(str(path), tuple(line for _, line in good), tuple(number for number, _ in good), tuple(sorted(faults, key=lambda fault: fault.line)))


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line that it begins on: a quoted cell may hold line ends."""
    try:
        if path.stat().st_size > MOST:
            raise UserError(f"{path}: more than {MOST >> 20} MB; give a leaderboard.csv as `leandet leaderboard --csv` writes it")
        with path.open(encoding="utf-8", newline="") as stream:
            reader, begun = csv.reader(stream, strict=True), 1
            for cells in reader:
                if cells:
                    yield begun, cells
                begun = reader.line_num + 1
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); give a leaderboard.csv as `leandet leaderboard --csv` writes it") from error


def _objects(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a JSON as a CSV's records; the heading is that of its first row."""
    if path.is_file() and path.stat().st_size > MOST:
        raise UserError(f"{path}: more than {MOST >> 20} MB; give a JSON as `leandet measure --json` writes it")
    try:
        rows: list[Mapping[str, Any]] = json.loads(path.read_bytes())["leaderboard"]
        head = list(rows[0] if rows else HEAD)
        table = [head, *([_cell(name, row[name]) for name in head] for row in rows)]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); give a JSON as `leandet measure --json` writes it") from error
    except (KeyError, TypeError) as error:
        raise UserError(f'{path}: has no list of like rows under "leaderboard"; give a JSON as `leandet measure --json` writes it') from error
    yield from enumerate(table, 1)


def _cell(name: str, value: object) -> str:
    """As a CSV would have it; a text in the place of a number, or the other way round, stays one that does not fit."""
    if value is None:
        return ""
    fits = isinstance(value, float | int) if name in NUMBERS else isinstance(value, str)
    return str(value) if fits and not isinstance(value, bool) else repr(value)


def _head_faults(head: Sequence[str]) -> list[str]:
    """Columns that are missing, unknown, named twice or in another order; a unit is part of a name."""
    said = [f"column {name!r} is missing" for name in HEAD if name not in head]
    said += [f"column {name!r} is unknown; allowed: {', '.join(HEAD)}" for name in dict.fromkeys(head) if name not in HEAD]
    said += [f"column {name!r} stands there twice" for name in dict.fromkeys(head) if head.count(name) > 1]
    return said or ([] if tuple(head) == HEAD else [f"the columns are in another order than {', '.join(HEAD)}"])


def _row(cells: Sequence[str]) -> tuple[Row, list[str]]:
    """A record's values by column; what cannot be read as one is said."""
    if len(cells) != len(HEAD):
        return {}, [f"{len(cells)} cells; allowed: {len(HEAD)}, one a column"]
    row: Row = dict(zip(HEAD, cells, strict=True))
    wrong = []
    for name in NUMBERS:
        try:
            row[name] = _number(name, row[name])
        except ValueError:
            wrong.append(f"{name} {row[name]!r}: no number; allowed: {'a whole number' if name == 'seeds' else 'a decimal number, or nothing'}")
    return row, wrong


def _number(name: str, text: str) -> float:
    if name == "seeds":
        return int(text)
    value = float(text) if text else nan
    if text and not isfinite(value):
        raise ValueError(text)
    return value


def _schema_faults(rows: Sequence[tuple[int, Row]]) -> list[Fault]:
    """What the schema says against the rows, once for each line and rule."""
    import pandas as pd
    from pandera.errors import SchemaErrors

    if not rows:
        return []
    table = pd.DataFrame({name: pd.Series([row[name] for _, row in rows], dtype=_dtype(name)) for name in HEAD})
    try:
        schema().validate(table, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases.to_dict("records")
    else:
        return []
    found = {(int(case["index"]), _said(case)): None for case in cases}
    return [Fault(rows[place][0], said) for place, said in found]


def _dtype(name: str) -> str:
    return "int64" if name == "seeds" else "float64" if name in NUMBERS else "object"


def _said(case: Mapping[str, Any]) -> str:
    """One failed check in words."""
    if case["check"] == "multiple_fields_uniqueness":
        return "another line has the same id, data and machine; leave one of them out"
    if case["schema_context"] == "DataFrameSchema":
        return str(case["check"])
    return f"{case['column']} {case['failure_case']!r}: allowed: {case['check']}"


# ---- several files


def merge(boards: Sequence[Board]) -> Merged:
    """Their rows as one leaderboard, ranked anew; each keeps its machine.

    A row that several have with the same numbers is kept once, the first one; with other numbers it is a conflict. A row that was only counted
    goes where another file has runs of it.
    """
    kept: dict[Key, tuple[str, Line]] = {}
    notes, conflicts, counted = [], [], Counter[str]()
    for board in boards:
        for number, line in zip(board.numbers, board.lines, strict=True):
            where = f"{board.name}:{number}"
            first, known = kept.setdefault(_key(line), (where, line))
            if first == where:
                continue
            said, differing = f"{where}: {line.id} ({_where(line)}) stands in {first} too", _differing(known, line)
            if differing:
                conflicts.append(f"{said}, with another {', '.join(differing)}; leave one of them out")
            elif line.tier:
                notes.append(f"{said}, kept once")
            else:
                counted[f"{board.name}: {{}} rows that were only counted stand in {first.rpartition(':')[0]} too, kept once"] += 1
    notes += [said.format(count) for said, count in counted.items()]
    lines, gone = _without_counted([line for _, line in kept.values()])
    notes += [f"{line.id}: counted in one file, run in another: its runs are kept" for line in gone]
    return Merged(ranked(lines), tuple(notes), tuple(conflicts))


def _without_counted(lines: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """The lines but for those of rows that were only counted here and run there; and these."""
    ran = {(line.paper, line.row) for line in lines if line.tier}
    gone = [line for line in lines if not line.tier and (line.paper, line.row) in ran]
    return [line for line in lines if line not in gone], gone


def _where(line: Line) -> str:
    return ", ".join(part for part in (line.data, line.machine) if part) or "counted"


def _key(line: Line) -> Key:
    return line.id, line.data, line.machine


def _differing(first: Line, second: Line) -> list[str]:
    """Columns of measured numbers in which two lines differ, as they would be written."""
    return [name for name in (*MEASURED, "status") if _written(first, name) != _written(second, name)]


def _written(line: Line, name: str) -> str:
    value = getattr(line, name)
    return f"{value:.3f}" if isinstance(value, float) else str(value)
