"""A subject's detector, built and with its weights, and the hash that names them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from bench import adapters, places
from bench.assemble import build_detector
from bench.plan import file_hash
from bench.scales import SCALES
from bench.subjects import DEPLOY, WEIGHTS, Subject, row_of, run_of
from bench.types import UserError

if TYPE_CHECKING:
    from bench.plan import Run
    from bench.spec import Row

SEED = 0  # of random weights
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}  # of a form: what exports it and what runs it


def build(subject: Subject, data: str, classes: int) -> Any:
    """The subject's detector in eval mode, on the CPU: a row with random weights for its own classes, a run with its own for the data's."""
    if subject.kind == "adapter":
        detector = _adapted(subject)
    elif subject.kind == "file":
        detector = _made(subject.name)
    elif subject.kind == "run":
        detector = _trained(run_of(subject, data), row_of(subject), classes)
    else:
        row = row_of(subject)
        detector = build_detector(row, SCALES[subject.tier], row.setting.classes, seed=SEED)  # type: ignore[index]  # was checked to be a tier
    if subject.size and not subject.foreign:
        _resize(detector, subject)
    return detector.eval() if isinstance(detector, nn.Module) else detector


def _adapted(subject: Subject) -> Any:
    """What the adapter builds for the subject; UserError for all that it cannot."""
    sides, weights = adapters.size_of(subject.size), Path(subject.weights) if subject.weights else None
    return adapters.build_adapted(subject.name, classes=subject.classes or None, size=sides, weights=weights, score=subject.score)


def _resize(detector: Any, subject: Subject) -> None:
    """Let one of our own detectors bring images to another size than its row's; its anchors stay as they are."""
    sides = adapters.size_of(subject.size)
    config: Any = getattr(detector, "config", None)
    if sides is None or not all(hasattr(config, side) for side in ("shorter", "longer")):
        raise UserError(f"--size {subject.size}: {subject.name} has no size of its own to change; leave --size out")
    detector.config = replace(config, shorter=min(sides), longer=max(sides))


def deployed(detector: Any, form: str, dtype: torch.dtype) -> Any:
    """The detector in one of the forms of DEPLOY, found by name as bench imports no implementation; UserError where that form cannot be."""
    for package in PACKAGES.get(form, ()):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"@{form}: {package} is not installed; next: pip install {package}") from error
    module, function = DEPLOY[form]
    return getattr(importlib.import_module(module), function)(detector, dtype)


def _trained(run: Run, row: Row, classes: int) -> Any:
    """The row's detector with the weights that its run ended with; what the run started from need not be here."""
    folders = {need.split(".")[1]: places.run_folder(need) for need in run.needs if not need.startswith("pretrain.")}
    folders.pop(row.body, None)  # a body is put into the detector after it is built, and the run's own weights hold it
    inputs = {key: folder / WEIGHTS for key, folder in folders.items() if (folder / WEIGHTS).exists()}
    detector = build_detector(row, SCALES[run.tier], classes, seed=run.seed, inputs=MappingProxyType(inputs))
    try:
        detector.load_state_dict(_stored(places.run_folder(run.id) / WEIGHTS, run.id))
    except RuntimeError as error:
        raise UserError(f"{run.id}: its weights are not of these data's {classes} classes; give --data with the classes that it learnt") from error
    return detector


def _stored(path: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a run's file of weights; UserError for one that is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{name}: its weights cannot be read ({error}); delete {path.parent}, then: leandet run {name}") from error


def _made(name: str) -> Any:
    """What FUNCTION of FILE.py gives; UserError where the file has no such function."""
    path, function = name.rsplit(":", 1)
    make = getattr(load_module(Path(path)), function, None)
    if not callable(make):
        raise UserError(f"{name}: {Path(path).name} has no function {function}; give FILE.py:FUNCTION, a function that makes a detector")
    torch.manual_seed(SEED)
    return make()


def load_module(path: Path) -> ModuleType:
    """The module that a Python file holds, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"detector_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def weights_hash(detector: Any) -> str:
    """SHA-256 of all weights by name, kind, shape and bytes; of a detector that is no nn.Module what its own `weights_hash()` says.

    Two detectors of one name and other weights must never share a record: UserError for one that has neither.
    """
    if not isinstance(detector, nn.Module):
        told = getattr(detector, "weights_hash", None)
        if told is None:
            raise UserError(
                f"{type(detector).__name__}: no nn.Module and without weights_hash(); add one that names its weights, as records rest on it"
            )
        return str(told())
    return tensors_hash(detector.state_dict())


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of tensors by name, kind, shape and bytes: of the weights in a file that of the detector which has them."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def weights_file(subject: Subject, data: str) -> str:
    """SHA-256 of the file that a run's weights came from, as the run's record has it; empty for any other subject."""
    return file_hash(places.run_folder(run_of(subject, data).id) / WEIGHTS) if subject.kind == "run" else ""


def weights_from(subject: Subject, detector: Any) -> str:
    """Whose weights a detector has: "random", a run's id, a file's name, or the function's that made it."""
    if subject.kind == "run":
        return subject.name
    return "random" if subject.kind == "row" else str(getattr(detector, "weights_from", "its builder"))
