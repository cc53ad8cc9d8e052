"""What `leandet pareto` shows and writes: the table on the screen, pareto.csv, and the drawing. No torch but to count."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import places
from bench.pareto import AXES, HEAD, UNDECIDED, Field, cells, kind, standing
from bench.pareto_points import Question, field_of
from bench.pareto_record import keep, record_of
from bench.records import machine_of, write_atomically
from bench.spec import TIERS, Tier
from bench.sweeps import as_csv as sweeps_csv
from bench.sweeps import sweeps
from bench.types import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from bench.gather import Stored

COSTS = {
    "stored_mb": "MB", "arithmetic_mb": "MB*", "stored_ratio": "MB/MB*", "macs_g": "GMAC", "effective_macs_g": "GMAC*", "bops_g": "Gbop",
    "effective_bops_g": "Gbop*", "ms": "ms",
}  # fmt: skip
WIDTH = 160  # of the table at least: a number that is cut off would be another number
MEANING = (
    "Costs are of each row's own weights at this tier's scale, one image and 1000 RoIs. MB: the compressed file, or 4 bytes a number where nothing "
    "was done to it; MB*: parameters that are not zero x bits, arithmetic that bounds no file: places, scales and header add to it, packing the "
    "values takes from it. GMAC*, Gbop*: zeros skipped, which no kernel does. faster: on a clock."
)


def tier_of(text: str) -> Tier:
    """The tier of that name; UserError for another."""
    for tier in TIERS:
        if tier == text:
            return tier
    raise UserError(f"--tier {text!r}: unknown; allowed: {', '.join(TIERS)}")


def everything_here() -> tuple[Stored, ...]:
    """This machine's records, and the committed ones that it does not have: a run of one id on another machine is another."""
    from bench.publish import committed, local

    own = local()
    known = {(each.record.id, machine_of(each.record)) for each in own}
    return (*own, *(each for each in committed() if (each.record.id, machine_of(each.record)) not in known))


def show_pareto(tier: str, data: str, machine: str, rows: tuple[str, ...], out: Path | None, *, length: int, as_json: bool) -> None:  # noqa: PLR0913 - the command's options
    """Find the points, print them, write the files."""
    from bench.gather import current_digests, digests_of

    stored = everything_here()
    known = field_of(stored, Question(tier_of(tier), data, machine, rows, length), digests_of(stored, current_digests()))
    if as_json:
        print(json.dumps(as_objects(known), indent=1))  # noqa: T201 - the command's answer
        return
    from rich.console import Console

    from bench.report.pareto_plot import draw

    folder = out or places.local_results()
    print_pareto(known, Console(width=max(Console().width, WIDTH)))
    write_atomically(folder / "pareto.csv", as_csv(known))
    draw(
        known,
        folder / "pareto.svg",
        folder / "pareto.png",
        title=f"{tier} tier, {known.data}{f' x{known.length}' if known.length > 1 else ''}, trained on {known.machine}",
    )
    print(f"pareto.csv, pareto.svg and pareto.png written to {folder}")  # noqa: T201 - the command's answer
    if not rows:
        _keep(known, tier, folder)


def _keep(known: Field, tier: str, folder: Path) -> None:
    """Keep the whole field for the page, and say what its sweeps show."""
    found = sweeps((record_of(known, tier),))
    for drawn in found:
        for line in drawn.lines:
            print(f"{drawn.paper}, {drawn.sweep.title}, {line.name}: {line.shape}")  # noqa: T201 - the command's answer
    if found:
        write_atomically(folder / "sweeps.csv", sweeps_csv(found))
        print(f"sweeps.csv written to {folder}")  # noqa: T201 - the command's answer
    print(f"kept for the page, which `leandet publish` renders: {keep(known, tier)}")  # noqa: T201 - the command's answer


def as_objects(known: Field) -> list[dict[str, object]]:
    """Each point as plain values, with what beats it for certain on each axis, and what may."""
    found = {point.id: {axis: found for axis in AXES if (found := standing(known, axis, point))} for point in known.points}
    beaten = {name: {axis: "" if each.by and not each.certain else each.by for axis, each in by.items()} for name, by in found.items()}
    undecided = {name: {axis: each.by for axis, each in by.items() if each.by and not each.certain} for name, by in found.items()}
    return [
        asdict(point) | {"timed_on": known.timed_on, "beaten_by": beaten[point.id], "undecided_by": undecided[point.id]} for point in known.points
    ]


def as_csv(known: Field) -> bytes:
    """pareto.csv: the same bytes for the same points."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows(cells(known, point) for point in known.points)
    return text.getvalue().encode()


def print_pareto(known: Field, console: Console) -> None:
    """Costs and accuracies, then what beats what, then what is not there."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("row", "seeds", "AP", "95 %", *COSTS.values(), "faster"):
        shown.add_column(name, justify="left" if name in {"row", "faster"} else "right", no_wrap=True)
    for point in known.points:
        costs = (number(getattr(point.costs, name)) for name in COSTS)
        low, high = point.interval
        shown.add_row(escape(point.id), str(point.seeds), f"{point.ap:.2f}", f"{low:.1f} to {high:.1f}", *costs, point.speedup)
    console.print(shown)
    console.print(MEANING + (f" ms: {known.timed_on}." if known.timed_on else ""), markup=False, highlight=False)
    texts = [dict(zip(HEAD, cells(known, point), strict=True)) for point in known.points]
    for axis, named in AXES.items():
        _print_axis(named, [(text["row"], text[f"beaten_on_{axis}"]) for text in texts], console)
    for said in (*(f"{point.id}: {note}" for point in known.points for note in point.notes), *known.missing):
        console.print(f"  {said}", markup=False, highlight=False)


def number(value: float | None) -> str:
    """Four digits that count; empty where there is none."""
    return "" if value is None else f"{value:.4g}"


def _print_axis(named: str, beaten: Sequence[tuple[str, str]], console: Console) -> None:
    """One axis: the rows that nothing beats, and each of the others with what does, or may."""
    there = [(row, by) for row, by in beaten if by]
    kept = ", ".join(row for row, by in there if kind(by) == "front") or "none"
    said = [f"by {named}: beaten by nothing: {kept}" if there else f"by {named}: no row has this cost"]
    said += [f"  {row} is beaten by {by}" for row, by in there if kind(by) == "beaten"]
    said += [f"  {row} is undecided, may be beaten by {by.removeprefix(UNDECIDED)}" for row, by in there if kind(by) == "undecided"]
    for line in said:
        console.print(line, markup=False, highlight=False)
