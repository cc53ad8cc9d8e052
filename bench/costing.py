"""The cost records of papers, kept beside the runs and counted again only where what they rest on has changed. Torch only where counting is due."""

from __future__ import annotations

from bench import machine, places
from bench.plan import cost_digest
from bench.records import Record, read_record, write_record
from bench.spec import Paper


def costs_of(paper: Paper) -> tuple[Record, ...]:
    """The cost of every row of a paper that is not quoted, from the folder where it stands."""
    found = [_stored(f"{paper.key}.{row.key}.cost", cost_digest(paper, row)) for row in paper.rows if row.build is not None]
    kept = tuple(record for record in found if record is not None)
    return kept if len(kept) == len(found) else _counted(paper)


def _stored(name: str, digest: str) -> Record | None:
    path = places.costs() / f"{name}.json"
    record = read_record(path) if path.exists() else None
    return record if record is not None and record.status == "ok" and digest in record.digests else None


def _counted(paper: Paper) -> tuple[Record, ...]:
    from dataclasses import replace
    from functools import partial

    from bench.cost import cost_records

    made = machine.source_state() | {"versions": machine.versions()}
    records = tuple(replace(record, context=dict(record.context) | made) for record in cost_records(paper, digest=partial(cost_digest, paper)))
    for record in records:
        write_record(record, places.costs() / f"{record.id}.json")
    return records
