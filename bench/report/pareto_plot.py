"""Accuracy against bytes, multiply-adds and time as one drawing of three panels; the same bytes for the same points."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.evidence import SEEDS
from bench.pareto import AXES, Field, beaten_text, front, kind, standing

if TYPE_CHECKING:
    from pathlib import Path

FRONT, UNDECIDED, BEATEN = "#1f6f8b", "#6fb1c9", "#b0b7bf"
# By bench.pareto.kind: how a point looks, and what the legend says of it
LOOKS = MappingProxyType({"front": (FRONT, FRONT), "undecided": (UNDECIDED, "white"), "beaten": (BEATEN, BEATEN)})  # edge, face
LEGEND = MappingProxyType(
    {
        "front": "beaten by nothing",
        "undecided": f"undecided: perhaps beaten (fewer than {SEEDS} shared seeds, or a noisy session)",
        "beaten": "beaten for certain: another costs no more, and all of the interval of its gain is above zero",
    }
)
PANEL = (5.2, 4.6)  # inches


def draw(known: Field, svg: Path, png: Path, *, title: str) -> tuple[Path, Path]:
    """Write both files; what nothing beats for certain is on a line, LEGEND tells the three kinds apart, bars are 95 % over seeds and images."""
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
        _legend(figure)
        for path, more in ((svg, {"metadata": {"Date": None, "Creator": None}}), (png, {"dpi": 150, "metadata": {"Software": None}})):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format=path.suffix.removeprefix("."), **more)
    return svg, png


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    looks = {name: {"color": edge, "markerfacecolor": face} for name, (edge, face) in LOOKS.items()}
    marks = [Line2D([], [], marker="o", ls="", ms=4, label=said, **looks[name]) for name, said in LEGEND.items()]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)


def _panel(known: Field, axis: str, panel: Any) -> None:
    drawn = [(point, found) for point in known.points if (found := standing(known, axis, point)) is not None]
    panel.set_xlabel(f"{AXES[axis]} on {known.timed_on}" if axis == "ms" and known.timed_on else AXES[axis])
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
        cost, (low, high), (colour, face) = getattr(point.costs, axis), point.interval, LOOKS[kind(beaten_text(found))]
        bar, looks = [[max(0.0, point.ap - low)], [max(0.0, high - point.ap)]], {"color": colour, "markerfacecolor": face}
        panel.errorbar([cost], [point.ap], yerr=bar, fmt="o", ms=4, capsize=2, **looks)
        side = ("left", 5) if cost <= middle else ("right", -5)
        panel.annotate(point.id, (cost, point.ap), textcoords="offset points", xytext=(side[1], 4), ha=side[0], color=colour)
    edge = front(known, axis)
    panel.plot([getattr(point.costs, axis) for point in edge], [point.ap for point in edge], color=FRONT, lw=0.8, alpha=0.6)
