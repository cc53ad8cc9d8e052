"""What `leandet pace` does: the words of the command checked, the trainings timed, a line for each. Torch is imported when something is timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench import machine
from bench.spec import TIERS
from bench.types import UserError

if TYPE_CHECKING:
    from bench.records import Record


def pace_rows(rows: Sequence[str], tier: str, threads: int) -> Iterator[str]:
    """A line for each of what is compared."""
    known = next((each for each in TIERS if each == tier), None)
    if known is None:
        raise UserError(f"--tier {tier!r}: unknown; allowed: {', '.join(TIERS)}")
    if not 0 <= threads <= machine.cores():
        raise UserError(f"--threads {threads}: allowed: 1 to {machine.cores()}, the cores of this machine, or 0 for all of them")
    from bench.training_time import time_training

    yield from map(line, time_training(rows, known, threads=threads or machine.cores()))


def line(record: Record) -> str:
    """As in "teacher + student: 812 ms a step, 1.94 [1.90, 1.99] times shared"."""
    values = record.values
    said = f"{' + '.join(record.context['summed'])}: {values['step_ms']:.0f} ms a step"
    if "training_ratio" not in values:
        return said
    ratio, low, high = (values[f"training_ratio{end}"] for end in ("", "_low", "_high"))
    return f"{said}, {ratio:.2f} [{low:.2f}, {high:.2f}] times {record.context['against']}"
