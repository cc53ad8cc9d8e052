"""Commands that read what stands, and run nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def audit(paper: Annotated[str, typer.Argument(help="A paper's key; without one, all of them.")] = "", as_json: AsJson = False) -> None:
    """Where the papers contradict themselves, copy, or show nowhere what they say: each finding computed from the published cells."""
    from bench.audit import asked, findings, print_findings

    found = findings(paper)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=1))
        return
    from rich.console import Console

    print_findings(found, asked(paper), Console())
