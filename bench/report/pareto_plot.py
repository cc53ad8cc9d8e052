"""Accuracy against bytes, multiply-adds and time as one drawing of three panels; the same bytes for the same points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.pareto import AXES, Field, front, standing

if TYPE_CHECKING:
    from pathlib import Path

FRONT, BEATEN = "#1f6f8b", "#b0b7bf"
PANEL = (5.2, 4.6)  # inches


def draw(known: Field, svg: Path, png: Path, *, title: str) -> tuple[Path, Path]:
    """Write both files; the front is a line, what another row beats for certain is grey, and bars are 95 % over seeds and images."""
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
        figure.suptitle(title)
        for path, more in ((svg, {"metadata": {"Date": None, "Creator": None}}), (png, {"dpi": 150, "metadata": {"Software": None}})):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format=path.suffix.removeprefix("."), **more)
    return svg, png


def _panel(known: Field, axis: str, panel: Any) -> None:
    drawn = [(point, found) for point in known.points if (found := standing(known, axis, point)) is not None]
    panel.set_xlabel(AXES[axis])
    panel.grid(visible=True, alpha=0.3)
    if not drawn:
        panel.text(0.5, 0.5, "no row has been counted" if axis != "ms" else "not timed", ha="center", transform=panel.transAxes)
        return
    panel.set_xscale("log")
    for ticks in (panel.xaxis.set_major_formatter, panel.xaxis.set_minor_formatter):
        ticks("{x:g}")
    panel.margins(x=0.25)
    costs = [getattr(point.costs, axis) for point, _ in drawn]
    middle = (min(costs) * max(costs)) ** 0.5
    for point, found in drawn:
        cost, (low, high), colour = getattr(point.costs, axis), point.interval, BEATEN if found.by else FRONT
        panel.errorbar([cost], [point.ap], yerr=[[max(0.0, point.ap - low)], [max(0.0, high - point.ap)]], fmt="o", ms=4, capsize=2, color=colour)
        side = ("left", 5) if cost <= middle else ("right", -5)
        panel.annotate(point.id, (cost, point.ap), textcoords="offset points", xytext=(side[1], 4), ha=side[0], color=colour)
    edge = front(known, axis)
    panel.plot([getattr(point.costs, axis) for point in edge], [point.ap for point in edge], color=FRONT, lw=0.8, alpha=0.6)
