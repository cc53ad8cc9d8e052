"""Putting the weights of a finished run into a detector."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from bench.types import UserError


def fill(detector: nn.Module, path: Path) -> None:
    """Fill a detector with the weights of its own row; UserError names the file, or the first tensor that does not fit."""
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); run the row that this one starts from again") from error
    own = detector.state_dict()
    wrong = sorted(name for name in own.keys() | stored.keys() if name not in own or name not in stored or own[name].shape != stored[name].shape)
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is missing, unknown or of another shape; allowed: the weights of this very detector; run its row first")
    detector.load_state_dict(stored)
