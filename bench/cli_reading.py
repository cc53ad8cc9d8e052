"""Commands that read what stands, and run nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench.cli_app import AsJson, app, say


@app.command()
def audit(paper: Annotated[str, typer.Argument(help="A paper's key; without one, all of them.")] = "", as_json: AsJson = False) -> None:
    """Where the papers contradict themselves, copy, or show nowhere what they say: each finding computed from the published cells."""
    from bench.audit import asked, findings, print_findings

    found = findings(paper)
    if as_json:
        say(json.dumps([asdict(each) for each in found], indent=1))
        return
    from rich.console import Console

    print_findings(found, asked(paper), Console())


@app.command()
def pareto(  # noqa: PLR0913, PLR0917 - a command's options are its words
    tier: Annotated[str, typer.Option("--tier", help="Whose accuracies: smoke, proxy, real or paper.")] = "proxy",
    data: Annotated[str, typer.Option("--data", help="What they were tested on, as for `leandet run`.")] = "scenes-v1",
    machine: Annotated[str, typer.Option("--machine", help="Whose runs; the machine with the most if left out.")] = "",
    rows: Annotated[str, typer.Option("--rows", help="Only these, as PAPER.ROW joined by commas.")] = "",
    length: Annotated[int, typer.Option("--length", min=0, help="Runs that learnt so many times their tier's schedule; 0: as most did.")] = 0,
    out: Annotated[str, typer.Option("--out", help="Where to write pareto.csv, .svg and .png; results/local if left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Accuracy against bytes, multiply-adds and time, of every row with runs: which another row beats, by paired intervals."""
    from bench.pareto_table import show_pareto

    show_pareto(tier, data, machine, tuple(filter(None, rows.split(","))), Path(out) if out else None, length=length, as_json=as_json)
