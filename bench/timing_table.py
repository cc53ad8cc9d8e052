"""Latency records as a table on the screen and as CSV. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cost_table import format_macs
from bench.records import Record

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PERCENTILES = ("p50", "p90", "p95", "p99")
SHOWN = ("prepare_ms", "network_ms", "finish_ms", "whole_ms")
HEAD = (
    "id", "machine", "device", "precision", "threads", "data", "images", "input", "rois_given", *SHOWN, *(f"whole_{name}_ms" for name in PERCENTILES),
    "rois", "detections", "peak_memory_mb", "macs_g",
    "against", *(f"{name}_ratio{end}" for name in ("network", "whole") for end in ("", "_low", "_high")),
    "quiet", "status", "marks", "commit",
)  # fmt: skip

HIGH = {f"whole_{name}_ms" for name in PERCENTILES}


def print_latencies(records: Sequence[Record], console: Console) -> None:
    """One table, the ratios below it, and the conditions that all of it was measured under."""
    from rich.markup import escape
    from rich.table import Table

    given = [name for name in PERCENTILES if any(f"whole_{name}_ms" in record.values for record in records)]
    shown = Table(padding=(0, 1), box=None, pad_edge=False)
    for name in ("row", "prepare", "network", "finish", "whole ms", *given, "peak MB", "RoIs", "found", "GMAC", "marks"):
        shown.add_column(name, justify="left" if name in {"row", "marks"} else "right", no_wrap=True)
    notes: dict[str, str] = {}
    for record in records:
        shown.add_row(*(escape(text) for text in _cells(record, notes, given)))
    _print_wide(shown, console)
    missing = [name for name in PERCENTILES if name not in given]
    if missing:
        console.print(f"  {', '.join(missing)}: n/a, too few samples", markup=False)
    for note, number in notes.items():
        console.print(f"  {number} {note}", markup=False, soft_wrap=True)
    for record in records:
        if "whole_ratio" in record.values:
            console.print(ratio_line(record), markup=False, soft_wrap=True)
    for line in dict.fromkeys(conditions_line(record) for record in records):
        console.print(line, markup=False, soft_wrap=True)


def _print_wide(table: Table, console: Console) -> None:
    """A row is a line, as long as it may be: numbers that are cut off are none."""
    was = console.width
    console.width = max(was, console.measure(table, options=console.options.update(max_width=1000)).maximum)
    console.print(table)
    console.width = was


def _cells(record: Record, notes: dict[str, str], percentiles: Sequence[str]) -> tuple[str, ...]:
    """One row's texts; what is to be said of it goes to the notes, each once, by its number."""
    said = [*([f"{record.status}: {record.reason}"] if record.status != "ok" else []), *record.context["marks"]]
    numbers = " ".join(notes.setdefault(each, f"({len(notes) + 1})") for each in said)
    values = record.values
    times = [f"{values[name]:.1f}" if name in values else "" for name in SHOWN]
    bounds = [f"{values[f'whole_{name}_ms']:.1f}" if f"whole_{name}_ms" in values else "n/a" for name in percentiles]
    counts = [f"{values[name]:g}" if name in values else "n/a" for name in ("rois", "detections")]
    peak = f"{values['peak_memory_mb']:.0f}" if "peak_memory_mb" in values else ""
    gmac = format_macs(values["macs_g"], record.context["unknown"]) if "macs_g" in values else "n/a"
    return label(record), *times, *bounds, peak, *counts, gmac.replace(" GMAC", ""), numbers


def label(record: Record) -> str:
    """What was timed, without the key of its conditions."""
    return record.id.partition(".latency.")[0]


def ratio_line(record: Record) -> str:
    """The ratios of a record to its reference, with their intervals."""
    told = [
        f"{said} {record.values[f'{name}_ratio']:.3f} [{record.values[f'{name}_ratio_low']:.3f}, {record.values[f'{name}_ratio_high']:.3f}]"
        for name, said in (("network", "network"), ("whole", "whole detection"))
    ]
    return f"{label(record)} / {record.context['against'][0]}: {', '.join(told)} (medians, 95 %)"


def conditions_line(record: Record) -> str:
    """Under which conditions, in a line."""
    about = record.context
    rois = f"{about['rois_given']} random RoIs each" if about["rois_given"] else "each detector's own RoIs"
    where = about["gpu"] or about["machine"]["cpu"]
    seen = about["seen"]
    watched = f"load before {seen['load_before']}, others' cores {seen['foreign_cores']}, throttled: {seen['throttled']}"
    watched += f", foreign GPU processes: {seen['foreign_gpu_processes']}"
    return (
        f"{about['images']} images of {about['data']} (list {about['image_list'][:12]}), batch 1, {rois}, {about['precision']}, "
        f"{about['threads']} threads, {where}, torch {about['versions']['torch']}; {watched}"
    )


def as_csv(records: Sequence[Record]) -> bytes:
    """latency.csv: a line a record, by id and machine; the same bytes for the same records."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEAD)
    for record in sorted(records, key=lambda record: (record.id, record.context["machine"]["name"])):
        writer.writerow(_line(record))
    return out.getvalue().encode()


def _line(record: Record) -> list[str]:
    about = record.context
    told = {name: f"{value:.3f}" for name, value in record.values.items()}
    told |= {name: str(about[name]) for name in ("device", "precision", "threads", "data", "images", "rois_given", "quiet")}
    told |= {"id": record.id, "machine": about["machine"]["name"], "against": (about["against"] or [""])[0], "commit": str(about["commit"])[:12]}
    told |= {"input": "x".join(str(side) for side in about["input"]) if isinstance(about["input"], list) else str(about["input"])}
    told |= {"status": "ok" if record.status == "ok" else f"{record.status}: {record.reason}", "marks": "; ".join(about["marks"])}
    none = "n/a" if record.status == "ok" else ""  # a percentile that so few samples do not support
    return [told.get(name, none if name in HIGH else "") for name in HEAD]
