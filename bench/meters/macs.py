"""One meter of multiply-adds for everything: it watches each operator that torch dispatches, on the meta device or on real tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cost_table import format_macs
from bench.meters.conventions import MAC, Convention, convention, first_tensor
from bench.meters.operators import Call, nothing
from bench.meters.shapes import known_output
from bench.types import UserError


@dataclass(frozen=True)
class MacCount:
    """Multiply-adds, one for one; a lower bound if an operator without a formula was seen."""

    macs: int
    by_operator: Mapping[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()  # operators without a formula, in order of their names

    @property
    def total(self) -> int:
        """All multiply-adds that are known."""
        return self.macs

    @property
    def bound(self) -> bool:
        """True if the count is only a lower bound."""
        return bool(self.unknown)

    def __add__(self, other: MacCount) -> MacCount:
        """Both together."""
        operators = Counter(self.by_operator)
        operators.update(other.by_operator)
        return MacCount(self.macs + other.macs, dict(operators), tuple(sorted({*self.unknown, *other.unknown})))

    def times(self, factor: int) -> MacCount:
        """So many of it: RoIs."""
        return MacCount(self.macs * factor, {name: macs * factor for name, macs in self.by_operator.items()}, self.unknown if factor else ())

    def __str__(self) -> str:
        """As a reader sees it: 10.392 GMAC, with >= and the operators' names where it is a lower bound."""
        return format_macs(self.macs / 1e9, self.unknown)


def count_macs(module: Callable[..., Any], *inputs: Any, rule: str | Convention = MAC) -> MacCount:
    """The multiply-adds of one call in eval mode and without gradients. Inputs on meta need a module on meta; RoIs must then be given."""
    modules = list(module.modules()) if isinstance(module, nn.Module) else []
    meter = _Meter(convention(rule))
    with torch.no_grad(), _evaluating(modules), meter.hooked(modules), meter:
        module(*inputs)
    operators = {name: macs for name, macs in sorted(meter.macs.items()) if macs}
    return MacCount(sum(operators.values()), operators, tuple(sorted(meter.unknown)))


@contextmanager
def _evaluating(modules: list[nn.Module]) -> Iterator[None]:
    """Every module in eval mode, and afterwards each as it was."""
    learning = [module for module in modules if module.training]
    for module in learning:
        module.training = False
    try:
        yield
    finally:
        for module in learning:
            module.training = True


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own class is untyped
    """Adds up each operator's formula, and each module's where the convention counts modules."""

    def __init__(self, rule: Convention) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.rule = rule
        self.macs: Counter[str] = Counter()
        self.unknown: set[str] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch 2.9 and newer would import its compiler here, only to keep out of the meter's way: two seconds for nothing."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name, kwargs = _name(func), kwargs or {}
        formula = self.rule.formulas.get(name, nothing if name in self.rule.none else None)
        if formula is None:  # it may be made of operators that we know
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = _run(func, args, kwargs)
        if formula is nothing:
            return out
        macs = None if formula is None else formula(Call(_by_name(func, args, kwargs), first_tensor(out)))
        if macs is None:
            self.unknown.add(name)
        self.macs[name] += macs or 0
        return out

    @contextmanager
    def hooked(self, modules: list[nn.Module]) -> Iterator[None]:
        """Count what the convention adds for calls of whole modules."""
        with ExitStack() as stack:
            for wanted, formula in self.rule.modules:
                for module in filter(wanted, modules):
                    stack.callback(module.register_forward_hook(self._hook(formula)).remove)
            yield

    def _hook(self, formula: Callable[[Tensor], int]) -> Callable[[nn.Module, Any, Any], None]:
        def count(module: nn.Module, _: Any, out: Any) -> None:
            self.macs[f"module::{type(module).__name__}"] += formula(out)

        return count


def _name(func: Any) -> str:
    """The operator's name without overload and without the underscore of the in-place kind: aten::add, torchvision::nms."""
    name = str(func._schema.name)  # noqa: SLF001 - the schema has no public accessor
    return name if name.endswith("__") else name.removesuffix("_")


def _by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]  # noqa: SLF001 - as above
    return dict(zip(names, args, strict=False)) | kwargs


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    known = None if kwargs else known_output(str(func._schema.name), args)  # noqa: SLF001 - the name with its underscore: in-place kinds are asked
    if known is not None:
        return known
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        if "data-dependent" not in str(error) or not any(one.device.type == "meta" for one in tensors):
            raise
        raise UserError(f"{_name(func)} needs values and the meta device has none: count the parts before and behind it, with RoIs given") from error
