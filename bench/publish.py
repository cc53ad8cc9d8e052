"""From this machine's runs to the committed records, and from the committed records to the committed tables. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench import audit, machine, places
from bench.gather import Stored, current_digests, digests_of, read_stored, standing
from bench.plan import metrics_digest
from bench.records import Record, place_of, write_record
from bench.report import Standing, cite, render
from bench.types import UserError

PUBLISHED_TIERS = ("", "proxy", "real", "paper")


def local() -> tuple[Stored, ...]:
    """What this machine has measured: its runs, costs and scores; a half-written run has no record and so is not there."""
    folders = [folder for folder in (places.runs(), places.local_scores()) if folder.exists()]
    return tuple(_by_present_metrics(each) for folder in folders for each in read_stored(folder) if _counts(each.record))


def committed() -> tuple[Stored, ...]:
    """What is in git."""
    folder = places.committed_records()
    return tuple(_by_present_metrics(each) for each in read_stored(folder)) if folder.exists() else ()


def _counts(record: Record) -> bool:
    """A smoke run and a quick look at a latency prove a path, not a number."""
    return record.tier in PUBLISHED_TIERS and not (record.kind == "latency" and record.context.get("quick"))


def local_standing() -> Standing:
    """Every cell judged by this machine's records, citing the committed ones."""
    digests = current_digests()
    return cite(standing(local(), digests=digests), standing(committed(), digests=digests))


def committed_standing() -> Standing:
    """Every cell judged by the committed records alone."""
    return replace(standing(committed(), digests=current_digests()), committed=True)


def shown_standing(*, committed: bool) -> Standing:
    """What a command shows: the committed records alone, or this machine's beside them."""
    return committed_standing() if committed else local_standing()


@dataclass(frozen=True)
class Moved:
    """What `publish` did: the paths written, and a line for each record that it refused."""

    written: tuple[Path, ...]
    refused: tuple[str, ...]


def publish(*, allow_dirty: bool = False) -> Moved:
    """Copy what stands here into results/records/<machine>/ and render the committed tables anew; stale records are refused, each in a line.

    UserError on a dirty tree, before anything is written: a record must name the commit that made it.
    """
    dirty = machine.git("status", "--porcelain", "--", ".", ":!results", ":!dvc.lock")
    if dirty and not allow_dirty:
        first = dirty.splitlines()[0].strip()
        raise UserError(f"publish: the tree is dirty ({first}, {len(dirty.splitlines())} in all); commit or drop these changes, or add --allow-dirty")
    found = local()
    digests = digests_of(found, current_digests())
    taken = [each for each in found if _stands(each.record, digests)]
    written = [path for each in taken for path in _copy(each)]
    refused = tuple(_refused(each.record) for each in found if not _stands(each.record, digests))
    return Moved((*written, *render(committed_standing(), places.home() / "results", audit=audit.rows())), refused)


def _refused(record: Record) -> str:
    """Why a record is not published, and what to do."""
    again = {
        "cost": f"leandet cost {record.paper}",
        "latency": f"leandet time {record.paper}.{record.row}",
        "training": f"leandet pace {record.paper}.{record.row}",
        "deployed": f"leandet deploy {record.id.rpartition('.')[0]}",
    }.get(record.kind, f"leandet run {record.id}, or leandet attest {record.id}")
    return f"publish: {record.id} is stale, made by other code; not published; next: {again}"


def _stands(record: Record, digests: Mapping[str, str]) -> bool:
    """Whether a record is of the code as it is; what no plan names (other data, a score) stands as it is."""
    return record.id not in digests or digests[record.id] in record.digests


def _copy(stored: Stored) -> list[Path]:
    record = stored.record
    target = places.committed_records() / place_of(record)
    parquet = target.with_suffix(".parquet")
    target.parent.mkdir(parents=True, exist_ok=True)
    if stored.predictions is not None:
        partial = parquet.with_name(f".{parquet.name}.part")
        shutil.copyfile(stored.predictions, partial)
        partial.replace(parquet)
    write_record(record, target)
    return [target, *([parquet] if stored.predictions is not None else [])]


def _by_present_metrics(stored: Stored) -> Stored:
    """With its numbers computed anew where another metric made them and its data is at hand: a new metric re-runs no model."""
    record, now = stored.record, metrics_digest()
    known = str(record.context.get("data", "")).startswith("scenes") and stored.predictions is not None
    if record.status != "ok" or not known or record.context.get("metrics", now) == now:
        return stored
    return replace(stored, record=replace(rescore(stored), context=dict(record.context) | {"metrics": now}))


def rescore(stored: Stored) -> Record:
    """The record with its numbers computed anew from its stored predictions; what a Derive step measured stays as it was."""
    from bench.datasets import open_split, parse_data
    from bench.metrics import score_all
    from bench.metrics.store import read_predictions

    assert stored.predictions is not None, f"{stored.record.id} has no predictions"
    truth = open_split(parse_data(str(stored.record.context["data"])), "test").ground_truth()
    derived = dict(stored.record.samples.get("derived", {}))
    return replace(stored.record, values=score_all(read_predictions(stored.predictions), truth) | derived)
