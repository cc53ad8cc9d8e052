"""Deployed detectors of POD for `leandet time docs/deployed_pod.py:FUNCTION`: at the paper's scale, random weights, Table 3's scales."""
# ruff: noqa: INP001 - a file for `leandet time`, no module of a package

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.assemble import build_detector
from bench.catalogue import find_paper
from bench.scales import SCALES
from implementations.adapters.onnx import in_onnxruntime
from implementations.adapters.openvino import in_openvino
from implementations.pod.deployment import plain_convolutions


def _made(key: str, runtime: Callable[[Any, Path], Any] | None) -> Any:
    """The row with random weights, its blocks as plain convolutions, in torch (None) or in a runtime."""
    row = find_paper("pod").row(key)
    plain = plain_convolutions(build_detector(row, SCALES["paper"], row.setting.classes, seed=0).eval())
    return plain if runtime is None else runtime(plain, Path(tempfile.mkdtemp(prefix="leandet-")))


def c4_plain() -> Any:
    """Faster R-CNN C4, in torch."""
    return _made("c4-r50", None)


def c4_fd_plain() -> Any:
    """Its FD, in torch."""
    return _made("c4-r50-fd", None)


def c4_onnxruntime() -> Any:
    """Faster R-CNN C4."""
    return _made("c4-r50", in_onnxruntime)


def c4_fd_onnxruntime() -> Any:
    """Its FD."""
    return _made("c4-r50-fd", in_onnxruntime)


def c4_openvino() -> Any:
    """Faster R-CNN C4."""
    return _made("c4-r50", in_openvino)


def c4_fd_openvino() -> Any:
    """Its FD."""
    return _made("c4-r50-fd", in_openvino)


def retina_onnxruntime() -> Any:
    """RetinaNet."""
    return _made("retina-r50", in_onnxruntime)


def retina_fd_onnxruntime() -> Any:
    """Its FD."""
    return _made("retina-r50-fd", in_onnxruntime)


def retina_openvino() -> Any:
    """RetinaNet."""
    return _made("retina-r50", in_openvino)


def retina_fd_openvino() -> Any:
    """Its FD."""
    return _made("retina-r50-fd", in_openvino)
