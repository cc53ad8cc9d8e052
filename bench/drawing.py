"""Drawings of what a trained run has discovered, by whatever its paper's folder offers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from bench import places
from bench.catalogue import built
from bench.datasets import open_split
from bench.execute import WEIGHTS, Setup, load_weights, prepared
from bench.orders import choice_of, with_needs
from bench.types import UserError

if TYPE_CHECKING:
    from types import ModuleType

    from bench.plan import Run


def draw_run(name: str, out: Path, data: str, image: int) -> str:
    """Draw what runs have learnt (ids by commas), or one test image as a run's detector explains it: as its paper does. A line that says where."""
    names = name.split(",")
    runs = [_run(each, data) for each in names]
    drawings = _drawings_of(runs[0])
    if len({run.paper for run in runs}) > 1:
        raise UserError(f"{name}: runs of several papers; allowed: those of one; draw them apart")
    if hasattr(drawings, "draw_runs"):
        return str(drawings.draw_runs({run.id: places.run_folder(run.id) for run in runs}, out))
    if len(runs) > 1:
        raise UserError(f"{name}: {runs[0].paper} draws one run at a time; allowed: one id; draw them apart")
    return _explained(runs[0], drawings, out, image)


def _run(name: str, data: str) -> Run:
    """The run of that id; its tier stands in it."""
    tier = name.split(".")[2] if name.count(".") > 2 else "proxy"
    return with_needs(name, choice_of(tier, data or "scenes-v1", "", 0, ""))[-1]


def _drawings_of(run: Run) -> ModuleType:
    try:
        return importlib.import_module(f"implementations.{run.paper}.drawings")
    except ModuleNotFoundError as error:
        raise UserError(f"{run.id}: {run.paper} has no drawings; allowed: runs of a paper whose folder has a drawings.py") from error


def _explained(run: Run, drawings: ModuleType, out: Path, image: int) -> str:
    split = open_split(run.data, "test")
    if not 0 <= image < len(split):
        raise UserError(f"--image {image}: allowed: 0 to {len(split) - 1}, the images of {split.name}")
    if not (places.run_folder(run.id) / WEIGHTS).exists():
        raise UserError(f"{run.id}: has no weights here; next: leandet run {run.id}")
    detector = prepared(run, Setup(built()), len(split.classes))
    load_weights(run, detector)
    count = drawings.draw_key_parts(detector.eval(), split.image(image), out)
    return f"{out}: {count} objects of {split.image_name(image)}"
