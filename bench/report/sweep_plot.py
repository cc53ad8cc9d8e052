"""A sweep as SVG written out by hand: a line a series, each row with its interval, what the paper prints dashed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from bench.report.scatter import Axis, steps

if TYPE_CHECKING:
    from bench.sweeps import Drawn, Line, Place

WIDTH, HEIGHT = 460, 310
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 40
LEGEND = 14  # a line of it
KINDS = 4  # of colours in page.css


def sweep_plot(drawn: Drawn) -> str:
    """A figure of one sweep; every place is a point that can be reached by keyboard and says itself in words."""
    title = f"{drawn.sweep.title}: {drawn.tier} tier, {drawn.data}, {drawn.machine}"
    places = [drawn.start, *(place for line in drawn.lines for place in line.places)]
    ends = [place.along for place in places] + [along for along, _ in drawn.printed]
    x = Axis(min(ends), max(ends) + 0.03 * (max(ends) - min(ends)), LEFT, WIDTH - RIGHT)
    top = max([place.kept.point.interval[1] for place in places] + [value for _, value in drawn.printed])
    y = Axis(0.0, 1.06 * top if top > 0 else 1.0, HEIGHT - BOTTOM, TOP)
    body = _frame(x, y, drawn.sweep.along)
    if drawn.printed:
        body.append(f'<polyline class="printed" points="{_path(drawn.printed, x, y)}"/>')
    for line in drawn.lines:
        body += _series(drawn, line, (x, y))
    body += [_mark(drawn.start, "the reference", (x, y), "ref"), *_legend(drawn)]
    head = f'<figure><figcaption>{escape(title)}</figcaption><svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="group"'
    return f'{head} aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg></figure>'


def _series(drawn: Drawn, line: Line, axes: tuple[Axis, Axis]) -> list[str]:
    kind = f"s{line.number % KINDS}"
    path = _path([(place.along, place.ap) for place in (drawn.start, *line.places)], *axes)
    marks = [_mark(place, line.name, axes, f"{kind}{'' if place.kept.point.seeds > 1 else ' one'}") for place in line.places]
    return [f'<polyline class="{kind}" points="{path}"/>', *marks]


def _path(places: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    return " ".join(f"{x.at(along):.1f},{y.at(value):.1f}" for along, value in places)


def _mark(place: Place, name: str, axes: tuple[Axis, Axis], kind: str) -> str:
    x, y = axes
    point, gain = place.kept.point, place.kept.gain
    (low, high), at, up = point.interval, x.at(place.along), y.at(place.ap)
    said = f"{point.id}, {name}, {place.along:g}: AP {point.ap:.2f} [{low:.2f}, {high:.2f}], {point.seeds} seed{'s' * (point.seeds > 1)}"
    if gain is not None:
        said += f"; to {place.kept.reference} {gain.value:+.2f} [{gain.interval[0]:+.2f}, {gain.interval[1]:+.2f}]"
    bar = f"M{at:.1f} {y.at(high):.1f}V{y.at(low):.1f}M{at - 3:.1f} {y.at(high):.1f}h6M{at - 3:.1f} {y.at(low):.1f}h6"
    shape = f'<rect x="{at - 3.5:.1f}" y="{up - 3.5:.1f}" width="7" height="7"/>' if kind == "ref" else f'<circle cx="{at:.1f}" cy="{up:.1f}" r="3"/>'
    return f'<g class="pt {kind}" tabindex="0" role="img"><title>{escape(said)}</title><path d="{bar}"/>{shape}</g>'


def _legend(drawn: Drawn) -> list[str]:
    """At the lower left, where a curve that begins high and falls leaves room."""
    names = [(f"s{line.number % KINDS}", line.name) for line in drawn.lines] + ([("printed", "printed, its own data")] if drawn.printed else [])
    out = []
    for place, (kind, name) in enumerate(names):
        base = HEIGHT - BOTTOM - 8 - LEGEND * (len(names) - 1 - place)
        out.append(f'<path class="{kind}" d="M{LEFT + 8} {base - 4}h18"/><text x="{LEFT + 32}" y="{base}">{escape(name)}</text>')
    return out


def _frame(x: Axis, y: Axis, along: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    out = [f'<path class="grid" d="M{LEFT} {y.at(value):.1f}H{right}"/>' for value in steps(y.start, y.end)]
    out.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    out += [f'<text class="n" x="{x.at(value):.1f}" y="{bottom + 14}" text-anchor="middle">{value:g}</text>' for value in steps(x.start, x.end)]
    out += [f'<text class="n" x="{LEFT - 6}" y="{y.at(value) + 3.5:.1f}" text-anchor="end">{value:g}</text>' for value in steps(y.start, y.end)]
    middle = (TOP + bottom) / 2
    out.append(f'<text x="{(LEFT + right) / 2:g}" y="{HEIGHT - 7}" text-anchor="middle">{escape(along)}</text>')
    return [*out, f'<text transform="rotate(-90 11 {middle:g})" x="11" y="{middle:g}" text-anchor="middle">AP</text>']
