"""A row or a run in words, for the terminal. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from bench import places
from bench.catalogue import find_paper
from bench.digest import plain
from bench.plan import Run
from bench.records import Record, read_record
from bench.tables import answering
from bench.types import UserError

HEADLINE = ("ap", "ap50", "voc_ap50", "top1")


def row_text(name: str) -> str:
    """A row's settings, by PAPER.ROW."""
    key, _, wanted = name.partition(".")
    paper = find_paper(key)
    rows = {row.key: row for row in paper.rows}
    if wanted not in rows:
        raise UserError(f"row {wanted!r}: {key} has no such row; allowed: {', '.join(rows)}")
    row = rows[wanted]
    tables = [table.id for table in paper.tables if wanted in {answering(key, column) for key in table.rows for column in table.columns}]
    facts = {
        "row": name,
        "title": row.title,
        "stands in": ", ".join(tables) or "no table",
        "setting": _flat(plain(row.setting)),
        "arguments": _flat(plain(row.arguments)) or "none",
        "judged against": row.reference or "it is a reference itself",
        "starts from": ", ".join(row.needs) or row.body or "a pretrained backbone",
        "headline": "yes, five seeds" if row.headline else "no, one seed",
        "not measured": row.quoted,
        "notes": row.notes,
    }
    return "\n".join(f"{label:15} {text}" for label, text in facts.items() if text)


def _flat(values: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if key)


def find_record(name: str) -> Record:
    """The record of a run, of this checkout or else committed; UserError where there is none, or several."""
    local = places.run_folder(name) / "record.json"
    found = [local] if local.exists() else committed(name, ".json")
    found += sorted(places.costs().glob(f"{name}.json")) if not found and places.costs().exists() else []
    found += sorted(places.latencies().rglob(f"{name}.json")) if not found and places.latencies().exists() else []
    if not found:
        raise UserError(f"{name!r}: no record of it here; `leandet plan` lists the runs, `leandet run {name}` makes one, `leandet list` the papers")
    return read_record(found[0])


def committed(name: str, ending: str) -> list[Path]:
    """The committed file of a run, as a list of one or none; UserError where several machines ran it and NAME is not MACHINE/ID."""
    found = sorted(places.committed_records().rglob(f"{name}{ending}")) if name else []
    if len(found) > 1:
        known = ", ".join(f"{path.parent.name}/{name}" for path in found)
        raise UserError(f"{name}: ran on {len(found)} machines, and their numbers differ; name one: {known}")
    return found


def record_text(name: str) -> str:
    """All of a run's record."""
    record = find_record(name)
    return json.dumps(plain(record), indent=1, sort_keys=True)


def result_line(run: Run) -> str:
    """What a run gave, in a line."""
    record = find_record(run.id)
    values = "  ".join(f"{key} {record.values[key]:.2f}" for key in HEADLINE if key in record.values)
    return f"{run.id:45} {values or f'{record.status}: {record.reason}'}"
