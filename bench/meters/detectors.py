"""The cost of a whole detector of any kind: by its parts where it names them, else by watching one call of its network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.cost import WHOLE
from bench.meters import METERS
from bench.meters.counted import count
from bench.meters.macs import count_macs
from bench.meters.params import count_params

GRAPH = "a graph: what it computes cannot be seen from here"


def cost(detector: Any, size: tuple[int, int], rois: int, image: Tensor) -> dict[str, Any]:
    """params_m, size_mb and multiply-adds in 1e9 at an input (height, width) with so many RoIs; `unknown` names operators without a formula.

    Without parts, one call on `image` (3, H, W) is watched, at its own RoIs, and nothing is said of fixed and per RoI. The detector is spent.
    """
    known = stored(detector)
    if hasattr(detector, "parts"):
        if getattr(detector, "on_meta", True) and isinstance(detector, nn.Module):
            detector.to("meta")
        counted = count(detector.parts(*size), replace(WHOLE, rois=rois))
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


def stored(detector: Any) -> dict[str, float]:
    """Parameters and size: four bytes each, or what the files of a graph take."""
    if isinstance(detector, nn.Module):
        params = count_params(detector)
        return {"params_m": params / 1e6, "size_mb": 4 * params / 1e6}
    told = getattr(detector, "stored_bytes", None)
    return {"size_mb": told() / 1e6} if told is not None else {}
