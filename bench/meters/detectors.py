"""The cost of a whole detector of any kind: by its parts where it names them, else by watching one call of its network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.cost import WHOLE
from bench.meters import METERS
from bench.meters.compressed import layers_in_float, source_of
from bench.meters.counted import Counted, count
from bench.meters.macs import count_macs
from bench.meters.params import count_params
from bench.spec import CostRule

GRAPH = "a graph: what it computes cannot be seen from here"


def cost(detector: Any, size: tuple[int, int], rois: int, image: Tensor) -> dict[str, Any]:
    """params_m, size_mb and multiply-adds in 1e9 at an input (height, width) with so many RoIs; `unknown` names operators without a formula.

    Without parts, one call on `image` (3, H, W) is watched, at its own RoIs, and nothing is said of fixed and per RoI. The detector is spent.
    """
    known = stored(detector)
    if hasattr(detector, "parts"):
        counted = _counted(detector, size, replace(WHOLE, rois=rois))
        names = ("macs_g", "macs_fixed_g", "macs_per_roi_g")
        return (
            {"params_m": METERS["params_m"](counted)}
            | known
            | {name: METERS[name](counted) for name in names}
            | {"unknown": list(counted.total.unknown)}
        )
    if not isinstance(detector, nn.Module):
        return known | {"unknown": [GRAPH]}
    whole: Any = detector
    device = next((parameter.device for parameter in whole.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        batch = whole.prepare([image.to(device)])
    seen = count_macs(whole.network, batch)
    return known | {"macs_g": seen.macs / 1e9, "unknown": list(seen.unknown)}


def _counted(detector: Any, size: tuple[int, int], rule: CostRule) -> Counted:
    """Its parts, each as the float32 module that it stands for: int8 kernels do the same multiply-adds, and are for the CPU alone."""
    parts = [part if source_of(part.module) is part.module else replace(part, module=source_of(part.module)) for part in detector.parts(*size)]
    with ExitStack() as held:
        for part in parts:
            held.enter_context(layers_in_float(part.module))
            if getattr(detector, "on_meta", True):
                part.module.to("meta")
        return count(parts, rule)


def stored(detector: Any) -> dict[str, float]:
    """Parameters and size: four bytes each; of a compressed detector and of a graph what its file takes."""
    if isinstance(detector, nn.Module):
        params, plan = count_params(detector), getattr(detector, "compression", None)
        return {"params_m": params / 1e6, "size_mb": plan.stored_bytes(detector) / 1e6 if plan is not None else 4 * params / 1e6}
    told = getattr(detector, "stored_bytes", None)
    return {"size_mb": told() / 1e6} if told is not None else {}
