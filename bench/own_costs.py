"""What a row costs at a tier's own scale, counted on the meta device: the costs that stand beside an accuracy measured there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.cost import build_on_meta
from bench.meters.compressed import FLOAT, ROIS
from bench.meters.counted import count
from bench.scales import SCALES
from bench.spec import CostRule
from bench.types import Unavailable

if TYPE_CHECKING:
    from bench.spec import Row, Tier


def own_costs(row: Row, tier: Tier, classes: int) -> dict[str, float]:
    """As bench.meters.compressed names them, of a detector without its values: an image of the size that it makes of one, and 1000 RoIs.

    A detector whose costs are a matter of its values gives nothing, and one that is masked no bytes of a file: its record holds them.
    """
    asked = replace(row, setting=replace(row.setting, classes=classes))
    try:
        detector = build_on_meta(asked, SCALES[tier])
        parts = detector.parts(detector.config.shorter, detector.config.longer)
    except Unavailable:
        return {}
    macs = count(parts, CostRule(scope="model", rois=ROIS)).total.macs / 1e9
    found = {"own_macs_g": macs, "own_arithmetic_mb": 4e-6 * sum(parameter.numel() for parameter in detector.parameters())}
    if getattr(detector, "compression", None) is not None:
        return found
    stored = sum(tensor.numel() * tensor.element_size() for tensor in detector.state_dict().values()) / 1e6
    return found | {"own_stored_mb": stored, "own_effective_macs_g": macs, "own_bops_g": macs * FLOAT * FLOAT}
