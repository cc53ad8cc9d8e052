"""The model zoo that comes with detectron2, YAML and Python configurations, made into models without a download."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.adapters import Wanted
from bench.types import UserError

FOLDER = Path("model_zoo", "configs")  # in detectron2's package
PARTS = ("common",)  # of other configurations
SCHEDULES = "quick_schedules"  # detectron2's own tests of whole trainings; their models stand in the other folders
SIDES, FORMAT = (800, 1333), "BGR"  # where a configuration does not say


@dataclass(frozen=True)
class Described:
    """A model that is not built yet, and how it takes images."""

    config: Any  # a CfgNode, or what LazyConfig reads
    sides: tuple[int, int]  # px: what the shorter side becomes, what the longer never passes
    colours: str  # "BGR" or "RGB"

    @property
    def lazy(self) -> bool:
        """Whether it is of a Python configuration."""
        return hasattr(self.config, "model")


@cache
def config_files() -> Mapping[str, Path]:
    """Every configuration of the zoo by its name there, which ends in .yaml or .py. Imports nothing of detectron2."""
    found = importlib.util.find_spec("detectron2")
    if found is None or not found.submodule_search_locations:
        return {}
    root = Path(next(iter(found.submodule_search_locations))) / FOLDER
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.suffix in {".yaml", ".py"})
    return {path.as_posix(): root / path for path in files if path.parts[0] not in PARTS and not path.name.startswith("Base-")}


def names() -> tuple[str, ...]:
    """The models of the zoo."""
    return tuple(name for name in config_files() if not name.startswith(SCHEDULES))


def describe(wanted: Wanted, classes: int | None, *, change: Callable[[Any], None] | None = None) -> Described:
    """The configuration for so many classes (None: its own), with nothing in it that would be fetched; `change` is given it last."""
    from detectron2.config import LazyConfig, get_cfg

    path = config_files()[wanted.name]
    change = change or (lambda _: None)
    if path.suffix == ".py":
        return _lazily(LazyConfig.load(str(path)), wanted, classes, change)
    config = get_cfg()
    config.merge_from_file(str(path), allow_unsafe=True)  # its anchors' sides are an expression; the file is the package's own
    config.MODEL.WEIGHTS, config.MODEL.DEVICE = "", "cpu"
    if not config.MODEL.LOAD_PROPOSALS and config.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        config.MODEL.LOAD_PROPOSALS = True
    if config.MODEL.LOAD_PROPOSALS:
        raise UserError(f"detectron2:{wanted.name}: has no proposals of its own and reads them from a file; name a Faster R-CNN")
    if classes is not None:
        config.MODEL.ROI_HEADS.NUM_CLASSES = config.MODEL.RETINANET.NUM_CLASSES = classes
    change(config)
    sides = (int(config.INPUT.MIN_SIZE_TEST), int(config.INPUT.MAX_SIZE_TEST))
    return Described(config, wanted.size or sides, config.INPUT.FORMAT)


def _lazily(config: Any, wanted: Wanted, classes: int | None, change: Callable[[Any], None]) -> Described:
    from omegaconf import OmegaConf

    if "model" not in config:
        raise UserError(f"detectron2:{wanted.name}: has no model; name another configuration")
    holder = next((part for part in (config.model.get("roi_heads"), config.model) if part is not None and "num_classes" in part), None)
    if classes is not None:
        if holder is None:
            raise UserError(f"detectron2:{wanted.name}: does not say how many classes it has; name another configuration")
        holder.num_classes = classes
    change(config)
    mapper = OmegaConf.select(config, "dataloader.test.mapper")
    steps = [step for step in (mapper.augmentations if mapper is not None and "augmentations" in mapper else ()) if "short_edge_length" in step]
    sides = (int(steps[0].short_edge_length), int(steps[0].get("max_size") or SIDES[1])) if steps else SIDES
    colours = (mapper.get("image_format") if mapper is not None else None) or FORMAT
    return Described(config, wanted.size or sides, colours)


def own_classes(described: Described) -> int | None:
    """How many classes a configuration is of; None where it does not say."""
    if described.lazy:
        model = described.config.model
        holder = next((part for part in (model.get("roi_heads"), model) if part is not None and "num_classes" in part), None)
        return None if holder is None else int(holder.num_classes)
    model = described.config.MODEL
    return int(model.RETINANET.NUM_CLASSES if model.META_ARCHITECTURE == "RetinaNet" else model.ROI_HEADS.NUM_CLASSES)


def make(described: Described) -> Any:
    """The model of a configuration, with the random weights that detectron2 gives it."""
    from detectron2.config import instantiate
    from detectron2.modeling import build_model

    return instantiate(described.config.model) if described.lazy else build_model(described.config)
