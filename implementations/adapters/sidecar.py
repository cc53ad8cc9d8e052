"""What a graph cannot hold of one of our detectors (sizes, anchors, suppression), as a JSON beside it, and the detector that both make again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.types import Unavailable, UserError
from implementations.adapters.graphs import BODY, HEAD, DeployedDense, DeployedTwoStage, Graphs, Runner, export
from implementations.baselines.retinanet import RetinaConfig, RetinaNet
from implementations.layers.matching import Thresholds
from implementations.layers.pooling import Align, PyramidAlign
from implementations.layers.regions import RegionConfig, RegionStage
from implementations.layers.rpn import RPN, RPNConfig
from implementations.layers.sampling import Quota
from implementations.layers.two_stage import DetectorConfig, TwoStage

BESIDE = "detector.json"  # the file beside the graphs


def export_whole(detector: Any, folder: Path) -> tuple[Path, ...]:
    """Write the detector's graphs and what they cannot hold into a folder, so that onnx:FOLDER/body.onnx is the detector again."""
    told = {"kind": "retinanet" if isinstance(detector, RetinaNet) else "two_stage", "config": asdict(_plain(detector))}
    files = export(detector, folder)
    (folder / BESIDE).write_text(json.dumps(told, indent=1) + "\n")
    return (*files, folder / BESIDE)


def _plain(detector: Any) -> Any:
    """Its configuration; Unavailable for what decides by more than is written down here."""
    config = detector.config
    if isinstance(detector, RetinaNet):
        return replace(config, told=())
    simple = isinstance(detector.regions, RegionStage) and len(config.regions) == 1 and detector.regions.stem is None
    if not simple or not isinstance(detector.regions.pool, Align | PyramidAlign):
        raise Unavailable(f"{config.name}: its second stage is no plain one, so its export cannot be opened by itself; use in_onnxruntime instead")
    return config


def opened(folder: Path, runner: Callable[[Path], Runner], size: tuple[int, int] | None) -> DeployedDense | DeployedTwoStage:
    """The detector of a folder that `export_whole` wrote, run by a runtime; `size`: another shorter side and bound of the longer one."""
    path = folder / BESIDE
    try:
        told = json.loads(path.read_text())
        dense = told["kind"] == "retinanet"
        detector = (_dense if dense else _two_stage)(_tuples(told["config"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: does not describe an exported detector ({type(error).__name__}: {error}); export it anew") from error
    if size is not None:
        detector.config = replace(detector.config, shorter=min(size), longer=max(size))
    files = (folder / BODY,) if dense else (folder / BODY, folder / HEAD)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} is not there, though {BESIDE} needs it; export the detector anew")
    graphs = Graphs(files, tuple(runner(file) for file in files))
    return DeployedDense(detector, graphs) if isinstance(detector, RetinaNet) else DeployedTwoStage(detector, graphs)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _dense(config: dict[str, Any]) -> RetinaNet:
    made = RetinaConfig(**config | {"thresholds": Thresholds(**config["thresholds"])})
    with torch.device("meta"):  # its weights are those of the graph
        return RetinaNet(made, nn.Identity()).eval()


def _two_stage(config: dict[str, Any]) -> TwoStage:
    rpn, regions = config["rpn"], config["regions"][0]
    rpn = RPNConfig(**rpn | {"quota": Quota(**rpn["quota"]), "thresholds": Thresholds(**rpn["thresholds"])})
    region = RegionConfig(**regions | {"quota": Quota(**regions["quota"])})
    made = DetectorConfig(**config | {"rpn": rpn, "regions": (region,)})
    width, side, _ = made.roi_features
    pool = PyramidAlign(side, made.strides, made.canonical) if made.canonical else Align(side, made.strides[0])
    with torch.device("meta"):
        return TwoStage(made, (nn.Identity(), None), RPN(width, rpn), RegionStage(region, pool, nn.Identity())).eval()
