"""Two interleaved series of times: the ratio of their medians with an interval, and whether they differ at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
EXACT_PAIRS = 400  # up to n * m pairs without ties the distribution of U is counted out, beyond it is normal


@dataclass(frozen=True)
class Ratio:
    """Median of one series over the median of another, with its 95 % interval."""

    value: float
    low: float
    high: float


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Ratio:
    """Ours over theirs; both hold one time a round, in the order of the rounds, and a resample draws rounds, so that the pairs stay together.

    The interval holds percentiles 2.5 and 97.5 of the resamples (Efron and Tibshirani 1993, section 13.3). ValueError where the counts differ.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} and {len(theirs)} times: a ratio needs as many of both, at least one")
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(a), size=(RESAMPLES, len(a)))
    low, high = np.quantile(np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(a) / np.median(b)), float(low), float(high))


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p value of the Mann-Whitney U test: 1 where nothing tells the two series apart.

    Counted out exactly for few samples without ties; else normal, with the correction for ties and for continuity. ValueError for an empty series.
    """
    n, m = len(first), len(second)
    if not n or not m:
        raise ValueError(f"{n} and {m} samples: a test needs at least one of each")
    u = sum((a > b) + (a == b) / 2 for a in first for b in second)
    ties = [count for count in Counter([*first, *second]).values() if count > 1]
    larger = max(u, n * m - u)
    return _exact(larger, n, m) if not ties and n * m <= EXACT_PAIRS else _normal(larger, (n, m), ties)


def _exact(larger: float, n: int, m: int) -> float:
    """P(U >= larger), doubled: of all ways to place n among n + m, as many as give each U (Mann and Whitney 1947, eq. 1)."""
    ways = _ways(n, m)
    return min(1.0, 2 * sum(ways[math.ceil(larger) :]) / sum(ways))


def _ways(n: int, m: int) -> list[int]:
    """For U = 0 .. n * m, in how many orders of n and m samples it comes out: the coefficients of the Gaussian binomial."""
    ways = [1] + [0] * (n * m)
    for step in range(1, n + 1):
        for u in range(n * m, m + step - 1, -1):
            ways[u] -= ways[u - m - step]
        for u in range(step, n * m + 1):
            ways[u] += ways[u - step]
    return ways


def _normal(larger: float, counts: tuple[int, int], ties: Sequence[int]) -> float:
    n, m = counts
    whole = n + m
    tied = sum(count**3 - count for count in ties) / (whole * (whole - 1))
    variance = n * m / 12 * (whole + 1 - tied)
    if variance <= 0:
        return 1.0
    return min(1.0, math.erfc((larger - n * m / 2 - 0.5) / math.sqrt(2 * variance)))
