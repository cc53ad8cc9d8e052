"""What was measured of detectors as one table on the screen. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.cost_table import format_macs
from bench.timing_table import PERCENTILES, conditions_line, ratio_line

if TYPE_CHECKING:
    from rich.console import Console

    from bench.measuring import Measured
    from bench.records import Record

TIMES = ("prepare_ms", "network_ms", "finish_ms", "whole_ms")
LEFT = ("detector", "marks")
COSTS = ("detector", "input", "params M", "MB", "GMAC", "fixed + RoIs x each")
PHASES = ("prepare", "network", "finish", "whole ms")
COUNTS = ("peak MB", "RoIs", "found")
RULE = (
    "GMAC: weights x positions, 1e9, padding left out; params: each learnt number once; MB (1e6): four bytes each, of a graph its files; "
    "times: medians in ms, batch 1; AP in 0..100"
)


def print_measured(found: Sequence[Measured], console: Console) -> None:
    """One table, what is to be said of its rows, the ratios to the first, the conditions."""
    from rich.markup import escape
    from rich.table import Table

    scored = any(each.score for each in found)
    given = [name for name in PERCENTILES if any(f"whole_{name}_ms" in each.latency.values for each in found)]
    shown = Table(padding=(0, 1), box=None, pad_edge=False)
    for name in (*COSTS, *PHASES, *given, *COUNTS, *(("AP", "AP50") if scored else ()), "marks"):
        shown.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    notes: dict[str, str] = {}
    for each in found:
        accuracy = [f"{each.score.values[name]:.2f}" if each.score else "n/a" for name in ("ap", "ap50")] if scored else []
        marks = " ".join(notes.setdefault(text, f"({len(notes) + 1})") for text in (*each.latency.context["marks"], *_uncounted(each), *each.notes))
        cells = (each.subject.label, *_cost_cells(each.latency), *_time_cells(each.latency, given), *accuracy, marks)
        shown.add_row(*(escape(text) for text in cells))
    was = console.width
    console.width = max(was, console.measure(shown, options=console.options.update(max_width=1000)).maximum)
    console.print(shown)
    console.width = was
    missing = [name for name in PERCENTILES if name not in given]
    if missing:
        console.print(f"  {', '.join(missing)}: n/a, too few samples", markup=False)
    for note, number in notes.items():
        console.print(f"  {number} {note}", markup=False, soft_wrap=True)
    for each in found:
        if "whole_ratio" in each.latency.values:
            console.print(ratio_line(each.latency), markup=False, soft_wrap=True)
    for line in (RULE, *dict.fromkeys(conditions_line(each.latency) for each in found)):
        console.print(line, markup=False, soft_wrap=True)


def _cost_cells(record: Record) -> tuple[str, ...]:
    values, given = record.values, record.context["input"]
    side = "x".join(str(one) for one in given) if isinstance(given, list) else str(given)
    told = [f"{values[name]:.2f}" if name in values else "n/a" for name in ("params_m", "size_mb")]
    gmac = format_macs(values["macs_g"], record.context["unknown"]).replace(" GMAC", "") if "macs_g" in values else "n/a"
    return side, *told, gmac, _split(values)


def _split(values: Mapping[str, float]) -> str:
    """What runs once an image and what once a RoI; of a detector without RoIs the former is all."""
    if "macs_fixed_g" not in values:
        return "n/a"
    fixed = f"{values['macs_fixed_g']:.2f}"
    return f"{fixed} + {values['rois']:g} x {values['macs_per_roi_g']:.5f}" if values.get("rois") else fixed


def _uncounted(each: Measured) -> tuple[str, ...]:
    """Why there is no number of multiply-adds, where there is none."""
    known = "macs_g" in each.latency.values
    return () if known else (f"no GMAC: {', '.join(each.latency.context['unknown']) or 'could not be counted'}",)


def _time_cells(record: Record, percentiles: Sequence[str]) -> tuple[str, ...]:
    values = record.values
    times = [f"{values[name]:.1f}" if name in values else "n/a" for name in (*TIMES, *(f"whole_{name}_ms" for name in percentiles))]
    counts = [f"{values[name]:g}" if name in values else "n/a" for name in ("rois", "detections")]
    return *times, f"{values['peak_memory_mb']:.0f}" if "peak_memory_mb" in values else "n/a", *counts
