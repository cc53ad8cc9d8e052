"""A detector whose convolutional parts torch.compile has turned into machine code: for inference, at the shapes that it is shown."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import torch
from torch import nn

from bench.types import UserError

PARTS = ("backbone", "neck", "rpn.head", "head", "regions.head")  # of a detector, those of them that it has; what chooses boxes is not compiled
COMPILERS = ("c++", "g++", "clang++")  # one of them must be there, for the CPU


def compiled(detector: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:  # noqa: ARG001 - autocast gives the precision
    """A copy whose parts are compiled when they first see a shape: that takes minutes, and is warm-up. UserError without a C++ compiler."""
    if not any(map(shutil.which, COMPILERS)) and next(detector.parameters()).device.type == "cpu":
        raise UserError(
            f"compiled: torch.compile needs a C++ compiler for the CPU; allowed: the detector as it is; next: install one of {', '.join(COMPILERS)}"
        )
    copied = copy.deepcopy(detector).eval().requires_grad_(requires_grad=False)
    for name in PARTS:
        part: Any = copied
        for step in name.split("."):
            part = getattr(part, step, None)
        if isinstance(part, nn.Module):
            part.compile(dynamic=name == "regions.head")  # the number of RoIs is another for each image
    return copied
