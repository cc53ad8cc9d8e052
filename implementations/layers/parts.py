"""A detector taken apart for its cost: what runs once an image, what once a RoI, and which of it is the second-stage head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Part:
    """A module with the shapes of its inputs, so that it can be counted on the meta device."""

    name: str
    module: nn.Module
    inputs: tuple[tuple[int, ...], ...]
    per_roi: bool = False  # inputs are those of one RoI
    head: bool = False  # the second-stage head, which is what the papers' cost columns are of
