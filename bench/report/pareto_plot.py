"""Accuracy against bytes, multiply-adds and time as one drawing of three panels; the same bytes for the same points."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.evidence import SEEDS
from bench.pareto import AXES, Field, Point, beaten_text, front, kind, least_drawn, standing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FRONT, UNDECIDED, BEATEN = "#1f6f8b", "#58a3bd", "#a7afb7"
# By bench.pareto.kind: how a point looks, and what the legend says of it
LOOKS = MappingProxyType({"front": (FRONT, FRONT), "undecided": (UNDECIDED, "white"), "beaten": (BEATEN, BEATEN)})  # edge, face
LEGEND = MappingProxyType(
    {
        "front": "beaten by nothing",
        "undecided": f"undecided: perhaps beaten (fewer than {SEEDS} shared seeds, or a noisy session)",
        "beaten": "beaten for certain: another costs no more, and all of the interval of its gain is above zero",
    }
)
PANEL = (5.6, 5.2)  # inches
Box = tuple[float, float, float, float]
FONT = 6.5  # points, of a row's name
LETTER = 0.62 * FONT  # width of one, about
CROWD = 30  # points of a panel from which on only those that nothing beats bear their names: the table has all
STEPS = tuple(sign * FONT * step for step in range(1, 22) for sign in (1, -1))  # how far above or below its point a name may stand


def draw(known: Field, svg: Path, png: Path, *, title: str) -> tuple[Path, Path]:
    """Write both files; what nothing beats for certain is on a line, LEGEND tells the three kinds apart, bars are 95 % over seeds and images.

    Points below `least_drawn` are left out, and the title says how many.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "leandet", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(PANEL[0] * len(AXES), PANEL[1]), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(1, len(AXES), sharey=True)
        for axis, panel in zip(AXES, panels, strict=True):
            _panel(known, axis, panel)
        panels[0].set_ylabel("AP")
        low = [point for point in known.points if point.ap < least_drawn(known.points)]
        figure.suptitle(title + (f"; {len(low)} rows below {least_drawn(known.points):.1f} AP are not drawn" if low else ""))
        _legend(figure)
        figure.draw_without_rendering()  # settles where the panels lie
        for axis, panel in zip(AXES, panels, strict=True):
            _names(known, axis, panel)
        for path, more in ((svg, {"metadata": {"Date": None, "Creator": None}}), (png, {"dpi": 150, "metadata": {"Software": None}})):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format=path.suffix.removeprefix("."), **more)
    return svg, png


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    looks: dict[str, dict[str, Any]] = {name: {"color": edge, "markerfacecolor": face} for name, (edge, face) in LOOKS.items()}
    marks = [Line2D([], [], marker="o", ls="", ms=4, label=said, **looks[name]) for name, said in LEGEND.items()]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)


def _drawn(known: Field, axis: str) -> list[tuple[Point, str]]:
    """The points that have such a cost, each with its kind; those whose names matter most first."""
    least = least_drawn(known.points)
    points = [point for point in known.points if getattr(point.costs, axis) is not None and point.ap >= least]
    found = [(point, kind(beaten_text(standing(known, axis, point)))) for point in points]
    return sorted(found, key=lambda each: list(LOOKS).index(each[1]))


def _panel(known: Field, axis: str, panel: Any) -> None:
    drawn = _drawn(known, axis)
    panel.set_xlabel(f"{AXES[axis]} on {known.timed_on}" if axis == "ms" and known.timed_on else AXES[axis])
    panel.grid(visible=True, alpha=0.3)
    if not drawn:
        panel.text(0.5, 0.5, "no row has been counted" if axis != "ms" else "not timed", ha="center", transform=panel.transAxes)
        panel.set_xticks([])
        return
    _costs(panel, [getattr(point.costs, axis) for point, _ in drawn])
    for point, found in drawn:
        cost, (low, high), (colour, face) = getattr(point.costs, axis), point.interval, LOOKS[found]
        bar, looks = [[max(0.0, point.ap - low)], [max(0.0, high - point.ap)]], {"color": colour, "markerfacecolor": face}
        panel.errorbar([cost], [point.ap], yerr=bar, fmt="o", ms=4, capsize=2, zorder=4 - list(LOOKS).index(found), **looks)
    edge = rising([point for point in front(known, axis) if point.ap >= least_drawn(known.points)])
    panel.plot([getattr(point.costs, axis) for point in edge], [point.ap for point in edge], color=FRONT, lw=0.8, alpha=0.6, zorder=1)


def _costs(panel: Any, costs: Sequence[float]) -> None:
    """Costs by their logarithm; where they span decades, fewer numbers are written along it."""
    from matplotlib.ticker import LogLocator, NullLocator

    panel.set_xscale("log")
    wide = max(costs) > 8 * min(costs)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide else (1, 1.5, 2, 3, 4, 5, 7)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter("{x:g}")
    panel.margins(x=0.45)


def rising(points: Sequence[Point]) -> list[Point]:
    """Of points from cheap to dear those that are better than all cheaper ones: a line through them turns nowhere."""
    return [point for place, point in enumerate(points) if all(point.ap > other.ap for other in points[:place])]


# ---- names


def _names(known: Field, axis: str, panel: Any) -> None:
    """Each point's name beside it, or where there is room above or below, and then with a line to its point."""
    scale, frame = 72 / panel.figure.dpi, panel.get_window_extent()
    edges = (frame.x0 * scale, frame.x1 * scale, frame.y0 * scale, frame.y1 * scale)
    drawn = _drawn(known, axis)

    def at(point: Point, value: float) -> Any:
        return panel.transData.transform((getattr(point.costs, axis), value)) * scale

    taken = [(*(at(point, point.interval[0]) - 3), *(at(point, point.interval[1]) + 3)) for point, _ in drawn]
    for point, found in drawn if len(drawn) < CROWD else [each for each in drawn if each[1] == "front"]:
        x, y = at(point, point.ap)
        wide = LETTER * len(point.id)
        places = [(side, step) for step in (0.0, *STEPS) for side in (6.0, -6.0 - wide)]
        boxes = {place: (x + place[0], y + place[1] - FONT / 2, x + place[0] + wide, y + place[1] + FONT / 2) for place in places}
        side, step = next(
            (place for place, box in boxes.items() if _inside(box, edges) and not any(_overlap(box, each) for each in taken)), places[0]
        )
        taken.append(boxes[side, step])
        colour = LOOKS[found][0]
        far = {"arrowstyle": "-", "lw": 0.4, "color": colour, "shrinkA": 0, "shrinkB": 2} if abs(step) > FONT else None
        where = {"xytext": (side if side > 0 else -6.0, step), "textcoords": "offset points", "ha": "left" if side > 0 else "right", "va": "center"}
        panel.annotate(point.id, (getattr(point.costs, axis), point.ap), arrowprops=far, color=colour, fontsize=FONT, **where)


def _inside(box: Box, edges: Box) -> bool:
    return edges[0] <= box[0] and box[2] <= edges[1] and edges[2] <= box[1] and box[3] <= edges[3]


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
