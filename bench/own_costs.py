"""What a row costs at a tier's own scale, counted as it runs: the costs that stand beside an accuracy measured there."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.assemble import build_detector
from bench.cost import build_on_meta
from bench.meters.compressed import FLOAT, ROIS
from bench.meters.counted import count
from bench.scales import SCALES
from bench.spec import CostRule
from bench.types import Unavailable

if TYPE_CHECKING:
    from bench.spec import Row, Tier


def own_costs(row: Row, tier: Tier, classes: int) -> dict[str, float]:
    """As bench.meters.compressed names them, of a float32 detector as it is deployed: an image of the size that it makes of one, and 1000 RoIs.

    Empty for a compressed detector: its costs are a matter of its weights, and its record holds them. At the paper's scale on the meta device, where
    a pooling is no matrix product; below it with weights, as the records of compressed rows are counted.
    """
    asked = replace(row, setting=replace(row.setting, classes=classes), arguments=MappingProxyType({**row.arguments, **row.deployed}))
    try:
        detector = build_on_meta(asked, SCALES[tier]) if tier == "paper" else build_detector(asked, SCALES[tier], classes, seed=0).eval()
    except Unavailable:
        return {}
    if getattr(detector, "compression", None) is not None:
        return {}
    parts = detector.parts(detector.config.shorter, detector.config.longer)
    macs = count(parts, CostRule(scope="model", rois=ROIS)).total.macs / 1e9
    arithmetic = 4e-6 * sum(parameter.numel() for parameter in detector.parameters())
    stored = sum(tensor.numel() * tensor.element_size() for tensor in detector.state_dict().values()) / 1e6
    return {
        "own_macs_g": macs,
        "own_effective_macs_g": macs,
        "own_bops_g": macs * FLOAT * FLOAT,
        "own_effective_bops_g": macs * FLOAT * FLOAT,
        "own_arithmetic_mb": arithmetic,
        "own_stored_mb": stored,
        "own_stored_ratio": stored / arithmetic,
    }
