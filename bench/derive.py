"""What a Derive step measures: a trained detector on images of a split, drawn at random, without any change that training makes to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from bench.records import write_atomically
from bench.schedule import order
from bench.spec import Derive
from bench.types import Split

DERIVED = "derived.json"  # beside a run's weights: {step: {split: {name: number}}}
BATCH = 8
Measured = Mapping[str, Mapping[str, Mapping[str, float]]]


def measured(steps: Sequence[Derive], detector: Any, fabric: Fabric, *, opened: Callable[[str], Split], seed: int) -> Measured:
    """The numbers of each step on each of its splits. The detector is left in eval mode."""
    detector.eval()
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    for step in steps:
        for name in step.splits:
            split = opened(name)
            with fabric.autocast():
                values = step.measure(detector, _batches(split, min(step.images, len(split)), seed))
            found.setdefault(step.name, {})[name] = values
    return found


def _batches(split: Split, count: int, seed: int) -> Iterator[list[Tensor]]:
    drawn = order(len(split), seed, 0, count)
    for first in range(0, count, BATCH):
        yield [split.image(index) for index in drawn[first : first + BATCH]]


def keep(found: Measured, folder: Path) -> None:
    """Write derived.json into a run's folder."""
    write_atomically(folder / DERIVED, json.dumps(found, indent=1, sort_keys=True).encode())


def flat(found: Measured) -> dict[str, float]:
    """The numbers for a record: "name_split"."""
    return {f"{key}_{split}": value for splits in found.values() for split, values in splits.items() for key, value in values.items()}
