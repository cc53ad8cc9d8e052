"""Accuracy against cost as SVG written out by hand: a point a row, its interval as a bar, its words for those who cannot see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isnan, log10, nan

WIDTH, HEIGHT = 400, 280
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 14, 40
GLYPH = 6.1  # width of a letter of a label, in the picture's units
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """One row: its accuracy with the interval over seeds (nan: one seed) and its cost with the far end of a bar, if it has one."""

    name: str
    said: str  # all of it in words
    x: float
    y: float
    low: float = nan
    high: float = nan
    far: float = nan
    reference: bool = False  # others are judged against it: a square
    standing: str = ""  # "beaten": another row costs no more and is better for certain, grey; "undecided": it may be so, hollow; empty: neither


@dataclass(frozen=True)
class Axis:
    """Where numbers lie in a picture, evenly or by their logarithm."""

    start: float
    end: float
    first: int  # in the picture
    last: int
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The place of a number in the picture."""
        start, end, value = (log10(each) for each in (self.start, self.end, value)) if self.logarithmic else (self.start, self.end, value)
        return self.first + (self.last - self.first) * (value - start) / (end - start)

    def ticks(self) -> list[float]:
        """The numbers that are written along it."""
        return decades(self.start, self.end) if self.logarithmic else steps(self.start, self.end)


def scatter(title: str, points: Sequence[Point], *, horizontal: str, vertical: str, logarithmic: bool = False) -> str:
    """A figure of the points, accuracies around what was measured; nothing is fetched, every text is escaped.

    Costs begin at zero; `logarithmic`, where they span decades, they have the distance of their ratio, and all must be above zero.
    """
    x = _costs(points, logarithmic=logarithmic)
    low, high = min(_ends(points, "y", "low")), max(_ends(points, "y", "high"))
    room = max(0.12 * (high - low), 0.5)
    y = Axis(low - room, high + room, HEIGHT - BOTTOM, TOP)
    body = [*_frame(x, y, horizontal, vertical), *(_mark(point, x, y) for point in points), *_labels(points, x, y)]
    head = f'<figure><figcaption>{escape(title)}</figcaption><svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="group"'
    return f'{head} aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg></figure>'


def _costs(points: Sequence[Point], *, logarithmic: bool) -> Axis:
    found = _ends(points, "x", "far")
    most = max(found)
    if logarithmic:
        return Axis(min(found) / 1.25, most * 1.25, LEFT, WIDTH - RIGHT, logarithmic=True)
    return Axis(0.0, 1.06 * most if most > 1e-9 else 1.0, LEFT, WIDTH - RIGHT)


def _ends(points: Sequence[Point], *names: str) -> list[float]:
    return [value for point in points for name in names if not isnan(value := getattr(point, name))]


def _mark(point: Point, x: Axis, y: Axis) -> str:
    """A point that can be reached by keyboard and is read out whole; hollow where no interval could be given or it is undecided."""
    at, up = x.at(point.x), y.at(point.y)
    kind = f"pt{' ref' if point.reference else ''}{' one' if isnan(point.low) else ''}{f' {point.standing}' if point.standing else ''}"
    out = [f'<g class="{kind}" tabindex="0" role="img"><title>{escape(point.said)}</title>']
    if not isnan(point.low):
        top, bottom = y.at(point.high), y.at(point.low)
        out.append(f'<path d="M{at:.1f} {top:.1f}V{bottom:.1f}M{at - 3:.1f} {top:.1f}h6M{at - 3:.1f} {bottom:.1f}h6"/>')
    if not isnan(point.far):
        out.append(f'<path d="M{at:.1f} {up:.1f}H{x.at(point.far):.1f}m0 -3v6"/>')
    shape = f'<rect x="{at - 4:.1f}" y="{up - 4:.1f}" width="8" height="8"/>' if point.reference else f'<circle cx="{at:.1f}" cy="{up:.1f}" r="4.5"/>'
    return "".join([*out, shape, "</g>"])


def _labels(points: Sequence[Point], x: Axis, y: Axis) -> list[str]:
    """Names where there is room for them; the others are told by their point alone."""
    taken: list[Box] = []
    for point in points:
        at, up = x.at(point.x), y.at(point.y)
        top = y.at(point.high) if not isnan(point.high) else up
        bottom = y.at(point.low) if not isnan(point.low) else up
        taken.append((at - 5, min(top, up - 5), max(at, at if isnan(point.far) else x.at(point.far)) + 5, max(bottom, up + 5)))
    out = []
    for point, own in zip(points, tuple(taken), strict=True):
        if not point.name:
            continue
        at, up, wide = x.at(point.x), y.at(point.y), GLYPH * len(point.name)
        beside = ((own[2] + 3, up + 3.5), (at - 8 - wide, up + 3.5))
        for left, base in (*beside, (at - wide / 2, own[1] - 4), (at - wide, own[1] - 4), (at - wide / 2, own[3] + 11), (at - wide, own[3] + 11)):
            box = (left, base - 9, left + wide, base + 2)
            if _inside(box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                out.append(f'<text aria-hidden="true" x="{left:.1f}" y="{base:.1f}">{escape(point.name)}</text>')
                break
    return out


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[2] <= WIDTH - 2 and box[1] >= 2 and box[3] <= HEIGHT - BOTTOM


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _frame(x: Axis, y: Axis, horizontal: str, vertical: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    out = [f'<path class="grid" d="M{LEFT} {y.at(value):.1f}H{right}"/>' for value in steps(y.start, y.end)]
    out.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    out += [f'<text class="n" x="{x.at(value):.1f}" y="{bottom + 14}" text-anchor="middle">{value:g}</text>' for value in x.ticks()]
    out += [f'<text class="n" x="{LEFT - 6}" y="{y.at(value) + 3.5:.1f}" text-anchor="end">{value:g}</text>' for value in steps(y.start, y.end)]
    out.append(f'<text x="{(LEFT + right) / 2:g}" y="{HEIGHT - 7}" text-anchor="middle">{escape(horizontal)}</text>')
    out.append(
        f'<text transform="rotate(-90 11 {(TOP + bottom) / 2:g})" x="11" y="{(TOP + bottom) / 2:g}" text-anchor="middle">{escape(vertical)}</text>'
    )
    return out


def decades(start: float, end: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two numbers above zero."""
    powers = range(floor(log10(start)), ceil(log10(end)) + 1)
    return [value for power in powers for factor in (1, 2, 5) if start <= (value := factor * 10.0**power) <= end]


def steps(start: float, end: float) -> list[float]:
    """Round numbers between two ends: three to eight of them, in steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(end - start))
    step = next(power * factor for factor in (2.0, 1.0, 0.5, 0.2, 0.1) if (end - start) / (power * factor) >= 3)
    first = ceil(start / step - 1e-9)
    return [round(place * step, 9) for place in range(first, floor(end / step + 1e-9) + 1)]
