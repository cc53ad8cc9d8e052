"""Combinations that nobody has printed, as data: rows whose parts are rows of the papers, named by PAPER.ROW. Prints nothing, imports no torch.

A part's row is looked up once, when this file is read; its builder and its arguments then stand in the row's own arguments, so that a change of a
part changes the run's digest.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from bench.spec import CostRule, Paper, Recipe, Request, Row, Train, Transform

# ---- parts, by id


@dataclass(frozen=True)
class Part:
    """What a row of a paper contributes: a detector (`do` is its builder), or what it does to one (`do` is given the detector)."""

    id: str  # PAPER.ROW
    do: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def _module(key: str) -> Any:
    return importlib.import_module(f"implementations.{key}.paper")


def _row(name: str) -> Row:
    key, _, row = name.partition(".")
    found: Row = _module(key).PAPER.row(row)
    return found


def detector(name: str) -> Part:
    """The detector of a row."""
    row = _row(name)
    assert row.build is not None, f"{name} is quoted and has no builder"
    return Part(name, row.build, row.arguments)


def compression(name: str) -> Part:
    """What a row of Compressed Object Detection does, to any detector: its paper.py's `onto` (int8: `eight_bits_onto`) with its arguments."""
    paper, arguments = _module(name.partition(".")[0]), _row(name).arguments
    return Part(name, paper.eight_bits_onto if arguments.get("precision") == "int8" else paper.onto, arguments)


def narrowed(name: str) -> Part:
    """The channels that a row of Compressed Object Detection takes out, of any detector: its paper.py's `narrowed_onto` with its arguments."""
    return Part(name, _module(name.partition(".")[0]).narrowed_onto, _row(name).arguments)


def deployed(name: str) -> Part:
    """A row of POD as it is deployed, as plain convolutions: its paper.py's `plain`."""
    return Part(name, _module(name.partition(".")[0]).plain)


# ---- the builder


def combined(request: Request, **arguments: Any) -> Any:
    """A detector with what others do to it; arguments are those of model.build_combined."""
    from implementations.combinations.model import build_combined

    return build_combined(request, **arguments)


# ---- rows

CONDENSED, LIGHT, STUDENT = "condensing.k16-l5", "light_head.light-s", "mimicdet.deployed"
FD = {"c4": "pod.c4-r50-fd", "retina": "pod.retina-r50-fd"}
GSL = {"c4": "pod.c4-r50-gsl", "retina": "pod.retina-r50-gsl"}  # whose scales an FD detector is built by
PRUNED, TUNED, INT8 = (compression(f"compression.{row}") for row in ("backbone-30", "backbone-30-tuned", "int8"))
NARROWED = narrowed("compression.channels-both-30-tuned")
ONE_SHOT: Recipe = (Transform("combine"),)
LEARNING: Recipe = (Transform("prune"), Train("tune"))


def _combined(key: str, title: str, base: str, *then: Part, needs: tuple[str, ...] = ()) -> Row:
    """A trained detector with more done to it; `needs`: further runs that its builder reads."""
    arguments = MappingProxyType({"base": detector(base), "weights": base.partition(".")[2], "then": then})
    parts = ", ".join(dict.fromkeys((base, *(part.id for part in then))))
    return Row(key, title, _row(base).setting, combined, arguments, recipe=ONE_SHOT, needs=(base, *needs), notes=f"Made of {parts}.")


def _tuned(key: str, title: str, base: str, *then: Part) -> Row:
    """A pruned detector that learns on with its zeros held."""
    return replace(_combined(key, title, base, *then), recipe=LEARNING, start="needs")


def _after(key: str, title: str, source: Row, *then: Part) -> Row:
    """A row of this folder with more done to it: the base is built again, and filled with what the source ended with."""
    arguments = MappingProxyType({**source.arguments, "weights": source.key, "then": then})
    notes = source.notes.removesuffix(".") + "".join(f", {part.id}" for part in then) + "."
    return Row(key, title, source.setting, combined, arguments, recipe=ONE_SHOT, needs=(source.key,), notes=notes)


_CONDENSED_TUNED = _tuned("condensed-pruned-tuned", "condensed head, 30 % of the backbone pruned, tuned", CONDENSED, TUNED)

ROWS = (
    _combined("condensed-pruned", "condensed head, 30 % of the backbone pruned", CONDENSED, PRUNED),
    _combined("condensed-int8", "condensed head, 8 bits", CONDENSED, INT8),
    _combined("condensed-pruned-int8", "condensed head, 30 % of the backbone pruned, 8 bits", CONDENSED, PRUNED, INT8),
    _CONDENSED_TUNED,
    _after("condensed-pruned-tuned-int8", "condensed head, 30 % of the backbone pruned, tuned, 8 bits", _CONDENSED_TUNED, INT8),
    *(
        _combined(f"fd-{base}-int8", f"fixed dilations on {title}, 8 bits", FD[base], deployed(FD[base]), INT8, needs=(GSL[base],))
        for base, title in (("c4", "Faster R-CNN, C4"), ("retina", "RetinaNet"))
    ),
    _combined("light-s-int8", "Light-Head R-CNN, setting S, 8 bits", LIGHT, INT8),
    _combined("student-int8", "the deployed student of MimicDet, 8 bits", STUDENT, INT8),
    _tuned("student-narrowed", "the deployed student of MimicDet, 30 % of its removable channels taken out, tuned", STUDENT, NARROWED),
)

PAPER = Paper(
    key="combinations",
    title="Combinations of the papers' methods",
    rows=ROWS,
    tables=(),
    claims=(),
    costs=CostRule(scope="model"),
    others=tuple(_module(key).PAPER for key in ("compression", "condensing", "light_head", "mimicdet", "pod")),
)
