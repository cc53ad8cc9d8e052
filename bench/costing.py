"""The cost records of papers, kept beside the runs and counted again only where what they rest on has changed. Torch only where counting is due."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bench import machine, places
from bench.plan import cost_digest
from bench.records import Record, read_record, write_record
from bench.spec import Paper, Row


def costs_of(paper: Paper) -> tuple[Record, ...]:
    """The cost of every row of a paper that is not quoted, from the folder where it stands."""
    found = [_stored(f"{paper.key}.{row.key}.cost", cost_digest(paper, row)) for row in paper.rows if row.build is not None]
    kept = tuple(record for record in found if record is not None)
    return kept if len(kept) == len(found) else _counted(paper)


def cost_of(paper: Paper, row: Row) -> Record:
    """The cost of one row that is not quoted, from the folder where it stands; the others are left alone."""
    digest = cost_digest(paper, row)
    found = _stored(f"{paper.key}.{row.key}.cost", digest)
    if found is not None:
        return found
    from bench.cost import cost_record

    return _kept([cost_record(paper, row, digest=digest)])[0]


def _stored(name: str, digest: str) -> Record | None:
    path = places.costs() / f"{name}.json"
    record = read_record(path) if path.exists() else None
    return record if record is not None and record.status == "ok" and digest in record.digests else None


def _counted(paper: Paper) -> tuple[Record, ...]:
    from functools import partial

    from bench.cost import cost_records

    return _kept(cost_records(paper, digest=partial(cost_digest, paper)))


def _kept(counted: Iterable[Record]) -> tuple[Record, ...]:
    """The records, told what made them, and written."""
    made = machine.source_state() | {"versions": machine.versions()}
    records = tuple(replace(record, context=dict(record.context) | made) for record in counted)
    for record in records:
        write_record(record, places.costs() / f"{record.id}.json")
    return records
