"""Where Compressed Object Detection disagrees with itself: Table 1 against the abstract, the text, and itself. No torch."""

from __future__ import annotations

from typing import Any

from bench.spec import Check

BACKBONE, HEAD, BOTH = "backbone", "ROI head", "both backbone and ROI head"
PERCENT = (10, 20, 30, 40, 50, 70, 80, 90)  # the columns of a block
FEW = 5.0  # points: "a few" is not more
BYTES = 4  # of a float32 number
# Parameters in millions that detectron2's default holds fixed (FREEZE_AT = 2): conv1, and the three blocks of the first stage of ResNet-50.
FROZEN = (3 * 64 * 49 + 64 * 64 + 9 * 64 * 64 + 64 * 256 + 64 * 256 + 2 * (256 * 64 + 9 * 64 * 64 + 64 * 256)) / 1e6


def _ap(printed: Any, block: str, percent: int) -> float:
    return float(printed.number("T1", f"{block}, {percent}%", "AP"))


def _mb(printed: Any, block: str, percent: int) -> float:
    return float(printed.number("T1", f"{block}, {percent}%", "size"))


def _gained(printed: Any, block: str, percent: int) -> float:
    """Points of AP, pruned minus dense."""
    return _ap(printed, block, percent) - _ap(printed, block, 0)


def _saved(printed: Any, block: str, percent: int) -> float:
    """Per cent of the whole model's size."""
    return 100 * (1 - _mb(printed, block, percent) / _mb(printed, block, 0))


def _copied(printed: Any) -> str:
    columns = (0, *PERCENT)
    if any(_ap(printed, BACKBONE, percent) != _ap(printed, HEAD, percent) for percent in columns):
        return ""
    values = ", ".join(f"{_ap(printed, HEAD, percent):g}" for percent in columns)
    return f"the accuracies of both blocks are {values}: {len(columns)} of {len(columns)} equal to the digit, so one row is a copy of the other"


def _without_a_loss(printed: Any) -> str:
    (claimed,) = printed.said(0)
    lossless = [(_saved(printed, block, p), block, p) for block in (BACKBONE, BOTH) for p in PERCENT if _gained(printed, block, p) >= 0]
    most, block, percent = max(lossless, default=(0.0, "nothing", 0))
    if most >= claimed - 1:
        return ""
    gain, both = _gained(printed, block, percent) if lossless else 0.0, _gained(printed, BOTH, 30)
    return (
        f"{percent} % of {block} is {_mb(printed, BACKBONE, 0):g} -> {_mb(printed, block, percent):g} MB, {most:.1f} % of the model, {gain:+.2f} AP: "
        f"the most without a loss; 30 % of both is {_saved(printed, BOTH, 30):.1f} % and {both:+.2f} AP; claimed {claimed:g} %"
    )


def _few_points(printed: Any) -> str:
    (claimed,) = printed.said(4)
    lost = -_gained(printed, BOTH, int(claimed))
    if lost <= FEW:
        return ""
    alone = -_gained(printed, BACKBONE, int(claimed))
    return (
        f"{_ap(printed, BOTH, 0):g} - {_ap(printed, BOTH, int(claimed)):g} = {lost:.2f} points for {claimed:g} % of both, "
        f"{_saved(printed, BOTH, int(claimed)):.1f} % of the model; {alone:.2f} points for {claimed:g} % of the backbone, "
        f"which is {_saved(printed, BACKBONE, int(claimed)):.1f} % of the model"
    )


def _low_sparsity(printed: Any) -> str:
    worse = {percent: _gained(printed, BOTH, percent) for percent in (10, 20, 30) if _gained(printed, BOTH, percent) < 0}
    if not worse:
        return ""
    alone = ", ".join(f"{_gained(printed, BACKBONE, percent):+.2f}" for percent in (10, 20, 30))
    return f"both blocks: {', '.join(f'{gain:+.2f} at {percent} %' for percent, gain in worse.items())}; the backbone alone {alone}"


def _arithmetic_sizes(printed: Any) -> str:
    """Every size is the dense one less the same amount for each per cent, up to the printed digits (rounded or cut off)."""
    for block in (BACKBONE, HEAD, BOTH):
        step = (_mb(printed, block, 0) - _mb(printed, block, 90)) / 90
        for percent in PERCENT:
            low, high = printed.between("T1", f"{block}, {percent}%", "size")
            if not low - 2 * (high - low) <= _mb(printed, block, 0) - step * percent <= high + 2 * (high - low):
                return ""
    steps = [(_mb(printed, block, 0) - _mb(printed, block, 90)) / 90 for block in (BACKBONE, HEAD, BOTH)]
    counts = ", ".join(f"{block} {step / BYTES * 100:.1f} M" for block, step in zip((BACKBONE, HEAD, BOTH), steps, strict=True))
    return (
        f"all {3 * len(PERCENT)} sizes are {_mb(printed, BACKBONE, 0):g} MB less {BYTES} bytes for each number pruned ({counts}): "
        "nothing for where the zeros stand, which a file must say, so no file was measured"
    )


def _no_eight_bits(printed: Any) -> str:
    quarter = _mb(printed, BACKBONE, 0) / 4
    sizes = [_mb(printed, block, 0) for block in (BACKBONE, HEAD, BOTH)]
    if any(abs(size - quarter) < 1 for size in sizes):
        return ""
    return f"8 bits of every number would be {_mb(printed, BACKBONE, 0):g} / 4 = {quarter:.1f} MB; the unpruned sizes are {sizes[0]:g} MB, float32"


def _no_sharing(printed: Any) -> str:
    rows = printed.rows("T1")
    if any("shar" in row.lower() for row in rows):
        return ""
    blocks = dict.fromkeys(row.rpartition(", ")[0] for row in rows)
    return f"the {len(rows)} columns of the only table are {', '.join(blocks)}, each pruned; none is of shared weights, and no section describes them"


def _no_sixty(printed: Any) -> str:
    there = {row.rpartition(", ")[2] for row in printed.rows("T1")}
    missing = [percent for percent in range(0, 100, 10) if f"{percent}%" not in there]
    if not missing:
        return ""
    fall = _ap(printed, BOTH, 50) - _ap(printed, BOTH, 70)
    return f"of 0 to 90 % in steps of ten, {', '.join(map(str, missing))} % is missing; from 50 to 70 % both lose {fall:.2f} points"


def _not_trainable(printed: Any) -> str:
    (claimed,) = printed.said(1)
    whole = _mb(printed, BACKBONE, 0) / BYTES
    if round(whole - FROZEN, 1) == claimed or round(whole, 1) != claimed:
        return ""
    return (
        f"{_mb(printed, BACKBONE, 0):g} MB / {BYTES} = {whole:.1f} M are all parameters; detectron2's default holds conv1 and the first stage fixed, "
        f"{FROZEN:.3f} M, which leaves {whole - FROZEN:.2f} M that are trained; said are {claimed:g} M"
    )


CHECKS = (
    Check("copied-accuracies", "copied", "The accuracies of backbone and ROI head are the same row.", "Table 1, lines 40 and 44", _copied),
    Check(
        "30-without-a-loss",
        "contradicted",
        "Compressing without a loss stops short of what is claimed.",
        "Abstract, line 15; Table 1",
        _without_a_loss,
    ),
    Check("40-with-few-points", "contradicted", "Pruning the model costs more than a few points.", "Section 3, line 54; Table 1", _few_points),
    Check(
        "low-sparsity-beats-dense",
        "contradicted",
        "Low sparsity does not beat the dense model in both blocks.",
        "Section 2, line 36; Table 1",
        _low_sparsity,
    ),
    Check("arithmetic-sizes", "shown nowhere", "The sizes are arithmetic: no stored model's is shown.", "Table 1, lines 41 to 49", _arithmetic_sizes),
    Check(
        "no-8-bits",
        "shown nowhere",
        "Quantisation to 8 bits is described, and no size or accuracy of it is printed.",
        "Section 2, lines 19 and 32; Table 1",
        _no_eight_bits,
    ),
    Check(
        "weight-sharing", "shown nowhere", "The abstract's weight sharing is described and shown nowhere.", "Abstract, line 15; Table 1", _no_sharing
    ),
    Check("missing-column", "left out", "A sparsity is left out where accuracy falls.", "Table 1, line 39", _no_sixty),
    Check("trainable-parameters", "contradicted", "The trainable parameters are all parameters.", "Section 2, line 32; Table 1", _not_trainable),
)
