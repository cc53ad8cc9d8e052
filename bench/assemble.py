"""A run's model, built from its row, seeded, and started from the weights that it needs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric

from bench import machine
from bench.schedule import draw_seed
from bench.spec import Backbone, Request, Row, Scale

BACKBONES = "implementations.layers.backbones"  # found by name: bench imports no implementation


def open_fabric(precision: str, threads: int) -> Fabric:
    """The device and precision to run in; results are repeatable bit for bit on the CPU with the same threads."""
    machine.keep_memory()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=not torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property; filling costs time
    return Fabric(accelerator="auto", devices=1, precision=precision)  # type: ignore[arg-type]  # one of Fabric's names


def build_detector(row: Row, scale: Scale, classes: int, *, seed: int, inputs: Mapping[str, Path] = MappingProxyType({})) -> Any:
    """The row's detector; `inputs` are the weights by row key that its builder may read."""
    assert row.build is not None, f"{row.key} is quoted and has no builder"
    torch.manual_seed(draw_seed(seed, 0, 2))
    return row.build(Request(row.setting, scale, classes, inputs), **row.arguments)


def start_from(detector: Any, backbone: Path) -> None:
    """Put a pretrained backbone's weights into a detector; UserError names what does not fit."""
    importlib.import_module(BACKBONES).load_backbone(detector, backbone)


def continue_body(detector: Any, trained: Path) -> None:
    """Put all of a trained detector but its second stage into another; UserError names what does not fit."""
    importlib.import_module(BACKBONES).load_body(detector, trained)


def build_classifier(backbone: Backbone, classes: int, *, seed: int) -> Any:
    """The network that a backbone is pretrained in."""
    torch.manual_seed(draw_seed(seed, 0, 2))
    return importlib.import_module(BACKBONES).BackboneClassifier(backbone, classes)
