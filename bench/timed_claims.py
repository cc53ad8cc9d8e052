"""Claims that one row is faster than another, or as fast, by records of both in turns at the paper's scale. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.spec import Verdict
from bench.tables import unless_noisy, where_timed

if TYPE_CHECKING:
    from bench import verdicts
    from bench.evidence import Evidence
    from bench.records import Record


def times_as_fast(evidence: Evidence, row: str, reference: str, rule: Callable[[verdicts.Interval], verdicts.Ruling]) -> Verdict:
    """How many times as fast as its reference a row detects, judged by a rule; both may be named in a form, as "row@onnx"."""
    paper, record = evidence.published.paper, _timed_against(evidence, row, reference)
    if record is None:
        return Verdict("not attempted", None, f"not timed in turns yet: leandet time {paper}.{reference} {paper}.{row}")
    if evidence.stale(record):
        return Verdict("stale", None, f"{record.id} was made by other code; time it again")
    whole, net = _ratio(record, "whole"), _ratio(record, "network")
    word, reason = unless_noisy(record, rule(whole[1]))
    alone = f"; the net alone {net[0]:.2f} [{net[1][0]:.2f}, {net[1][1]:.2f}]"
    said = f"{row} {whole[0]:.2f} times as fast as {reference}: {reason}{alone}; {where_timed(record)}"
    return Verdict(word, whole[0], said, whole[1])


def _timed_against(evidence: Evidence, row: str, reference: str) -> Record | None:
    found = (record for record in evidence.latencies(row) if "whole_ratio" in record.values)
    return next((record for record in found if _named(record) == f"{evidence.published.paper}.{reference}"), None)


def _named(record: Record) -> str:
    """The row that a record was timed against, as a command names it: "pod.c4-r50@onnx" of "pod.c4-r50.paper@onnx"."""
    name, at, form = str(record.context["against"][0]).partition("@")
    return f"{name.removesuffix(f'.{record.tier}')}{at}{form}"


def _ratio(record: Record, part: str) -> tuple[float, verdicts.Interval]:
    """How many times as fast as the row beside it, with the interval: the record holds ratios of times."""
    value, low, high = (1 / record.values[f"{part}_ratio{end}"] for end in ("", "_high", "_low"))
    return value, (low, high)
