"""Training curves as SVG written out by hand: the same bytes on every machine, and no drawing library to wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, LEAST_HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 180, 16, 36  # margins; the right one holds the legend
LINE = 14  # of the legend
COLOURS = ("#1f6f8b", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#4a4a4a", "#d1495b", "#2e86ab")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axes:
    """Where data lies in the picture."""

    right: float  # of the data; the left end is 0
    high: float  # the low end is 0
    bottom: int  # in the picture

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.right

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - TOP) * value / self.high


def chart(title: str, series: Mapping[str, Points], *, horizontal: str, vertical: str) -> str:
    """A figure with a line for each name, axes from zero and a legend; it needs nothing else. Empty series give an empty text."""
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return ""
    colours = _colours(tuple(dict.fromkeys(_group(name) for name in drawn)))
    height = max(LEAST_HEIGHT, TOP + LINE * (len(colours) + 1))
    axes = _Axes(
        max(x for line in drawn.values() for x, _ in line) or 1.0, max(y for line in drawn.values() for _, y in line) or 1.0, height - BOTTOM
    )
    body = _frame(axes, horizontal, vertical) + [_line(axes, name, points, colours[_group(name)]) for name, points in drawn.items()]
    head = f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
    return head + f"<title>{escape(title)}</title>" + "".join(body + _legend(colours)) + "</svg></figure>"


def _group(name: str) -> str:
    """Seeds of one row share a colour: "k16-l5 s3" belongs to "k16-l5"."""
    return name.rpartition(" s")[0] or name


def _colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour a group: chosen ones while they last, else the whole circle in equal steps."""
    circle = tuple(f"hsl({360 * place // len(groups)} 60% 42%)" for place in range(len(groups)))
    return dict(zip(groups, COLOURS if len(groups) <= len(COLOURS) else circle, strict=False))


def _line(axes: _Axes, name: str, points: Points, colour: str) -> str:
    path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"><title>{escape(name)}</title></polyline>'


def _legend(colours: Mapping[str, str]) -> list[str]:
    left = WIDTH - RIGHT + 12
    return [
        f'<rect x="{left}" y="{TOP + LINE * place + 6}" width="10" height="3" fill="{colour}"/>'
        f'<text x="{left + 16}" y="{TOP + LINE * place + 11}">{escape(name)}</text>'
        for place, (name, colour) in enumerate(colours.items())
    ]


def _frame(axes: _Axes, horizontal: str, vertical: str) -> list[str]:
    bottom, right, middle = axes.bottom, WIDTH - RIGHT, (TOP + axes.bottom) // 2
    out = [f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#888"/>']
    out += [f'<text x="{axes.x(x):.1f}" y="{bottom + 14}" text-anchor="middle">{_short(x)}</text>' for x in ticks(axes.right)]
    out += [f'<text x="{LEFT - 6}" y="{axes.y(y) + 4:.1f}" text-anchor="end">{_short(y)}</text>' for y in ticks(axes.high)]
    out.append(f'<text x="{(LEFT + right) // 2}" y="{bottom + 32}" text-anchor="middle">{escape(horizontal)}</text>')
    out.append(f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(vertical)}</text>')
    return out


def ticks(largest: float) -> list[float]:
    """Round numbers from 0 up to the largest: four to ten of them, in steps of 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** floor(log10(largest))
    step = next(power * factor for factor in (1.0, 0.5, 0.2, 0.1) if largest / (power * factor) >= 4)
    return [place * step for place in range(ceil(largest / step + 1e-9))]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:.3g}"
