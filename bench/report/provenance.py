"""Where each number comes from, for a reader who doubts it: its records, machine, commit, versions, seeds, and the command that makes it again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.evidence import RUNS, data_of
from bench.records import machine_of, place_of, ran_on

if TYPE_CHECKING:
    from bench.leaderboard import Line
    from bench.records import Record

REAL_DATA = "train=A.json,val=B.json,test=C.json"
STATES = (".safetensors", ".pth", ".pt", ".bin", ".pkl")  # files of weights
SEEDED = (*RUNS, "pretrain", "plateau")  # kinds of record that a seed was drawn for
Versions = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """One record as the page shows it."""

    id: str
    file: str  # where it is committed, below results/records
    kind: str
    status: str  # "ok", or why there is no number
    seed: str  # empty where none was drawn
    machine: str
    data: str
    commit: str  # with a "+" where the tree held changes that were not committed
    digest: str
    environment: str  # number of its versions among `environments`; empty where none were kept
    seconds: str
    rebuild: str


def sources(records: Sequence[Record]) -> tuple[Source, ...]:
    """Every record, in the order given."""
    numbers = {versions: str(place) for place, versions in enumerate(environments(records), 1)}
    return tuple(_source(record, numbers) for record in records)


def environments(records: Sequence[Record]) -> tuple[Versions, ...]:
    """The sets of versions that records were made with, each once, those of the most records first."""
    counts: dict[Versions, int] = defaultdict(int)
    for record in records:
        if _versions(record):
            counts[_versions(record)] += 1
    return tuple(sorted(counts, key=lambda versions: (-counts[versions], versions)))


def _versions(record: Record) -> Versions:
    known = record.context.get("versions", {})
    return tuple(sorted((str(name), str(version)) for name, version in known.items())) if isinstance(known, Mapping) else ()


def _source(record: Record, numbers: Mapping[Versions, str]) -> Source:
    context = record.context
    seconds = context.get("seconds")
    return Source(
        id=record.id,
        file=place_of(record),
        kind=record.kind,
        status=record.status if record.status == "ok" else f"{record.status}: {record.reason}",
        seed=str(record.seed) if record.kind in SEEDED else "",
        machine=machine_of(record) if machine_of(record) == ran_on(record) else f"{ran_on(record)}, weights of {machine_of(record)}",
        data=data_of(record),
        commit=str(context.get("commit", ""))[:12] + ("+" if context.get("dirty") else ""),
        digest=record.digest[:12],
        environment=numbers.get(_versions(record), ""),
        seconds="" if seconds is None else f"{float(seconds):.0f}",
        rebuild=rebuild(record),
    )


# ---- what to type


def rebuild(record: Record) -> str:
    """The command that makes the record again."""
    row, data = f"{record.paper}.{record.row}", data_of(record)
    if detector := _detector(record):
        return _of_detector(record, detector, data)
    if record.kind == "cost":
        return f"leandet cost {record.paper}"
    if record.kind in {"pretrain", "plateau", "pareto"}:
        asked = f"pareto --tier {record.tier} --machine {machine_of(record)}" if record.kind == "pareto" else f"run {record.id}"
        return f"leandet {asked}{_data_option(data)}"
    if record.kind == "score":
        return f"leandet score --predictions FILE --name {record.row}{_data_option(data)}"
    if record.kind == "training":
        summed = "+".join(str(each) for each in record.context.get("summed", [record.row]))
        return f"leandet pace {record.paper}.{record.context.get('against', record.row)} {record.paper}.{summed} --tier {record.tier}"
    return _timing(record) if record.kind == "latency" else rerun(f"{row}.{record.tier}", data, record.tier)


def _detector(record: Record) -> str:
    """The name of what is no row of a paper, as after `leandet measure` or `leandet run`; empty for a paper's row."""
    arguments = record.context.get("arguments", {})
    return str(record.context.get("detector") or (arguments.get("name", "") if "adapter" in arguments else ""))


def _of_detector(record: Record, name: str, data: str) -> str:
    about = record.context
    if record.kind in RUNS:
        return f"leandet run {name} --tier {record.tier}{_data_option(data)}{' --init FILE' if about.get('init') else ''}"
    weights = str(about.get("weights_from", ""))
    size = f" --size {about['size']}" if about.get("size") else ""
    file = f" --weights {weights}" if Path(weights).suffix in STATES and not name.endswith(weights) else ""
    return f"leandet measure {name}{size}{file}{' --data C.json' if record.kind == 'score' else ''}"


def rerun(line: str, data: str, tier: str) -> str:
    """The command for all seeds of one leaderboard row."""
    return f"leandet rerun --row {line}{_data_option(data)}{' --init FILE' if tier == 'paper' else ''}"


def of_line(line: Line, record: Record | None = None) -> str:
    """The command behind a leaderboard row, of which `record` is one; what was only counted is counted again with its paper."""
    if record is not None and _detector(record):
        return rebuild(record)
    if line.paper == "scored":
        return f"leandet score --predictions FILE --name {line.row}{_data_option(line.data)}"
    return rerun(line.id, line.data, line.tier) if line.tier else f"leandet cost {line.paper}"


def _data_option(data: str) -> str:
    """Nothing for the embedded default; data that lies with the user is named by what to put there."""
    if data in {"", "scenes-v1"}:
        return ""
    name, _, length = data.partition(" x")
    option = f" --data {name if name.startswith('scenes') else 'voc=DIR' if name.startswith('voc') else REAL_DATA}"
    return f"{option} --length {length}" if length else option


def _timing(record: Record) -> str:
    about = record.context
    ending = f".{record.tier}"
    turns = [str(each) for each in about.get("turns", [f"{record.paper}.{record.row}{ending}"])]
    rows = " ".join(dict.fromkeys(each.removesuffix(ending) if each.count(".") == 2 else each for each in turns))
    rois = f" --rois {about['rois_given']}" if about.get("rois_given") else ""
    wanted = "".join(f" --{name} {about[name]}" for name in ("images", "device", "threads", "precision") if name in about)
    return f"leandet time {rows} --tier {record.tier}{_data_option(str(about.get('data', '')))}{rois}{wanted}"


# ---- what one number rests on


def gist(ids: Sequence[str], records: Mapping[str, Record]) -> str:
    """Records in a line: as in "condensing.k16-l5.proxy, seeds 0-2; its plateau, seed 0; on amd-epyc-x2; commit 4a48d356cfdf"."""
    found = [records[each] for each in ids if each in records]
    if not found:
        return ""
    groups: dict[str, list[int]] = defaultdict(list)
    for record in found:
        groups[_group(record)] += [record.seed] if record.kind in SEEDED else []
    said = [f"{name}{_seeds(seeds)}" for name, seeds in groups.items()]
    more = f" and {len(said) - 4} more" if len(said) > 4 else ""
    machines = sorted({machine_of(record) for record in found} - {""})
    commits = sorted({str(record.context.get("commit", ""))[:12] for record in found} - {""})
    parts = ["; ".join(said[:4]) + more]
    parts += [f"on {', '.join(machines)}"] if machines else []
    parts += [f"commit {', '.join(commits[:3])}{' and others' if len(commits) > 3 else ''}"] if commits else []
    return " · ".join(parts)


def _group(record: Record) -> str:
    """A record's id without its seed."""
    ending = f".s{record.seed}"
    return record.id.removesuffix(".plateau").removesuffix(ending) + (" plateau" if record.kind == "plateau" else "")


def _seeds(seeds: Sequence[int]) -> str:
    """As in " seeds 0-4", " seed 0", " seeds 0, 2"."""
    own = sorted(set(seeds))
    if not own:
        return ""
    if len(own) > 2 and own == list(range(own[0], own[-1] + 1)):
        return f" seeds {own[0]}-{own[-1]}"
    return f" seed{'s' * (len(own) > 1)} {', '.join(str(seed) for seed in own)}"
