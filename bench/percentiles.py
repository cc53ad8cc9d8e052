"""Percentiles that a sample count can support: bounds by order statistics, n/a below the least count. Standard library only."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

CONFIDENCE = 0.99
PERCENTILES = (50, 90, 95, 99)


@functools.lru_cache(maxsize=1024)
def rank(samples: int, percentile: float) -> int | None:
    """Which largest of so many samples to report as the percentile (1: the largest); None where there are too few.

    Of `samples` independent ones, each lies beyond the true percentile with probability 1 - percentile / 100. The rank is the largest r for which
    the chance that r or fewer lie beyond it is at most one per cent: so the r-th largest lies beyond it too, with one sample to spare, and the
    reported figure is never flattering. MLPerf Inference stops early by the same rule.
    """
    beyond = 1 - percentile / 100
    cumulative = 0.0
    for count in range(samples + 1):
        cumulative += _binomial(samples, count, beyond)
        if cumulative > 1 - CONFIDENCE:
            return count - 1 if count > 1 else None
    return None


def _binomial(trials: int, count: int, chance: float) -> float:
    """P(exactly `count` of `trials`); by logarithms, as the coefficients of a thousand trials leave the range of floats."""
    ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return math.exp(ways + count * math.log(chance) + (trials - count) * math.log1p(-chance))


def least(percentile: float) -> int:
    """The smallest number of samples that supports a percentile: 11, 64, 130 and 662 for p50, p90, p95 and p99."""
    count = 1
    while rank(count, percentile) is None:
        count += 1
    return count


def bound(samples: Sequence[float], percentile: float) -> float | None:
    """The percentile, not flattered: with 99 % confidence the true one is at most this; None where there are too few samples."""
    place = rank(len(samples), percentile)
    return None if place is None else sorted(samples, reverse=True)[place - 1]
