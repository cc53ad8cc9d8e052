"""A detector's parts, counted: what every cost meter is given. Cost = what runs once an image + RoIs x what runs once a RoI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.meters.conventions import Convention, convention
from bench.meters.macs import MacCount, count_macs
from bench.spec import CostRule


class Part(Protocol):
    """A module of a detector with the shapes of its inputs (those of one RoI if `per_roi`)."""

    @property
    def name(self) -> str:
        """What its weights are stored under."""

    @property
    def module(self) -> nn.Module:
        """On the meta device, or with weights."""

    @property
    def inputs(self) -> tuple[tuple[int, ...], ...]:
        """Shapes, the leading 1 included."""

    @property
    def per_roi(self) -> bool:
        """True if it runs once a RoI."""

    @property
    def head(self) -> bool:
        """True if it belongs to the second-stage head."""


@dataclass(frozen=True)
class Counted:
    """Some parts with the multiply-adds of those that run once and of those that run for each RoI."""

    parts: tuple[Part, ...]
    rule: CostRule
    fixed: MacCount
    per_roi: MacCount

    def __post_init__(self) -> None:
        assert len({part.name for part in self.parts}) == len({(part.name, id(part.module)) for part in self.parts}), "two parts share a name"

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The parts' modules by name, each once: a module may run in several parts."""
        return {part.name: part.module for part in self.parts}

    @property
    def total(self) -> MacCount:
        """All multiply-adds of one image at the rule's number of RoIs."""
        return self.fixed + self.per_roi.times(self.rule.rois)


def count(parts: Iterable[Part], rule: CostRule) -> Counted:
    """Count each part by the rule's convention, of the head alone where the rule says so."""
    chosen = tuple(part for part in parts if part.head or rule.scope == "model")
    counting = convention(rule.macs)
    fixed = _sum(count_part(part, counting) for part in chosen if not part.per_roi)
    return Counted(chosen, rule, fixed, _sum(count_part(part, counting) for part in chosen if part.per_roi))


def count_part(part: Part, rule: Convention) -> MacCount:
    """The multiply-adds of one call, on the device of the part's weights; parts that cannot differ are counted once a process."""
    key = (rule.name, part.inputs, fingerprint(part.module))
    if key not in _COUNTS:
        weight = next(chain(part.module.parameters(), part.module.buffers()), torch.empty(0, device="meta"))
        inputs = (torch.zeros(shape, device=weight.device, dtype=weight.dtype) for shape in part.inputs)
        _COUNTS[key] = count_macs(part.module, *inputs, rule=rule)
    return _COUNTS[key]


_COUNTS: dict[tuple[Any, ...], MacCount] = {}


def fingerprint(module: nn.Module) -> tuple[Any, ...]:
    """Equal for two modules only if their classes, plain attributes and shapes are equal: all that a count may depend on.

    An attribute whose text holds an address (a closure, an object without a repr) makes the module equal to itself alone.
    """
    return tuple(_facts(module))


def _facts(module: nn.Module) -> Iterator[tuple[Any, ...]]:
    for name, inner in module.named_modules():
        yield name, type(inner)
        for key, value in vars(inner).items():
            if not key.startswith("_") and key != "training":
                yield key, repr(value) if not isinstance(value, Tensor) else tuple(value.shape)
        for key, tensor in (*inner._parameters.items(), *inner._buffers.items()):  # noqa: SLF001 - the public ways walk the whole tree each time
            yield key, None if tensor is None else (tuple(tensor.shape), str(tensor.device))


def _sum(counts: Iterable[MacCount]) -> MacCount:
    total = MacCount(0)
    for one in counts:
        total = total + one
    return total
