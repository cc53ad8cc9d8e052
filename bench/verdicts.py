"""The rules by which a number is judged: printed digits, intervals of differences. Pure; standard library only."""

from __future__ import annotations

import re
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Literal, get_args

Word = Literal[
    "reproduced",
    "direction holds",
    "direction reversed",
    "undecided",
    "deviates",
    "irreproducible",
    "contradicted by its own table",
    "undertrained",
    "stale",
    "quoted",
    "not attempted",
]
WORDS: tuple[Word, ...] = get_args(Word)
# Of several parts of one sentence the first of these decides: what is missing before what fails before what holds.
WORST_FIRST: tuple[Word, ...] = (
    "quoted", "not attempted", "stale", "undertrained", "direction reversed", "contradicted by its own table", "irreproducible", "deviates",
    "undecided", "direction holds", "reproduced",
)  # fmt: skip
SAME_TIME = 0.05  # two rows are as fast where the interval of their ratio lies this near to one
EQUAL_AP = 1.0  # two rows are equal where the interval of their difference lies within this many AP points

Interval = tuple[float, float]
Ruling = tuple[Word, str]  # the outcome and its reason in a sentence

_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def word_of(text: str) -> Word:
    """The outcome word that a text spells; anything else is a fault of a paper.py."""
    assert text in WORDS, f"{text!r} is no outcome; there are {', '.join(WORDS)}"
    return next(word for word in WORDS if word == text)


def printed_number(printed: str) -> Decimal:
    """The number of a printed cell with the digits that it shows: "13 MB" is 13, "734.0" keeps its zero. ValueError if there is none."""
    found = _NUMBER.search(printed)
    if found is None:
        raise ValueError(f"{printed!r} holds no number")
    return Decimal(found.group())


def digits(printed: str, measured: float, *, tolerance: float = 0.0) -> Ruling:
    """Whether a measured number rounds, or is cut, to the printed digits, or lies within a relative tolerance of them."""
    wanted = printed_number(printed)
    exact = Decimal(repr(float(measured)))
    relative = float((exact - wanted) / wanted) if wanted else float("inf")
    if exact.quantize(wanted, ROUND_HALF_UP) == wanted:
        return "reproduced", "rounds to the printed digits"
    if exact.quantize(wanted, ROUND_DOWN) == wanted:
        return "reproduced", "cut off, not rounded, it gives the printed digits"
    if abs(relative) <= tolerance:
        return "reproduced", f"{100 * relative:+.2f} %, within {100 * tolerance:g} %"
    return "deviates", f"{100 * relative:+.1f} % of what is printed"


def equality(interval: Interval, within: float = EQUAL_AP) -> Ruling:
    """Equal where the whole interval lies within +-`within`; refuted where it lies outside; a difference that is merely not found is undecided."""
    low, high = interval
    if -within <= low and high <= within:
        return "reproduced", f"the interval {span(interval)} lies within +-{within:g}"
    if low > within or high < -within:
        return "deviates", f"the interval {span(interval)} lies outside +-{within:g}: not equal"
    return "undecided", f"the interval {span(interval)} reaches beyond +-{within:g}"


def magnitude(interval: Interval, claimed: float) -> Ruling:
    """Met where the interval leaves out zero and holds the claimed difference; its sign alone is `direction holds`."""
    low, high = interval
    if low <= 0 <= high:
        return "undecided", f"the interval {span(interval)} holds zero: no difference found"
    if (high < 0) != (claimed < 0):
        return "direction reversed", f"the interval {span(interval)} lies on the other side of zero than {claimed:+.1f}"
    if low <= claimed <= high:
        return "reproduced", f"the interval {span(interval)} holds {claimed:+.1f} and not zero"
    return "direction holds", f"the interval {span(interval)} has the sign of {claimed:+.1f} and does not hold it"


def superiority(interval: Interval) -> Ruling:
    """Better where the whole interval lies above zero."""
    low, high = interval
    if low > 0:
        return "reproduced", f"the interval {span(interval)} lies above zero"
    if high < 0:
        return "direction reversed", f"the interval {span(interval)} lies below zero"
    return "undecided", f"the interval {span(interval)} holds zero: no difference found"


def ratio(interval: Interval, claimed: float) -> Ruling:
    """How many times as fast: met where the interval leaves out one and holds the claimed ratio; its side of one alone is `direction holds`."""
    low, high = interval
    said = f"the interval [{low:.2f}, {high:.2f}]"
    if low <= 1 <= high:
        return "undecided", f"{said} holds one: no difference found"
    if (high < 1) != (claimed < 1):
        return "direction reversed", f"{said} lies on the other side of one than {claimed:.2f}"
    if low <= claimed <= high:
        return "reproduced", f"{said} holds {claimed:.2f} and not one"
    return "direction holds", f"{said} lies on the side of {claimed:.2f} and does not hold it"


def same_time(interval: Interval, claimed: float) -> Ruling:
    """As fast, give or take SAME_TIME, where a printed ratio says no more: the whole interval lies that near to one."""
    low, high = interval
    near, said = (1 - SAME_TIME, 1 + SAME_TIME), f"the interval [{low:.2f}, {high:.2f}]"
    if near[0] <= low and high <= near[1]:
        return "reproduced", f"{said} lies within {near[0]:.2f} to {near[1]:.2f}, as fast, which {claimed:.2f} is too"
    if low > near[1] or high < near[0]:
        return "deviates", f"{said} lies outside {near[0]:.2f} to {near[1]:.2f}: not as fast as printed"
    return "undecided", f"{said} reaches beyond {near[0]:.2f} to {near[1]:.2f}"


def faster(interval: Interval) -> Ruling:
    """Faster where the whole interval of how many times as fast it is lies above one."""
    low, high = interval
    said = f"the interval [{low:.2f}, {high:.2f}]"
    if low <= 1 <= high:
        return "undecided", f"{said} holds one: no difference found"
    return ("reproduced", f"{said} lies above one") if low > 1 else ("direction reversed", f"{said} lies below one")


def difference(interval: Interval, printed: float) -> Ruling:
    """A printed difference of two rows: equality where it is zero, else its magnitude."""
    return magnitude(interval, printed) if printed else equality(interval)


def span(interval: Interval) -> str:
    """As in [-0.31, +0.42]."""
    return f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"
