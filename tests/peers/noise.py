"""What detectors are shown in tests: images of noise, and objects in them."""

from __future__ import annotations

import torch

from bench.types import Target


def photographs(*sizes, seed=1):
    """An image of noise (3, H, W) of each size (H, W), the same each time."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def target(*boxes, seed=0, classes=4):
    """Objects by their boxes in px, of one class after another."""
    none = torch.zeros(len(boxes), dtype=torch.bool)
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)) % classes, none, none.clone(), seed)
