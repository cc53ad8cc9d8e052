"""What `leandet draw` draws of this paper's runs: Figure 6, the averages of the scales that GSL runs have learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from implementations.pod.figure_6 import draw, read_runs

if TYPE_CHECKING:
    from pathlib import Path


def draw_runs(folders: Mapping[str, Path], out: Path) -> str:
    """Write the plot of runs by their ids; a line that says what it shows. UserError for a run that learnt no scales."""
    blocks = draw(read_runs(folders), out)
    return f"{out}: the scales of {len(blocks)} blocks, learnt by {', '.join(folders)}"
