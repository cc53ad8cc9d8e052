"""Detectors that run in OpenVINO on the CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bench.adapters import Adapter, Wanted
from bench.types import Unavailable
from implementations.adapters.graphs import DeployedDense, DeployedTwoStage, Runner, deployed, deployed_here
from implementations.adapters.plain_graphs import Session, build_graph, one_input
from implementations.adapters.refusals import refused


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
        raise refused("OpenVINO", path, error) from error

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


# ---- openvino:FILE


def session(path: Path, *, threads: int = 1) -> Session:
    """A graph of any kind in OpenVINO, with the names that it gives its outputs."""
    run = runner(path, threads=threads)
    import openvino

    model = openvino.Core().read_model(str(path))
    one_input(path, [min(one.get_names(), default="unnamed") for one in model.inputs])
    shape = tuple(int(side.get_length()) if side.is_static else None for side in model.inputs[0].partial_shape)
    return Session(shape, tuple(min(one.get_names()) for one in model.outputs), run)


def build(wanted: Wanted) -> Any:
    """The detector of an OpenVINO .xml or an ONNX file, on as many threads as torch has."""
    threads = torch.get_num_threads()
    return build_graph(wanted, partial(runner, threads=threads), partial(session, threads=threads))


ADAPTER = Adapter(
    key="openvino",
    title="a graph in OpenVINO on the CPU, in float32: an export of ours, or any with boxes, scores and labels",
    example="openvino:folder/body.onnx",
    needs=("openvino",),
    install="pip install 'openvino>=2025,<2027'",
    names=tuple,
    build=build,
    bounds=MappingProxyType({"openvino": ("2025", "2027")}),
)
