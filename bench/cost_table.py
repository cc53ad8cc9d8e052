"""Cost records as a table on the screen. No torch: what was counted before is shown at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from bench.records import Record


def format_macs(macs_g: float, unknown: Sequence[str] = ()) -> str:
    """The figure in GMAC (1e9), and where an operator has no formula: >= before it and the operator's name behind it."""
    digits = f"{macs_g:.3f}" if macs_g < 100 else f"{macs_g:.2f}"
    return f">= {digits} GMAC (no formula for {', '.join(unknown)})" if unknown else f"{digits} GMAC"


def print_costs(records: Sequence[Record], console: Console) -> None:
    """A table of the cost records; the conventions below it, since no figure stands without its rule."""
    table = Table("row", "params M", "size MB", "GMAC", "fixed + RoIs x each", "GMAC by Eq. 9", "model params M", "model GMAC")
    for record in records:
        table.add_row(record.row, *(_cells(record) if record.status == "ok" else (f"{record.status}: {record.reason}",)))
    console.print(table)
    for line in sorted({f"{record.context['scope']}: {record.context['convention']}; {record.context['rois']} RoIs" for record in records}):
        console.print(line, markup=False)


def _cells(record: Record) -> tuple[str, ...]:
    values = record.values
    return (
        f"{values['params_m']:.3f}",
        f"{values['size_mb']:g}",
        format_macs(values["macs_g"], record.context["unknown"]),
        f"{values['macs_fixed_g']:.3f} + {record.context['rois']} x {values['macs_per_roi_g']:.6f}",
        f"{values['macs_g_eq9']:.3f}" if "macs_g_eq9" in values else "",
        f"{values['model_params_m']:.2f}",
        format_macs(values["model_macs_g"], record.context["model_unknown"]),
    )
