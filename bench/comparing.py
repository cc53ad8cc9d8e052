"""Two sets of predictions on the same images: what they differ by, how sure that is, and whether the images are a fair sample. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import places
from bench.datasets import open_split, parse_data
from bench.datasets.groups import Groups, groups_of
from bench.metrics.bootstrap import aps, detectable_by_resamples, seed_and_image_interval, smallest_detectable_difference
from bench.metrics.matches import Matches, coco_matches, voc_matches
from bench.records import read_record
from bench.scoring import predictions_of
from bench.showing import committed
from bench.types import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets.source import Data
    from bench.types import GroundTruth, Predictions, Split

SAMPLES = 1000


@dataclass(frozen=True)
class Measured:
    """One measure of both sides, in AP points (0..100), means over the runs of a side; `low` and `high` bound 95 % of the resampled differences."""

    measure: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    detectable: float  # the smallest true difference that these images show with a power of 0.8 at the level 0.05
    detectable_by_seeds: float | None  # the same by the deviation between seeds, from two runs a side


@dataclass(frozen=True)
class Comparison:
    """What `leandet compare` says."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    data: str
    split: str
    images: int
    groups: int
    rule: str  # what makes a group; empty where nothing does
    of_train: str  # whether the images are independent of those trained on
    measured: tuple[Measured, ...]


def compare_results(first: str, second: str, data: str, split: str, pattern: str = "") -> Comparison:
    """First minus second on a split. Each is a run's id, a COCO results file or a predictions.parquet; by commas, runs of several seeds."""
    chosen = parse_data(data)
    opened = open_split(chosen, split)
    truth, groups = opened.ground_truth(), groups_of(chosen, split, pattern)
    names = _names(first), _names(second)
    if len(names[0]) != len(names[1]):
        raise UserError(f"{len(names[0])} and {len(names[1])} results: they are paired in their order, so allowed are as many of both")
    ours, theirs = ([_read(name, chosen, split, opened=opened) for name in side] for side in names)
    numbers = np.array(groups.numbers(), np.int64)
    measured = tuple(
        _measured(key, [rule(each, truth) for each in ours], [rule(each, truth) for each in theirs], numbers) for key, rule in MEASURES.items()
    )
    return Comparison(*names, chosen.name, opened.name, len(opened), groups.count, groups.rule, _of_train(groups, split), measured)


def _names(text: str) -> tuple[str, ...]:
    return (text,) if Path(text).is_file() else tuple(name.strip() for name in text.split(","))


# ---- predictions


def _read(name: str, data: Data, split: str, *, opened: Split) -> Predictions:
    path = Path(name) if Path(name).is_file() else run_predictions(name, opened)
    truth = opened.ground_truth()
    predictions = predictions_of(path, data, split, truth)
    strange = np.setdiff1d(predictions.image, truth.image_ids)
    if len(strange):
        raise UserError(f"{path}: image {strange[0]} is not in {opened.name} (nor are {len(strange) - 1} more); give the --data they were made on")
    if len(predictions.labels) and not 0 <= predictions.labels.min() <= predictions.labels.max() < len(truth.classes):
        raise UserError(f"{path}: label {predictions.labels.max()} is no class of {opened.name}, which has {len(truth.classes)}; give other --data")
    return predictions


def run_predictions(name: str, opened: Split) -> Path:
    """The predictions of a run: of this checkout, else of its scored results, else committed; those made on other images are refused."""
    here = [places.run_folder(name) / "predictions.parquet", places.local_scores() / f"{name}.parquet"]
    found = [path for path in here if name and path.is_file()] or committed(name, ".parquet")
    if not found:
        raise UserError(f"{name!r}: neither a file nor a run with predictions here; `leandet leaderboard` lists the rows, `leandet run` makes one")
    path = found[0]
    about = path.with_name("record.json") if path.name == "predictions.parquet" else path.with_suffix(".json")
    context = read_record(about).context
    if context.get("data_digest") != opened.digest:
        tested = f"{context.get('data', 'other data')}, {context.get('tested_on', 'test')}"
        raise UserError(f"{name}: it was tested on other images ({tested}) than {opened.name}; give the --data and --split that it was tested on")
    return path


# ---- numbers


def coco50_matches(predictions: Predictions, truth: GroundTruth) -> Matches:
    """COCO's rule at IoU 0.5 alone."""
    matches = coco_matches(predictions, truth)
    return replace(matches, true=matches.true[:1], ignored=matches.ignored[:1])


MEASURES: dict[str, Callable[[Predictions, GroundTruth], Matches]] = {"AP": coco_matches, "AP50": coco50_matches, "VOC AP50": voc_matches}


def _measured(key: str, first: Sequence[Matches], second: Sequence[Matches], groups: NDArray[np.int64]) -> Measured:
    found = seed_and_image_interval(first, second, samples=SAMPLES, groups=groups)
    once = np.ones((len(groups), 1), np.float32)
    a, b = ([float(aps(matches, once)[0]) for matches in side] for side in (first, second))
    by_seeds = smallest_detectable_difference([x - y for x, y in zip(a, b, strict=True)]) if len(a) > 1 else None
    detectable = detectable_by_resamples(found.samples)
    return Measured(key, float(np.mean(a)), float(np.mean(b)), found.difference, found.low, found.high, detectable, by_seeds)


# ---- words


def _of_train(groups: Groups, split: str) -> str:
    if split == "train":
        return "these are images of train itself"
    if not groups.rule:
        return "unknown, as nothing says which images belong together"
    if not groups.train:
        return "unknown, as --data names no train split"
    if groups.shared_images:
        shared = f"{groups.shared_images} of {len(groups.keys)} images are of groups ({groups.shared_groups} in all)"
        return f"not independent of train: {shared} that train has images of too"
    return "no group has images in train"


def in_json(found: Comparison) -> str:
    """The comparison for programs; a number that is not defined is null."""
    return json.dumps(_plain(asdict(found)), indent=1)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def in_words(found: Comparison) -> str:
    """The comparison as lines for the terminal."""
    said = found.rule or 'none known, so each image counts as independent; --groups REGEX or a field "group" of the COCO images would say'
    lines = [
        f"A        {', '.join(found.first)}",
        f"B        {', '.join(found.second)}",
        f"images   {found.images} of {found.data}, {found.split}",
        f"groups   {found.groups}, drawn whole in {SAMPLES} resamples; {'what makes them: ' if found.rule else ''}{said}",
        f"train    {found.of_train}",
        f"runs     {len(found.first)} a side" + ("" if len(found.first) > 1 else ": the interval is that of these weights, not of other seeds"),
        f"{'':10}{'A':>8}{'B':>8}{'A - B':>8}   {'95 % interval':18}smallest detectable difference",
    ]
    return "\n".join([*lines, *map(_line, found.measured)])


def _line(each: Measured) -> str:
    by_seeds = "" if each.detectable_by_seeds is None else f", by the seeds {each.detectable_by_seeds:.2f}"
    interval = f"[{each.low:+.2f}, {each.high:+.2f}]"
    return f"{each.measure:10}{each.first:8.2f}{each.second:8.2f}{each.difference:+8.2f}   {interval:18}{each.detectable:.2f}{by_seeds}"
