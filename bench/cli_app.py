"""The application that commands register with, and the options that several of them share."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="leandet",
    help="Reproduce, table by table, what papers on lean object detectors print. Begin with `leandet list`, then `leandet tables`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TIER_HELP = (
    "At which scale: smoke (seconds a run, shows that the path works), proxy (scaled-down nets on drawn scenes, minutes), real (your data), paper."
)
DATA_HELP = (
    "scenes-v1 (drawn on the fly), or train=A.json,val=B.json,test=C.json[,images=DIR] (COCO format; files joined by + are one split), or voc=DIR."
)

Tier = Annotated[str, typer.Option("--tier", help=TIER_HELP)]
DataText = Annotated[str, typer.Option("--data", help=DATA_HELP)]
Rows = Annotated[str, typer.Option("--rows", help="Only these rows, by key, joined by commas; `leandet list PAPER` shows the keys.")]
Seeds = Annotated[int, typer.Option("--seeds", help="How many seeds a row; 0: five for headline rows, one for the others.")]
Length = Annotated[
    int, typer.Option("--length", help="At the tier real: so many times 2,200 images, which suit a few hundred photographs of one kind of object.")
]
Init = Annotated[str, typer.Option("--init", help="Weights of the backbone as safetensors, in place of a pretraining run (the paper tier needs it).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def say(text: str = "") -> None:
    """One line of a command's answer."""
    typer.echo(text)
