"""python:package.module:builder, or python:NAME of the entry point group leandet.detectors: a function of yours that makes a detector.

It is given those of classes, size, weights and score that it has parameters for (bench.adapters.Wanted says what they are), and returns a
bench.types.Detector or a model of torchvision.models.detection.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.adapters import DETECTORS, Adapter, Wanted, entry_points, load_point, nearest
from bench.types import UserError

OFFERED = ("classes", "size", "weights", "score")


def names() -> tuple[str, ...]:
    """None to choose from: any module on the path goes."""
    return ()


def build(wanted: Wanted) -> Any:
    """What the function returns; what it raises reaches the user with its name."""
    make = _found(wanted.name)
    torch.manual_seed(0)
    made = make(**_asked(make, wanted))
    if isinstance(made, nn.Module) and any(kind.__module__.startswith("torchvision.models.detection") for kind in type(made).__mro__):
        from implementations.adapters.torchvision import wrapped

        return wrapped(made, wanted.name)
    return made


def _found(name: str) -> Callable[..., Any]:
    module, colon, function = name.rpartition(":")
    if not colon:
        added = entry_points(DETECTORS)
        if name not in added:
            listed = f"; added by installed packages: {', '.join(sorted(added))}" if added else ""
            raise UserError(f"python:{name}: there is no detector of that name{nearest(name, added)}; allowed: python:package.module:builder{listed}")
        return load_point(added[name])  # type: ignore[no-any-return]  # what a package adds
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise UserError(
                f"python:{name}: there is no module {error.name} on the path; install its package, or set PYTHONPATH to its folder"
            ) from error
        raise
    made = getattr(found, function, None)
    if not callable(made):
        given = [key for key, value in vars(found).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise UserError(f"python:{name}: {module} has no function {function}{nearest(function, given)}; give a function that makes a detector")
    return made


def _asked(make: Callable[..., Any], wanted: Wanted) -> dict[str, Any]:
    """The options that the function has parameters for; UserError for weights that it cannot take."""
    parameters = inspect.signature(make).parameters
    if wanted.weights is not None and "weights" not in parameters:
        raise UserError(f"python:{wanted.name}: takes no weights; give it a parameter `weights` (a path), or leave --weights out")
    return {key: getattr(wanted, key) for key in OFFERED if key in parameters and getattr(wanted, key) is not None}


ADAPTER = Adapter(
    key="python",
    title="a function of yours, or of an installed package, that makes a detector",
    example="python:package.module:builder",
    needs=(),
    install="",
    names=names,
    build=build,
)
