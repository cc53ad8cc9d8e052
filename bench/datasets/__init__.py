"""Where images come from: `scenes` drawn on the fly, any COCO JSON, PASCAL VOC folders. Opening a split imports only its own reader, and no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.datasets.source import SPLITS, Data, parse_data
from bench.types import UserError

if TYPE_CHECKING:
    from bench.types import Split

__all__ = ["DATASETS", "Data", "open_split", "parse_data"]


def _scenes(data: Data, split: str) -> Split:
    from bench.datasets.scenes import open_scenes

    return open_scenes(data, split)


def _variant(data: Data, split: str) -> Split:
    from bench.datasets.scenes import open_variant

    return open_variant(data, split)


def _coco(data: Data, split: str) -> Split:
    from bench.datasets.coco import open_coco

    return open_coco(data, split)


def _joined(data: Data, split: str) -> Split:
    from bench.datasets.joined import open_joined

    return open_joined(data, split)


def _voc(data: Data, split: str) -> Split:
    from bench.datasets.voc import open_voc

    return open_voc(data, split)


def _added(data: Data, split: str) -> Split:
    """What an installed package opens: its entry point of the group leandet.datasets is given what stands behind KEY= and the split's name."""
    from bench.adapters import DATASETS as GROUP
    from bench.adapters import entry_points, load_point

    ((key, text),) = data.parts
    opened: Split = load_point(entry_points(GROUP)[key])(text, split)
    return opened


DATASETS: Mapping[str, Callable[[Data, str], Split]] = MappingProxyType(
    {"scenes": _scenes, "variant": _variant, "coco": _coco, "joined": _joined, "voc": _voc, "added": _added}
)


def open_split(data: Data, split: str) -> Split:
    """The "train", "val" or "test" split of the data; UserError names what is wrong with it."""
    if split not in SPLITS:
        raise UserError(f"split {split!r}: there is none of that name; allowed are {', '.join(SPLITS)}")
    return DATASETS[data.kind](data, split)
