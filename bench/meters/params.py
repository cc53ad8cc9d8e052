"""How many numbers a module learns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from bench.meters.conventions import is_frozen_norm


def learned(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Each parameter once, shared ones too. Scale and shift of a frozen batch norm count, as they do in an nn.BatchNorm2d that is not stepped."""
    seen: set[int] = set()
    for module in (inner for outer in modules for inner in outer.modules()):
        frozen = (getattr(module, name) for name in ("weight", "bias")) if is_frozen_norm(module) else ()
        for tensor in (*module.parameters(recurse=False), *frozen):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def count_params(*modules: nn.Module) -> int:
    """The number of parameters of all modules together."""
    return sum(tensor.numel() for tensor in learned(modules))
