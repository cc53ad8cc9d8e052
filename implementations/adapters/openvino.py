"""Detectors that run in OpenVINO on the CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.types import Unavailable
from implementations.adapters.graphs import DeployedDense, DeployedTwoStage, Runner, deployed, deployed_here


def runner(path: Path, *, threads: int = 1) -> Runner:
    """A graph in OpenVINO, in float32; Unavailable if that is not installed or lacks an operator of the graph."""
    try:
        import openvino
    except ImportError as error:
        raise Unavailable("openvino is not installed; next: pip install openvino") from error
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    try:
        model = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise Unavailable(f"OpenVINO cannot run {path.name}: {said}; export a row with plain convolutions") from error

    def run(x: Tensor) -> list[Tensor]:
        found = model(x.numpy())
        return [torch.from_numpy(found[place].copy()) for place in range(len(model.outputs))]

    return run


def in_openvino(detector: Any, folder: Path, *, threads: int = 1) -> DeployedDense | DeployedTwoStage:
    """The detector, exported into a folder and run from there."""
    return deployed(detector, folder, partial(runner, threads=threads))


def form(detector: Any, dtype: torch.dtype) -> DeployedDense | DeployedTwoStage:
    """The detector as `leandet time NAME@openvino` and `leandet deploy RUN@openvino` run it: in OpenVINO, on as many threads as torch has."""
    return deployed_here(detector, dtype, partial(runner, threads=torch.get_num_threads()), "openvino")
