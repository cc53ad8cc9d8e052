"""Which records to replay, and what came of it, a line each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine, places
from bench.campaign import here, images_of
from bench.catalogue import built
from bench.gather import record_files
from bench.orders import remaining, with_needs
from bench.plan import Choice, Run, everything
from bench.records import Record, read_record
from bench.types import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

_FAR = 10**12  # images
LEARNT = ("train", "plateau", "pretrain", "transform")


def attest_records(ids: tuple[str, ...], *, one_a_paper: bool) -> tuple[list[str], bool]:
    """(a line each, whether any replay differed) for the records of these ids, or for those that are stale; or for one a paper of those made here.

    A difference counts only where the processor and the versions are those of the record: others may round otherwise.
    """
    from bench.attest import attest

    runs = {run.id: run for run in everything(built().values(), Choice("proxy", proofs=True))}
    lines, failed = list[str](), False
    chosen = ids or _chosen(runs, one_a_paper=one_a_paper)
    for name in chosen:
        run, files = runs.get(name) or with_needs(name, Choice())[-1], _files(name)
        here(_inputs(run, runs), Choice(), quiet=True)
        for path in files:
            record = read_record(path)
            found = attest(run, record, path)
            decides = machine.alike(record.context)
            word = "attested" if found.equal else "DIFFERS, its cells are stale until it is run again" if decides else "cannot be decided here"
            lines.append(f"{name}: {word}: {found.said}")
            failed = failed or word.startswith("DIFFERS")
    if one_a_paper:
        done = {name.partition(".")[0] for name in chosen}
        papers = {record.paper for record in _records() if record.kind != "pretrain"} - done
        why = "no record that starts from a pretrained backbone alone was made by this processor and these versions"
        lines += [f"{paper}: {why}" for paper in sorted(papers)]
    return lines or ["no record is stale: nothing to attest"], failed


def _inputs(run: Run, runs: Mapping[str, Run]) -> tuple[Run, ...]:
    """What a replay starts from, each after what it starts from in turn; of a plateau proof the run that it continues is not needed."""
    direct = run.needs[1:] if run.kind == "plateau" else run.needs
    found: dict[str, Run] = {}
    for need in (runs.get(name) or with_needs(name, Choice())[-1] for name in direct):
        found |= {each.id: each for each in (*_inputs(need, runs), need)}
    return tuple(found.values())


def _files(name: str) -> list[Path]:
    local = places.run_folder(name) / "record.json"
    found = [*sorted(places.committed_records().rglob(f"{name}.json")), *([local] if local.exists() else [])]
    if not found:
        raise UserError(f"{name!r}: no record of it to attest; `leandet run {name}` makes one")
    return found


def _records() -> list[Record]:
    folders = [places.committed_records(), places.runs()]
    paths = [path for folder in folders if folder.exists() for path in record_files(folder)]
    return [record for record in map(read_record, paths) if record.kind in LEARNT and record.status == "ok"]


def _chosen(runs: Mapping[str, Run], *, one_a_paper: bool) -> list[str]:
    records = [record for record in _records() if record.id in runs]
    if not one_a_paper:
        return list(dict.fromkeys(record.id for record in records if runs[record.id].digest not in record.digests))
    cheapest: dict[str, tuple[int, int, str]] = {}
    for record in records:
        if record.kind == "train" and machine.alike(record.context) and _begins(runs[record.id], runs):
            cheapest[record.paper] = min(
                cheapest.get(record.paper, (_FAR, 0, "")), (_needed_images(runs[record.id], runs), len(record.id), record.id)
            )
    return sorted(name for _, _, name in cheapest.values())


def _begins(run: Run, runs: Mapping[str, Run]) -> bool:
    """Whether all that a run starts from is here or a pretrained backbone, which takes seconds: others would be learnt for the sake of a replay."""
    return all(need.kind == "pretrain" for need in remaining(_inputs(run, runs)))


def _needed_images(run: Run, runs: Mapping[str, Run]) -> int:
    """Images that must be learnt here before this run can be replayed."""
    return sum(images_of(need) for need in remaining(_inputs(run, runs)))
