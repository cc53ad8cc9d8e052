"""Training curves as SVG written out by hand: the same bytes on every machine, and no drawing library to wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 180, 16, 36  # margins; the right one holds the legend
COLOURS = ("#1f6f8b", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#4a4a4a", "#d1495b", "#2e86ab")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axes:
    """Where data lies in the picture."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.left) / (self.right - self.left or 1)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low) / (self.high - self.low or 1)


def chart(title: str, series: Mapping[str, Points], *, horizontal: str, vertical: str) -> str:
    """Lines, one a name, with axes and a legend; an <svg> that needs nothing else. Empty series give an empty text."""
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return ""
    axes = _axes([point for points in drawn.values() for point in points])
    body = [*_frame(axes, horizontal, vertical)]
    names = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(_group(name) for name in drawn))}
    for name, points in drawn.items():
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
        body.append(
            f'<polyline fill="none" stroke="{names[_group(name)]}" stroke-width="1.5" points="{path}"><title>{escape(name)}</title></polyline>'
        )
    for place, (name, colour) in enumerate(names.items()):
        y = TOP + 14 * (place + 1)
        body.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 8}" width="10" height="3" fill="{colour}"/>')
        body.append(f'<text x="{WIDTH - RIGHT + 28}" y="{y - 3}">{escape(name)}</text>')
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
    return head + f"<title>{escape(title)}</title>" + "".join(body) + "</svg>"


def _group(name: str) -> str:
    """Seeds of one row share a colour: "k16-l5 s3" belongs to "k16-l5"."""
    return name.rpartition(" s")[0] or name


def _axes(points: Points) -> _Axes:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return _Axes(min(0.0, *xs), max(xs), min(0.0, *ys), max(ys) * 1.05 or 1.0)


def _frame(axes: _Axes, horizontal: str, vertical: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    out = [f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#888"/>']
    for step in range(5):
        x, y = axes.left + (axes.right - axes.left) * step / 4, axes.low + (axes.high - axes.low) * step / 4
        out.append(f'<text x="{axes.x(x):.1f}" y="{bottom + 14}" text-anchor="middle">{_short(x)}</text>')
        out.append(f'<text x="{LEFT - 6}" y="{axes.y(y) + 4:.1f}" text-anchor="end">{_short(y)}</text>')
    out.append(f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(horizontal)}</text>')
    middle = (TOP + bottom) // 2
    out.append(f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(vertical)}</text>')
    return out


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:.3g}"
