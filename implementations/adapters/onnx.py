"""Detectors that run in onnxruntime on the CPU."""

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
        raise refused("onnxruntime", path, error) from error
    given = one_input(path, [one.name for one in session.get_inputs()])

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(found) for found in session.run(None, {given: x.numpy()})]

    return run


def in_onnxruntime(detector: Any, folder: Path, *, threads: int = 1) -> DeployedDense | DeployedTwoStage:
    """The detector, exported into a folder and run from there."""
    return deployed(detector, folder, partial(runner, threads=threads))


def form(detector: Any, dtype: torch.dtype) -> DeployedDense | DeployedTwoStage:
    """The detector as `leandet time NAME@onnx` and `leandet deploy RUN@onnx` run it: in onnxruntime, on as many threads as torch has."""
    return deployed_here(detector, dtype, partial(runner, threads=torch.get_num_threads()), "onnxruntime")


# ---- onnx:FILE


def session(path: Path, *, threads: int = 1) -> Session:
    """A graph of any kind in onnxruntime, with the names that it gives its outputs."""
    run = runner(path, threads=threads)
    import onnxruntime

    opened = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = opened.get_inputs()
    shape = tuple(side if isinstance(side, int) else None for side in given.shape)
    return Session(shape, tuple(one.name for one in opened.get_outputs()), run)


def build(wanted: Wanted) -> Any:
    """The detector of an ONNX file, on as many threads as torch has."""
    threads = torch.get_num_threads()
    return build_graph(wanted, partial(runner, threads=threads), partial(session, threads=threads))


ADAPTER = Adapter(
    key="onnx",
    title="a graph in onnxruntime on the CPU: an export of ours, or any with boxes, scores and labels",
    example="onnx:folder/body.onnx",
    needs=("onnxruntime",),
    install="pip install 'onnx>=1.18,<2' 'onnxruntime>=1.20,<2'",
    names=tuple,
    build=build,
    bounds=MappingProxyType({"onnxruntime": ("1.20", "2")}),  # onnx itself is needed to export alone
)
