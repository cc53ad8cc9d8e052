"""From folders to what can be judged: records with the predictions beside them, paired differences, the digests of now. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

from bench.catalogue import built
from bench.evidence import JUDGED_TIERS, MAIN, PAIRED, Difference, Evidence
from bench.published import Published
from bench.records import read_record
from bench.report import Standing, judge

if TYPE_CHECKING:
    from pathlib import Path

    from bench.metrics.matches import Matches
    from bench.records import Record
    from bench.spec import Paper, Row
    from bench.types import GroundTruth, Predictions

SAMPLES = 1000
DERIVED = "derived.json"  # bench.derive's, which loads torch


@dataclass(frozen=True)
class Stored:
    """A record and where its predictions lie, if it has any."""

    record: Record
    predictions: Path | None


def record_files(folder: Path) -> tuple[Path, ...]:
    """The files below a folder that hold a record, by path: NAME.json, or a run's record.json; what a Derive step kept beside it is none."""
    return tuple(path for path in sorted(folder.rglob("*.json")) if not path.name.startswith(".") and path.name != DERIVED)


def read_stored(folder: Path) -> tuple[Stored, ...]:
    """Every record below a folder, by path: NAME.json beside NAME.parquet, or record.json beside predictions.parquet."""
    return tuple(_stored(path) for path in record_files(folder))


def _stored(path: Path) -> Stored:
    beside = path.with_name("predictions.parquet") if path.name == "record.json" else path.with_suffix(".parquet")
    return Stored(read_record(path), beside if beside.exists() else None)


def standing(stored: Sequence[Stored], *, digests: dict[str, str] | None = None) -> Standing:
    """Every published cell and sentence judged by these records."""
    known = None if digests is None else digests_of(stored, digests)
    return judge([each.record for each in stored], differences(stored), known)


# ---- digests


def current_digests() -> dict[str, str]:
    """Record id -> the digest that its run has now, for the costs and for the runs on the embedded dataset at each tier that is judged."""
    from bench.plan import Choice, cost_digest, everything

    found = {f"{paper.key}.{row.key}.cost": cost_digest(paper, row) for paper in built().values() for row in paper.rows if row.build is not None}
    for run in everything(built().values(), Choice("proxy", proofs=True)):
        found[run.id] = run.digest
    return found


def digests_of(stored: Sequence[Stored], digests: Mapping[str, str]) -> dict[str, str]:
    """The digests of now, those of what was timed among them."""
    return {**digests, **_latency_digests(stored), **_training_digests(stored, digests), **_deployed_digests(stored, digests)}


def _latency_digests(stored: Sequence[Stored]) -> dict[str, str]:
    """Record id -> what the meter's and the row's source are now, for latency records; those of rows that are gone are left out."""
    timed = [each.record for each in stored if each.record.kind == "latency"]
    if not timed:
        return {}
    from bench.timing_records import current_digest

    found = {record.id: current_digest(record) for record in timed}
    return {name: known for name, known in found.items() if known}


def _training_digests(stored: Sequence[Stored], digests: Mapping[str, str]) -> dict[str, str]:
    """Record id -> what the run that was timed in training rests on now."""
    timed = [each.record for each in stored if each.record.kind == "training"]
    runs = {record.id: f"{record.paper}.{record.row}.{record.tier}.s0" for record in timed}
    return {name: digests[run] for name, run in runs.items() if run in digests}


def _deployed_digests(stored: Sequence[Stored], digests: Mapping[str, str]) -> dict[str, str]:
    """Record id -> what a run that was tested in a deployed form rests on now; those of rows that are gone are left out."""
    tested = [(each.record, digests.get(str(each.record.samples.get("against")), "")) for each in stored if each.record.kind == "deployed"]
    if not tested:
        return {}
    from bench.deploying import deployed_digest

    found = {record.id: deployed_digest(record, run) for record, run in tested if run}
    return {name: known for name, known in found.items() if known}


# ---- paired differences


def differences(stored: Sequence[Stored]) -> tuple[Difference, ...]:
    """Row minus reference, and what else a paper compares, where both share two seeds or more on one machine and one dataset."""
    where = {each.record.id: each.predictions for each in stored if each.predictions is not None}
    found: list[Difference] = []
    for key, paper in built().items():
        own = tuple(each.record for each in stored if each.record.paper == key and each.record.id in where)
        for data in (MAIN, *(variant.data for variant in paper.variants)):
            found += _differences_on(Evidence(paper, _no_print(paper), own, data=data), where)
    return tuple(found)


def _differences_on(evidence: Evidence, where: Mapping[str, Path]) -> Iterator[Difference]:
    assert evidence.paper is not None
    paper = evidence.paper
    compared = [(row, row.reference) for row in paper.rows if row.reference] + [(paper.row(key), other) for key, other in paper.compared]
    for row, other in compared:
        for tier in JUDGED_TIERS:
            pairs = _pairs(evidence, row.key, other, tier)
            if len(pairs) > 1:
                yield from (_difference(paper.key, (row.key, other), pairs, measure, where=where) for measure in _measures(paper, row))


def _measures(paper: Paper, row: Row) -> tuple[str, ...]:
    """The measures by which the paper judges rows on this row's data, as far as they can be resampled."""
    data = {each.key: each.setting.data for each in paper.rows}
    used = {column.measure for table in paper.tables if any(data[key] == row.setting.data for key in table.rows) for column in table.columns}
    return tuple(measure for measure in PAIRED if measure in used)


def _no_print(paper: Paper) -> Published:
    return Published(paper.key, paper.title, "", (), (), ())


def _pairs(evidence: Evidence, row: str, reference: str, tier: str) -> tuple[tuple[Record, Record], ...]:
    """The runs of a row beside those of its reference, by seed, on the same images."""
    others = {record.seed: record for record in evidence.runs(reference, tier, row)}
    ours = [record for record in evidence.runs(row, tier, reference) if record.seed in others]
    return tuple((record, others[record.seed]) for record in ours if _images(record) == _images(others[record.seed]))


def _images(record: Record) -> tuple[str, str]:
    return str(record.context.get("data", "")), str(record.context.get("data_digest", ""))


def _difference(
    paper: str, compared: tuple[str, str], pairs: Sequence[tuple[Record, Record]], measure: str, *, where: Mapping[str, Path]
) -> Difference:
    from bench.metrics.bootstrap import smallest_detectable_difference

    first, between = pairs[0][0], [a.values[measure] - b.values[measure] for a, b in pairs]
    ours, theirs = ([where[pair[side].id] for pair in pairs] for side in (0, 1))
    data = str(first.context.get("data", MAIN))
    value, interval = _resampled(measure, data, ours, theirs)
    detectable = smallest_detectable_difference(between)
    return Difference(paper, *compared, measure, first.tier, value, interval, len(pairs), detectable, data)


_RESAMPLED: dict[
    tuple[str, ...], tuple[float, tuple[float, float]]
] = {}  # by content: this machine's files and the committed ones are often the same


def _resampled(measure: str, data: str, ours: Sequence[Path], theirs: Sequence[Path]) -> tuple[float, tuple[float, float]]:
    """The mean difference over seeds and its interval, from stored predictions."""
    from bench.metrics.bootstrap import seed_and_image_interval

    key = (measure, data, *(sha256(path.read_bytes()).hexdigest() for path in (*ours, *theirs)))
    if key not in _RESAMPLED:
        matches = ([_matches(measure, path, _truth(data)) for path in paths] for paths in (ours, theirs))
        found = seed_and_image_interval(*matches, samples=SAMPLES)
        _RESAMPLED[key] = found.difference, (found.low, found.high)
    return _RESAMPLED[key]


@cache
def _truth(data: str) -> GroundTruth:
    from bench.datasets import open_split, parse_data

    return open_split(parse_data(data), "test").ground_truth()


def _matches(measure: str, path: Path, truth: GroundTruth) -> Matches:
    from bench.metrics.matches import coco_matches, voc_matches
    from bench.metrics.store import read_predictions

    rules: dict[str, Callable[[Predictions, GroundTruth], Matches]] = {"ap": coco_matches, "voc_ap50": voc_matches}
    return rules[measure](read_predictions(path), truth)
