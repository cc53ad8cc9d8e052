"""How sure a difference of two runs is: resamples of images (or groups of them) and of seeds, and the smallest difference that they can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import NormalDist, stdev
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.matches import Matches

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Counts = NDArray[np.float32]

BLOCK = 64  # rows at once: with 1,000 resamples they stay in the processor's cache
TINY = 1e-20  # instead of no detection at all, so that the precision there is 0 / TINY = 0
COCO_RECALLS = np.linspace(0, 1, 101)
# pycocotools compares tp / objects with these floats; some lie a hair above j / 100 and are missed by a recall of exactly j / 100.
MISSED = {"coco": np.array([recall > j / 100 for j, recall in enumerate(COCO_RECALLS)]), "11point": np.zeros(11, dtype=bool)}


@dataclass(frozen=True)
class Difference:
    """A minus B in AP points (0..100), with its 95 % interval and every resample."""

    difference: float
    low: float
    high: float
    samples: Floats  # (B,)


def image_weights(images: int, samples: int = 1000, seed: int = 0) -> Counts:
    """(images, samples): how often each image stands in each resample of as many images. float32 holds whole numbers to 2 ** 24."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, max(images, 1), size=(samples, images))
    counts = np.array([np.bincount(row, minlength=images) for row in drawn], dtype=np.float32).reshape(samples, images)
    return np.ascontiguousarray(counts.T)


def group_weights(groups: Ints, samples: int = 1000, seed: int = 0) -> Counts:
    """(images, samples): how often each image stands in each resample of as many groups, all images of a drawn group together.

    `groups` (images,) names the group of each image by any number. Images that are not independent of each other, as frames of a clip are not, belong
    to one group (the cluster bootstrap: Davison and Hinkley 1997, section 3.8). Groups of one image give image_weights, bit for bit.
    """
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    order = np.empty_like(first)
    order[np.argsort(first)] = np.arange(len(first))  # groups by their first image
    return np.ascontiguousarray(image_weights(len(first), samples, seed)[order[place]])


def paired_difference(a: Matches, b: Matches, *, samples: int = 1000, seed: int = 0, groups: Ints | None = None) -> Difference:
    """A minus B over resamples of the images, the same for both; percentiles 2.5 and 97.5 (Efron and Tibshirani 1993, section 13.3)."""
    return seed_and_image_interval([a], [b], samples=samples, seed=seed, groups=groups)


def seed_and_image_interval(
    runs_a: Sequence[Matches], runs_b: Sequence[Matches], *, samples: int = 1000, seed: int = 0, groups: Ints | None = None
) -> Difference:
    """The mean difference over seeds, each resample drawing both the seeds (a run of A stays with the run of B of its seed) and the images.

    With `groups` (images,), in the order of the images' ids, whole groups are drawn in place of images; see group_weights.
    """
    if len(runs_a) != len(runs_b) or not runs_a:
        raise ValueError(f"{len(runs_a)} and {len(runs_b)} runs: a paired difference needs the same seeds of both, at least one")
    a, b = resampled([*runs_a, *runs_b], samples=samples, seed=seed, groups=groups).reshape(2, len(runs_a), -1)
    return over_seeds(a - b, seed=seed)


def resampled(runs: Sequence[Matches], *, samples: int = 1000, seed: int = 0, groups: Ints | None = None) -> Floats:
    """(S, 1 + B): each run's AP on all images first, then on resamples of them, which are the same whenever as many images are asked for."""
    if len({(run.images, run.form, len(run.starts)) for run in runs}) > 1:
        raise ValueError("runs on different images, classes or metrics cannot be paired")
    images = runs[0].images
    if groups is not None and len(groups) != images:
        raise ValueError(f"{len(groups)} groups named for {images} images; each image needs one")
    drawn_images = image_weights(images, samples, seed) if groups is None else group_weights(groups, samples, seed)
    weights = np.concatenate([np.ones((images, 1), np.float32), drawn_images], axis=1)
    with ThreadPoolExecutor(2) as pool:  # numpy works outside the interpreter's lock
        return np.array(list(pool.map(lambda run: aps(run, weights), runs)))


def over_seeds(table: Floats, *, seed: int = 0) -> Difference:
    """The mean over the seeds of what `resampled` gives, or of two such tables' difference; each resample draws the seeds too."""
    samples = table.shape[1] - 1
    drawn = np.random.default_rng([seed, 1]).integers(0, len(table), size=(len(table), samples))
    means = np.take_along_axis(table[:, 1:], drawn, axis=0).mean(axis=0)
    means = means[~np.isnan(means)]  # a resample without any object says nothing
    low, high = np.quantile(means, [0.025, 0.975]) if len(means) else (np.nan, np.nan)
    return Difference(float(table[:, 0].mean()), float(low), float(high), means)


def smallest_detectable_difference(differences: Sequence[float], *, level: float = 0.05, power: float = 0.8) -> float:
    """The true mean difference that a two-sided t test at `level` on as many seeds finds with this power, in the unit of the differences.

    (t(1 - level/2, n - 1) + t(power, n - 1)) x s / sqrt(n), with s the deviation of the seeds' differences: the minimum detectable effect of
    H. S. Bloom, Minimum Detectable Effects, Evaluation Review 19(5), 1995. ValueError for fewer than two seeds.
    """
    seeds = len(differences)
    if seeds < 2:
        raise ValueError(f"{seeds} seed(s): a deviation between seeds needs at least two")
    return (t_quantile(1 - level / 2, seeds - 1) + t_quantile(power, seeds - 1)) * stdev(differences) / math.sqrt(seeds)


def detectable_by_resamples(samples: Floats, *, level: float = 0.05, power: float = 0.8) -> float:
    """The same for one run of each side: the quantiles are the normal's, the deviation that of the resampled differences. NaN below two samples.

    It tells what these images can show of these weights, nothing of other seeds.
    """
    normal = NormalDist()
    deviation = stdev(samples.tolist()) if len(samples) > 1 else math.nan
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * deviation


def t_quantile(probability: float, freedom: int) -> float:
    """Student's quantile for a whole number of degrees of freedom and a probability of at least one half, by bisection."""
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < probability else (low, middle)
    return high


def _t_below(value: float, freedom: int) -> float:
    """P(T < value), value >= 0: the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(value / math.sqrt(freedom))
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (step - 1) / step
        total += term
    series = math.sin(angle) * total if freedom > 1 else 0.0
    return 0.5 + ((angle + series) / math.pi if odd else series / 2)


def aps(matches: Matches, weights: Counts) -> Floats:
    """(B,) mean AP, 0..100, with each image counted as often as its weight (images, B) says; NaN where no class has an object."""
    classes = len(matches.starts) - 1
    total, defined = np.zeros((2, weights.shape[1]))
    for label in range(classes):
        values = class_samples(matches, label, weights)
        total += np.nan_to_num(values)
        defined += ~np.isnan(values)
    means: Floats = np.divide(100 * total, defined, out=np.full(len(total), np.nan), where=defined > 0)
    return means


def class_samples(matches: Matches, label: int, weights: Counts) -> Floats:
    """(B,) AP of one class, 0..1, mean over the IoU thresholds; NaN where the resample holds no object of the class."""
    objects = weights[matches.object_image[matches.object_label == label]].sum(axis=0, dtype=np.float64)
    rows = slice(int(matches.starts[label]), int(matches.starts[label + 1]))
    image, true, ignored = matches.image[rows], matches.true[:, rows], matches.ignored[:, rows]
    ends = [_run_ends(*flags) for flags in zip(true, ignored, strict=True)]
    wanted = np.unique(np.concatenate(ends))
    down_to = np.maximum(_sums(weights, image, wanted), TINY)
    total = np.zeros(weights.shape[1])
    for hit, apart, end in zip(true, ignored, ends, strict=True):
        hits, without = np.flatnonzero(hit), np.flatnonzero(apart)
        curve = _Curve(
            found=_sums(weights, image[hits], np.searchsorted(hits, end)),
            down_to=down_to,
            rows=np.searchsorted(wanted, end),
            less=np.cumsum(weights[image[without]], axis=0),
            before=np.searchsorted(without, end),
        )
        total += _read(curve, np.maximum(objects, 1), matches.form)
    values: Floats = np.where(objects > 0, total / len(true), np.nan)
    return values


@dataclass(frozen=True)
class _Curve:
    """Where the runs of hits of one class at one IoU end, best first, in B resamples.

    Within a run precision only rises, and then it is made to fall, so that a run is one point of the curve, its end.
    """

    found: Counts  # (R, B) weight of the hits down to each end
    down_to: Counts  # (U, B) weight of all detections down to each end of any IoU
    rows: NDArray[np.int64]  # (R,) which of these are this curve's
    less: Counts  # (L, B) weight of the ignored detections down to each of them
    before: NDArray[np.int64]  # (R,) how many of these lie before each end


def _run_ends(true: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The hits after which the next detection that counts is no hit."""
    counted = np.flatnonzero(~ignored)
    hit = np.append(true[counted], False)
    ends: NDArray[np.int64] = counted[hit[:-1] & ~hit[1:]]
    return ends


def _sums(weights: Counts, image: NDArray[np.int64], ends: NDArray[np.int64]) -> Counts:
    """(E, B) weight of the detections from the first to each end, itself among them. Row by row: numpy's own accumulate is five times slower here."""
    sums = np.empty((len(ends), weights.shape[1]), dtype=np.float32)
    buffer = np.empty((BLOCK, weights.shape[1]), dtype=np.float32)
    before: Counts = np.zeros(weights.shape[1], dtype=np.float32)
    start = 0
    for row, end in zip(sums, ends.tolist(), strict=True):
        while end - start >= 1:
            stop = min(start + BLOCK, end + 1)
            rows = weights.take(image[start:stop], axis=0, out=buffer[: stop - start], mode="clip")
            before = np.add(rows.sum(axis=0), before, out=row)
            start = stop
        if start == end:
            np.add(before, weights[image[end]], out=row)
        before, start = row, end + 1
    return sums


def _read(curve: _Curve, objects: Floats, form: str) -> Floats:
    """(B,) AP of a curve: precision, made to fall, times the share of recall that each run gains. From the last run to the first, in blocks."""
    points = {"area": 0, "coco": 100, "11point": 10}[form]
    area = np.zeros(len(objects))
    after = np.zeros(len(objects))  # the envelope of the run after the block
    for stop in range(len(curve.rows), 0, -BLOCK):
        block = slice(max(stop - BLOCK, 0), stop)
        found = curve.found[block].astype(np.float64)
        envelope = np.empty((len(found) + 1, len(objects)))
        np.divide(found, _counted(curve, block), out=envelope[:-1])
        envelope[-1] = after
        rows = list(envelope)
        for row, later in zip(rows[-2::-1], rows[:0:-1], strict=True):
            np.maximum(row, later, out=row)
        after = rows[0].copy()
        reached = _reached(found, objects, points, MISSED[form]) if points else found
        area += np.einsum("rb,rb->b", np.subtract(envelope[:-1], envelope[1:], out=envelope[:-1]), reached)
    values: Floats = (after + area) / (points + 1) if points else area / objects  # recall 0 is reached by the first detection
    return values


def _counted(curve: _Curve, block: slice) -> Floats:
    """(r, B) how many detections that count stand down to each end of a block."""
    counted = curve.down_to[curve.rows[block]].astype(np.float64)
    before = curve.before[block]
    if before[-1]:
        some = counted[int(np.argmax(before > 0)) :]  # from the first end with an ignored detection before it
        some -= curve.less[before[-len(some) :] - 1]
        np.maximum(some, TINY, out=some)
    return counted


def _reached(found: Floats, objects: Floats, points: int, missed: NDArray[np.bool_]) -> Floats:
    """Which of the recalls 0, 1/points, .. 1 is the last at or below found / objects (changes `found`)."""
    found *= points
    share = np.divide(found, objects, out=found)
    floor = np.floor(share)
    if missed.any():
        even = np.flatnonzero(objects % 10 == 0)  # found / objects = j / 100 for a j that is missed asks for this
        some = floor[:, even]
        floor[:, even] = some - (missed[some.astype(np.int64)] & (share[:, even] == some))
    return floor
