"""What is drawn and how fast is learnt at each image of a run: functions of the schedule, the seed and the position alone."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn

from bench.spec import Schedule


def rate_at(schedule: Schedule, images: int) -> float:
    """The learning rate after `images`: linear warm-up, constant, then linear to zero or x0.1 at each drop."""
    total = schedule.images + schedule.decay_images
    warm = min(1.0, (images + schedule.batch) / max(1, schedule.warmup_images))
    if schedule.decay == "steps":
        return schedule.rate * warm * math.prod(0.1 for drop in schedule.drops if images >= drop * total)
    return schedule.rate * warm * min(1.0, (total - images) / max(1, schedule.decay_images))


def draw_seed(*parts: int) -> int:
    """A 63-bit seed from whole numbers: equal on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def order(length: int, seed: int, first: int, count: int) -> list[int]:
    """Indices of the images at positions first..first+count of an endless shuffled stream, shuffled anew each pass."""
    passes = {
        turn: torch.randperm(length, generator=torch.Generator().manual_seed(draw_seed(seed, turn)))
        for turn in range(first // length, (first + count - 1) // length + 1)
    }
    return [int(passes[position // length][position % length]) for position in range(first, first + count)]


def optimizer_for(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum 0.9; norms and biases are not decayed by AdamW, as the field does."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(learnt, lr=schedule.rate, momentum=0.9, weight_decay=schedule.weight_decay)
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.99), fused=True)
