"""Percentiles against the printed table of ranks, and two series against values counted by hand and published ones."""

from __future__ import annotations

import itertools
import math

import pytest

from bench.percentiles import bound, least, rank
from bench.two_samples import mann_whitney, ratio_of_medians

# percentile: (least samples, rank of 100, 200, 500, 1000): the table of the house's rules
TABLE = {50: (11, 37, 83, 223, 462), 90: (64, 3, 10, 34, 78), 95: (130, None, 3, 13, 34), 99: (662, None, None, None, 2)}


@pytest.mark.parametrize("percentile", TABLE)
def test_ranks_are_those_of_the_printed_table(percentile):
    needed, *ranks = TABLE[percentile]
    assert least(percentile) == needed
    assert [rank(count, percentile) for count in (100, 200, 500, 1000)] == ranks
    assert rank(needed - 1, percentile) is None
    assert rank(needed, percentile) == 1


def test_a_bound_is_the_sample_of_its_rank():
    assert bound([float(i) for i in range(1, 101)], 90) == 98  # the third largest of 1..100
    assert bound([1.0] * 63, 90) is None
    assert bound([1.0] * 63 + [9.0], 90) == 9
    assert bound([], 50) is None


def test_eleven_samples_bound_the_median_by_hand():
    """One or none of eleven beyond the median: 12 of 2048 orders, under one per cent; of ten: 11 of 1024, over it."""
    assert 12 / 2048 < 0.01 < 11 / 1024
    assert (rank(11, 50), rank(10, 50)) == (1, None)


def test_thousands_of_samples_stay_in_range():
    assert 0 < rank(20_000, 50) < 10_000


def test_a_ratio_of_medians_by_hand():
    found = ratio_of_medians([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.value, found.low, found.high) == (2, 2, 2)  # rounds stay together, so every resample gives 2
    assert ratio_of_medians([5.0] * 9, [4.0] * 9).value == 1.25
    with pytest.raises(ValueError, match="2 and 1"):
        ratio_of_medians([1.0, 2.0], [1.0])


def test_an_interval_holds_the_ratio():
    ours, theirs = [10 + (i * 7 % 13) / 10 for i in range(60)], [9 + (i * 5 % 11) / 10 for i in range(60)]
    found = ratio_of_medians(ours, theirs)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.1


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        ([1, 2, 3], [4, 5, 6], 2 / 20),  # one order of twenty, either way round
        ([19, 22, 16, 29, 24], [20, 11, 17, 12], 14 / 126),  # scipy.stats.mannwhitneyu's own example
        ([1], [2], 1.0),
    ],
)
def test_mann_whitney_exactly(first, second, p):
    assert mann_whitney(first, second) == pytest.approx(p)
    assert mann_whitney(second, first) == pytest.approx(p)


@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 4), (4, 4)])
def test_mann_whitney_against_all_orders(n, m):
    """Every way to place n of n + m: p is the share that is at least as far from the middle."""
    orders = [set(chosen) for chosen in itertools.combinations(range(n + m), n)]

    def away(chosen):
        u = sum(a > b for a in chosen for b in set(range(n + m)) - chosen)
        return abs(u - n * m / 2)

    for chosen in orders:
        p = sum(away(other) >= away(chosen) for other in orders) / len(orders)
        assert mann_whitney(sorted(chosen), sorted(set(range(n + m)) - chosen)) == pytest.approx(p)


def test_mann_whitney_with_ties_by_hand():
    """U counts a tie as half; a value that stands t times takes t**3 - t, over 4 * 3, from the variance's n + m + 1 = 5."""
    assert mann_whitney([1, 2], [1, 1]) == pytest.approx(math.erfc((3 - 2 - 0.5) / math.sqrt(2 * 4 / 12 * (5 - 24 / 12))))
    assert mann_whitney([2, 2], [1, 1]) == pytest.approx(math.erfc((4 - 2 - 0.5) / math.sqrt(2 * 4 / 12 * (5 - 12 / 12))))
    assert mann_whitney([1, 2], [2, 1]) == 1.0
    assert mann_whitney([1, 1], [1, 1]) == 1.0


def test_mann_whitney_of_many_is_normal():
    first, second = [float(i) for i in range(50)], [i + 0.5 for i in range(50)]
    exact_mean, deviation = 50 * 50 / 2, math.sqrt(50 * 50 * 101 / 12)
    u = sum(a > b for a in second for b in first)
    assert mann_whitney(first, second) == pytest.approx(math.erfc((u - exact_mean - 0.5) / deviation / math.sqrt(2)))
