"""Checkpoints: a model, its optimizer and how far they are, in one safetensors file (never pickle)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench.records import write_atomically


@dataclass
class Progress:
    """What a checkpoint says beside tensors."""

    images: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)  # of the first 20 steps
    curve: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Model, optimizer and progress in one safetensors file, written by rename."""
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value).contiguous() for name, value in state.items() if value is not None}
    write_atomically(path, save(tensors, metadata={"progress": json.dumps(vars(progress))}))


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint's tensors back; returns its progress."""
    with safe_open(path, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
        progress = Progress(**json.loads(stored.metadata()["progress"]))
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress
