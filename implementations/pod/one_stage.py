"""POD's RetinaNet rows: the detectors of model.py, with subnets that start as strongly at a tier's width as at the paper's.

RetinaNet draws its subnets from a Gaussian of 0.01 whatever their width. What a layer passes on grows with the root of the channels that it reads, so
that four layers of half of the paper's 256 starve a signal that the paper's keep. Here the deviation grows as 1 / sqrt(channels): what the paper's
layers pass on, a tier's do. At the paper's width nothing changes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from bench.spec import PRETRAINED
from implementations.pod.model import NAMING, build_baseline, build_pod

if TYPE_CHECKING:
    from bench.spec import Request
    from implementations.baselines.retinanet import RetinaNet

SUBNETS = ("head.class_subnet.", "head.box_subnet.")
CHANNELS = 256  # of a subnet's layer at the paper's width


def build_one_stage(request: Request, **options: Any) -> RetinaNet:
    """RetinaNet without the method, or with `phase` among the options (those of model.build_pod) with it."""
    made: RetinaNet = build_pod(request, **options) if "phase" in options else build_baseline(request, **options)  # type: ignore[assignment]
    drawn, stronger = as_drawn(request, options), math.sqrt(CHANNELS / made.config.width)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith(drawn) and name.endswith(".weight"):
                parameter.mul_(stronger)
    return made


def as_drawn(request: Request, options: dict[str, Any]) -> tuple[str, ...]:
    """The layers of the subnets, by how their names begin, that no other run's weights have filled."""
    if options.get("begin") == "transferred" and options.get("scales_of") in request.inputs:
        return ()
    if PRETRAINED not in request.inputs:
        return SUBNETS
    with safe_open(request.inputs[PRETRAINED], "pt") as file:
        whole = any(name.startswith(SUBNETS) for name in file.keys())  # noqa: SIM118 - it is no dictionary
    return NAMING if whole else SUBNETS
