"""Figure 6: the averages of the learnt scales, block by block, of one or several GSL runs; deviations as bars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from bench.types import UserError
from implementations.pod.averages import DERIVED, DIRECTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
STYLES = {"h": ("o", "-"), "w": ("s", "--")}
Averages = Mapping[str, float]  # as a Derive step leaves them: {"R31_h": 0.88, "std_R31_h": 0.004, ...}


def read_runs(folders: Mapping[str, Path], split: str = "train") -> dict[str, Averages]:
    """The averages of runs by the names that they are drawn under; UserError for a folder that holds none of that split."""
    found: dict[str, Averages] = {}
    for name, folder in folders.items():
        path = folder / DERIVED
        if not path.is_file():
            raise UserError(f"{path}: missing; allowed: finished GSL runs, as no other row learns scales; next: leandet run a row that ends in -gsl")
        by_split = _by_split(path)
        if split not in by_split:
            raise UserError(f"{path}: has no averages of {split!r}; allowed: {', '.join(by_split)}; name one of them")
        found[name] = by_split[split]
    return found


def _by_split(path: Path) -> dict[str, Averages]:
    """The averages of one file; UserError for one that is damaged or holds other numbers."""
    try:
        return {str(name): {str(key): float(value) for key, value in means.items()} for name, means in json.loads(path.read_text())["scales"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no averaged scales in it ({type(error).__name__}); run the GSL row that it belongs to again") from error


def blocks_in(runs: Mapping[str, Averages]) -> list[str]:
    """Every block of any run in the order of the net: by stage, then by place."""
    names = {key.removesuffix("_h") for averages in runs.values() for key in averages if key.startswith("R") and key.endswith("_h")}
    return sorted(names, key=lambda name: (name[1], int(name[2:])))


def draw(runs: Mapping[str, Averages], out: Path) -> list[str]:
    """Write the plot and give the blocks on its axis; UserError where there is nothing to draw."""
    blocks = blocks_in(runs)
    if not blocks:
        raise UserError(f"{out.name}: no averaged scales were given; allowed: those of GSL runs, as read_runs gives them")
    figure = Figure(figsize=(max(6.0, 0.45 * len(blocks)), 4.0), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, averages) in enumerate(runs.items()):
        for direction in DIRECTIONS:
            _line(axes, blocks, averages, direction=direction, colour=COLOURS[place % len(COLOURS)], name=name)
    axes.axhline(1.0, color="grey", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(blocks)), blocks, rotation=60)
    axes.set_ylabel("learnt scale, cells")
    axes.legend(fontsize="small")
    figure.savefig(out, dpi=120)
    return blocks


def _line(axes: Axes, blocks: list[str], averages: Averages, *, direction: str, colour: str, name: str) -> None:  # noqa: PLR0913 - one plotted line
    present = [(at, f"{block}_{direction}") for at, block in enumerate(blocks) if f"{block}_{direction}" in averages]
    marker, style = STYLES[direction]
    axes.errorbar(
        [at for at, _ in present],
        [averages[key] for _, key in present],
        yerr=[averages.get(f"std_{key}", 0.0) for _, key in present],
        marker=marker,
        markersize=4,
        linestyle=style,
        color=colour,
        capsize=2,
        label=f"{name}, {direction}",
    )
