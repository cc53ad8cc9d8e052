"""RoI counts held equal: a two-stage detector is given as many random regions as any other, while its own proposal network still does its work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.types import UserError

SEED = 20171120  # of the random regions: the same for every detector and image
LEAST = 0.03  # of the image's side: the shortest side of a random region


def count_rois(raw: Any) -> int | None:
    """How many RoIs the second stage saw, from what the network says; None where it tells of none."""
    counts = getattr(getattr(raw, "answers", raw), "counts", None)
    return int(sum(counts)) if counts is not None else None


def random_boxes(count: int) -> Tensor:
    """(count, 4) x1 y1 x2 y2 in 0..1, sides from 3 % of the image to all of it, log-uniform; on the CPU, the same each time."""
    drawn = torch.rand(count, 4, generator=torch.Generator().manual_seed(SEED))
    sides = LEAST ** (1 - drawn[:, 2:])
    corner = drawn[:, :2] * (1 - sides)
    return torch.cat((corner, corner + sides), 1)


def most_rois(detector: Any) -> int | None:
    """How many proposals a detector keeps at most in testing, by its configuration; None where it has none."""
    proposals = getattr(getattr(getattr(detector, "config", None), "rpn", None), "proposals", None)
    return int(proposals[1]) if proposals else None


def hold_rois(detector: Any, count: int) -> None:
    """Let the detector's second stage see exactly `count` random regions an image from now on; its proposal network runs as before.

    UserError for a detector without proposals, and for more regions than it keeps itself.
    """
    most, own = most_rois(detector), getattr(detector, "propose", None)
    if own is None:
        raise UserError(f"--rois {count}: this detector has no proposals that could be replaced; leave --rois out, or time two-stage detectors alone")
    if most is not None and count > most:
        raise UserError(f"--rois {count}: more than the model gives, which keeps {most} an image; allowed: 1 to {most}")
    boxes = random_boxes(count)

    def given(maps: Any, batch: Any, *others: Any, **named: Any) -> Any:
        proposals, losses = own(maps, batch, *others, **named)
        return _replaced(proposals, boxes), losses

    detector.propose = given


def hold_equal(detector: Any, count: int) -> None:
    """Let the detector answer for exactly `count` regions an image from now on: random ones, or (MimicDet) positions of its dense maps.

    UserError as of hold_rois and hold_positions.
    """
    refinement = getattr(getattr(detector, "detector", detector), "refinement", None)
    if refinement is None:
        hold_rois(detector, count)
    else:
        hold_positions(refinement, count)


def hold_positions(refinement: Any, count: int) -> None:
    """Let a dense detector that refines its anchors answer at exactly `count` positions: the best by its own score, good boxes or not.

    UserError for more than it keeps itself, or than an image has.
    """
    own, most = refinement.best, int(refinement.config.proposals[1])
    if count > most:
        raise UserError(f"--rois {count}: more than the model gives, which keeps {most} an image; allowed: 1 to {most}")

    def given(refined: Any) -> Any:
        kept = own(refined)
        there = int(kept.valid.shape[1])
        if there < count:
            raise UserError(f"--rois {count}: an image has {there} positions; allowed: 1 to {there}; or take larger images")
        first = {name: getattr(kept, name)[:, :count] for name in ("boxes", "position", "valid")}
        return replace(kept, **{**first, "valid": torch.ones_like(first["valid"])})

    refinement.best = given


def _replaced(proposals: Any, boxes: Tensor) -> Any:
    """The same proposals with these boxes (N, 4) in 0..1, scaled to each image."""
    height_width = proposals.sizes  # (B, 2)
    scale = height_width.flip(1).repeat(1, 2).unsqueeze(1)  # (B, 1, 4)
    scaled = boxes.to(scale.device, scale.dtype).unsqueeze(0) * scale
    return replace(proposals, boxes=scaled.to(proposals.boxes.dtype), valid=torch.ones(scaled.shape[:2], dtype=torch.bool, device=scale.device))
