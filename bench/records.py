"""Records: what was measured with all that is needed to doubt it; read and written as JSON, by rename. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.types import UserError

Kind = Literal["train", "pretrain", "plateau", "transform", "cost", "score", "latency", "training", "deployed", "pareto"]
Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Record:
    """One measured thing. `values` hold numbers with the unit in the name; `context` what travels with them."""

    id: str  # of the run: "condensing.fpn-k16-l5.proxy.s0"
    kind: Kind
    paper: str
    row: str
    tier: str  # empty for cost
    seed: int
    status: Status
    reason: str  # why it failed or was skipped; empty when ok
    digest: str  # of all the run depends on
    values: Mapping[str, float]
    attested: tuple[str, ...] = ()  # further digests under which a replay was bit-equal
    samples: Mapping[str, Any] = field(default_factory=dict)  # "losses": the first 20 steps; "curve": one entry an epoch; "detections": a hash
    context: Mapping[str, Any] = field(default_factory=dict)  # machine, versions, commit, data digest, batch, precision, threads, seconds, convention

    @property
    def digests(self) -> tuple[str, ...]:
        """Every digest that this record stands for."""
        return (self.digest, *self.attested)


def write_atomically(path: Path, data: bytes) -> None:
    """Write by rename, so that a reader sees the old file or the new one, and a full disk or a kill loses nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_record(record: Record, path: Path) -> None:
    """The record as sorted, indented JSON with a newline at its end."""
    write_atomically(path, (json.dumps(asdict(record), indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_record(path: Path) -> Record:
    """The record in a file; UserError names the file if it is not one."""
    try:
        data = json.loads(path.read_text())
        data["attested"] = tuple(data.get("attested", ()))
        return Record(**data)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a leandet record ({error}); delete it and run its stage again") from error


def read_records(folder: Path) -> tuple[Record, ...]:
    """Every record under a folder, by path; the predictions beside them stay unread."""
    return tuple(read_record(path) for path in sorted(folder.rglob("*.json")))


def machine_of(record: Record) -> str:
    """The machine whose number it is, in a word: the one that trained the weights, from which a transform of them may have been carried away."""
    return str(record.context.get("trained_on", "")) or ran_on(record)


def place_of(record: Record) -> str:
    """Where a record is committed, below results/records: costs by themselves, all else by its machine."""
    return f"{(machine_of(record) or 'any') if record.kind != 'cost' else 'costs'}/{record.id}.json"


def ran_on(record: Record) -> str:
    """What made the record, in a word: the name in its context; empty where none is known."""
    machine = record.context.get("machine", "")
    return str(machine.get("name", "")) if isinstance(machine, Mapping) else str(machine)
