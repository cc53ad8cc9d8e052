"""MimicDet's detectors as tests build them, and what they are shown: images of noise, and objects in them."""

from __future__ import annotations

from functools import partial

import noise
import torch

from bench.catalogue import find_paper
from bench.scales import SCALES
from bench.spec import Request
from implementations.mimicdet.model import build_mimicdet

PAPER = find_paper("mimicdet")
CLASSES = 3

pictures = partial(noise.photographs, seed=4)
target = partial(noise.target, classes=CLASSES)
OBJECTS = [target([8, 8, 60, 60], [30, 40, 90, 70], seed=1), target([20, 10, 50, 90], seed=2)]


def request(key="mimicdet", tier="smoke", classes=CLASSES, **inputs):
    return Request(PAPER.row(key).setting, SCALES[tier], classes, inputs)


def build(key="mimicdet", *, classes=CLASSES, inputs=None, **changes):
    """The detector of a row, its weights the same each time."""
    torch.manual_seed(0)
    return build_mimicdet(request(key, classes=classes, **(inputs or {})), **{**PAPER.row(key).arguments, **changes})
