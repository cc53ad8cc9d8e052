"""Cost records: parameters, bytes and multiply-adds of each row at the paper's own scale, on the meta device, without data."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bench.meters import METERS
from bench.meters.conventions import convention
from bench.meters.counted import Part, count
from bench.records import Record
from bench.scales import SCALES
from bench.spec import CostRule, Paper, Request, Row, Scale
from bench.types import Unavailable, UserError

WHOLE = CostRule(scope="model")  # beside each paper's own figure: every part of the detector, by the plainest conventions
CHANNEL_FIRST = (
    "the paper's printed GMAC hold only with the 1x1 convolution before the pooling, so that graph is counted; "
    "its Eq. 9 pools first, which costs macs_g_eq9 and computes the same"
)


FILLS = (
    "constant_",
    "ones_",
    "zeros_",
    *(f"{kind}normal_" for kind in ("", "kaiming_", "trunc_", "xavier_")),
    "uniform_",
    "kaiming_uniform_",
    "xavier_uniform_",
)


@contextmanager
def _unfilled() -> Iterator[None]:
    """Let torch.nn.init do nothing: tensors on meta have no memory to fill, and trying takes most of the time that building a detector does."""
    fills = {name: getattr(nn.init, name) for name in FILLS}
    try:
        for name in FILLS:
            setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        yield
    finally:
        for name, fill in fills.items():
            setattr(nn.init, name, fill)


def build_on_meta(row: Row, scale: Scale) -> Any:
    """The row's detector at a scale, without memory for its weights."""
    assert row.build is not None, f"{row.key} is quoted and has no builder"
    with torch.device("meta"), _unfilled():
        return row.build(Request(row.setting, scale, row.setting.classes), **row.arguments)


def cost_records(paper: Paper, *, digest: Callable[[Row], str] | None = None) -> tuple[Record, ...]:
    """One record a row that is not quoted; `digest` says what all the row's cost depends on."""
    with _uncollected():
        return tuple(cost_record(paper, row, digest=digest(row) if digest else "") for row in paper.rows if row.build is not None)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: modules are many small objects that live on, and looking through them takes a sixth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def cost_record(paper: Paper, row: Row, *, digest: str = "") -> Record:
    """What the row costs; a row that cannot be built or counted gives a record that says why."""
    record = Record(f"{paper.key}.{row.key}.cost", "cost", paper.key, row.key, "", 0, "ok", "", digest, {}, context=_context(paper.costs, row))
    try:
        detector = build_on_meta(row, SCALES["paper"])
        return _measured(record, detector, row, paper.costs)
    except (Unavailable, UserError) as reason:
        return replace(record, status="skipped", reason=str(reason))
    except Exception as error:  # noqa: BLE001 - one row's fault is that row's result, not the end of the others'
        return replace(record, status="failed", reason=f"{type(error).__name__}: {error}")


def _context(rule: CostRule, row: Row) -> dict[str, Any]:
    """All that a cost figure may not travel without."""
    return {
        "scope": rule.scope,
        "convention": f"{rule.macs}: {convention(rule.macs).meaning}",
        "size_convention": rule.size,
        "model_convention": WHOLE.macs,
        "input": f"{row.setting.min_px}x{row.setting.max_px}",
        "rois": rule.rois,
        "classes": row.setting.classes,
        "backbone": row.setting.backbone,
        "precision": "float32",
    } | ({"channel_first": CHANNEL_FIRST} if row.channel_first else {})


def _measured(record: Record, detector: Any, row: Row, rule: CostRule) -> Record:
    """Fill in values and operators: the paper's own column first, then the whole model."""
    parts: tuple[Part, ...] = tuple(detector.parts(row.setting.min_px, row.setting.max_px))
    whole = count(parts, replace(WHOLE, rois=rule.rois))
    with channel_first(detector, on=row.channel_first):
        printed = count(parts, rule)
    values = {name: meter(printed) for name, meter in METERS.items()} | {f"model_{name}": meter(whole) for name, meter in METERS.items()}
    if row.channel_first:
        values["macs_g_eq9"] = METERS["macs_g"](count(parts, rule))
    context = dict(record.context) | {
        "operators": dict(printed.total.by_operator),
        "unknown": list(printed.total.unknown),  # operators without a formula: if there are any, macs_g is a lower bound
        "model_unknown": list(whole.total.unknown),
    }
    return replace(record, values=values, context=context)


@contextmanager
def channel_first(detector: nn.Module, *, on: bool) -> Iterator[None]:
    """Let modules that can run their 1x1 before or behind the pooling (attribute `channel_first`) run it before; afterwards each is as it was."""
    able = [module for module in detector.modules() if on and hasattr(module, "channel_first")]
    before = [module.channel_first for module in able]
    for module in able:
        module.channel_first = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, was in zip(able, before, strict=True):
            module.channel_first = was
