"""Drawings of what a trained run has discovered, by whatever its paper's folder offers."""

from __future__ import annotations

import importlib
from pathlib import Path

from bench import places
from bench.catalogue import built
from bench.datasets import open_split
from bench.execute import WEIGHTS, Setup, load_weights, prepared
from bench.orders import choice_of, with_needs
from bench.types import UserError


def draw_run(name: str, out: Path, data: str, image: int) -> str:
    """Draw one test image as a run's detector explains it; returns a line that says where."""
    tier = name.split(".")[2] if name.count(".") > 2 else "proxy"
    run = with_needs(name, choice_of(tier, data or "scenes-v1", "", 0, ""))[-1]
    split = open_split(run.data, "test")
    if not 0 <= image < len(split):
        raise UserError(f"--image {image}: allowed: 0 to {len(split) - 1}, the images of {split.name}")
    if not (places.run_folder(name) / WEIGHTS).exists():
        raise UserError(f"{name}: has no weights here; next: leandet run {name}")
    detector = prepared(run, Setup(built()), len(split.classes))
    load_weights(run, detector)
    try:
        drawings = importlib.import_module(f"implementations.{run.paper}.drawings")
    except ModuleNotFoundError as error:
        raise UserError(f"{name}: {run.paper} has no drawings; allowed: runs of a paper whose folder has a drawings.py") from error
    count = drawings.draw_key_parts(detector.eval(), split.image(image), out)
    return f"{out}: {count} objects of {split.image_name(image)}"
