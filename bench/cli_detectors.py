"""The commands for a detector that somebody has: measure, check, equivalence. Imports what a command needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli_app import app, say
from bench.types import UserError


@app.command()
def measure(  # noqa: PLR0913, PLR0917 - a command's options are its words
    names: Annotated[
        list[str],
        typer.Argument(
            help="ADAPTER:NAME (as in torchvision:fcos_resnet50_fpn), FILE.py:FUNCTION, PAPER.ROW or a run's id, these perhaps with @FORM."
        ),
    ],
    size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH in pixels, as in 800x1333; each detector's own if left out.")] = "",
    data: Annotated[str, typer.Option("--data", help="Your images: coco:FILE.json, or as `leandet run` takes them. Adds AP.")] = "",
    weights: Annotated[
        str, typer.Option("--weights", help="A state dict (.safetensors, .pth) for the one detector named; else random weights.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Three samples, no percentiles: whether it runs at all. The row is marked.")] = False,
    images: Annotated[int, typer.Option("--images", help="How many are timed: 11 bound a median, 64 p90.")] = 11,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0: all cores.")] = 0,
    json: Annotated[
        str, typer.Option("--json", help="Write the rows and the latency records to this file as JSON, for programs; - for the screen.")
    ] = "",
    csv: Annotated[str, typer.Option("--csv", help="Write the rows to this file, as leaderboard.csv has them; - for the screen.")] = "",
) -> None:
    """Parameters, bytes, multiply-adds, latency, memory and, with data, AP of detectors that you have, in one table; several are timed in turns."""
    from bench import machine, measuring
    from bench.records import write_atomically
    from bench.subjects import Conditions

    files = {"--json": (json, measuring.in_json), "--csv": (csv, measuring.in_csv)}
    for option, (path, _) in files.items():
        measuring.writable(option, path)
    screen = "-" in {json, csv}
    asked = measuring.Asked(tuple(names), size, data, weights, quick, images)
    found = measuring.measure(asked, Conditions(images=images, device=device, threads=threads or machine.cores()), quiet=screen)
    for path, written in files.values():
        if path == "-":
            typer.echo(written(found), nl=False)
        elif path:
            write_atomically(Path(path), written(found))
    if screen:
        return
    from rich.console import Console

    from bench.measuring_table import print_measured

    print_measured(found, Console())


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="ADAPTER:NAME, FILE.py:FUNCTION, PAPER.ROW, a run's id, or a dataset: FILE.json, or as after --data.")],
    size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH in pixels; small if left out, so that it takes seconds.")] = "",
    weights: Annotated[str, typer.Option("--weights", help="A state dict (.safetensors, .pth); else random weights.")] = "",
    classes: Annotated[int, typer.Option("--classes", help="How many classes it has, background not counted; 0: unknown, or its own.")] = 0,
) -> None:
    """Hold a detector, or a dataset, to its contract: what is broken, and how to mend it."""
    from bench.checking import check_data, check_detector, is_data

    lines, broken = check_data(name) if is_data(name) else check_detector(name, size, weights, classes)
    for line in lines:
        say(line)
    if broken:
        raise UserError(f"{name}: breaks {broken} of {len(lines)} rules of the contract, listed above with what mends them")


@app.command()
def equivalence(size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH that both resize by; 800x1333 if left out.")] = "") -> None:
    """Our Faster R-CNN and RetinaNet against torchvision's with one set of random weights: how far scores and boxes are apart."""
    from bench.checking import equivalence_lines

    lines, same = equivalence_lines(size)
    for line in lines:
        say(line)
    if not same:
        raise typer.Exit(1)
