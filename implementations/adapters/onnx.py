"""Detectors that run in onnxruntime on the CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.types import Unavailable
from implementations.adapters.graphs import DeployedDense, DeployedTwoStage, Runner, deployed, deployed_here


def runner(path: Path, *, threads: int = 1) -> Runner:
    """A graph in onnxruntime; Unavailable if that is not installed or lacks an operator of the graph."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed; next: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class of their own
        said = " ".join(str(error).split())[:200]
        raise Unavailable(f"onnxruntime cannot run {path.name}: {said}; export a row with plain convolutions") from error
    (given,) = (one.name for one in session.get_inputs())

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(found) for found in session.run(None, {given: x.numpy()})]

    return run


def in_onnxruntime(detector: Any, folder: Path, *, threads: int = 1) -> DeployedDense | DeployedTwoStage:
    """The detector, exported into a folder and run from there."""
    return deployed(detector, folder, partial(runner, threads=threads))


def form(detector: Any, dtype: torch.dtype) -> DeployedDense | DeployedTwoStage:
    """The detector as `leandet time NAME@onnx` and `leandet deploy RUN@onnx` run it: in onnxruntime, on as many threads as torch has."""
    return deployed_here(detector, dtype, partial(runner, threads=torch.get_num_threads()), "onnxruntime")
