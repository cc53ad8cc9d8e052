"""The commands that make files of detectors: compress, expand, adopt. Imports what a command needs when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli_app import DataText, app, say


@app.command()
def compress(  # noqa: PLR0913, PLR0917 - a command's options are its words
    run: Annotated[
        str,
        typer.Argument(help="A finished run's id, a .safetensors that `leandet adopt` made, or PAPER.ROW: random weights at the paper's scale."),
    ],
    file: Annotated[str, typer.Argument(help="The compressed file to write.")],
    block: Annotated[str, typer.Option("--block", help="What is pruned: both, backbone or head.")] = "both",
    sparsity: Annotated[str, typer.Option("--sparsity", help="The share of the block's weights, units or channels that goes, 0 to 1.")] = "0",
    kind: Annotated[
        str,
        typer.Option("--kind", help="weights or units, which become zero, or channels, which are taken out with all that gives and reads them."),
    ] = "weights",
    remove: Annotated[
        bool,
        typer.Option(
            "--remove",
            help="Take zero units out of the network (with --kind units); a head of 16 key parts kept torch-pruning busy for over nine minutes.",
        ),
    ] = False,
    precision: Annotated[str, typer.Option("--precision", help='float32, "int8 weights", or int8 (activations too).')] = "float32",
    images: Annotated[int, typer.Option("--images", help="How many training images int8 is calibrated on.")] = 64,
    data: DataText = "",
) -> None:
    """Store a run's detector compressed (without options, as it is), read back bit for bit: its true bytes beside the arithmetic size."""
    from bench.compressing import compress_file

    wish = {"block": block, "sparsity": sparsity, "kind": kind, "remove": remove, "precision": precision, "images": images}
    for line in compress_file(run, file, wish, data).told:
        say(line)


@app.command()
def expand(
    file: Annotated[str, typer.Argument(help="A file that `leandet compress` made.")],
    out: Annotated[str, typer.Argument(help="The .safetensors to write, which any tool reads.")],
) -> None:
    """A compressed file as plain weights by name; 8-bit numbers become the float32 that they stand for."""
    from bench.compressing import expand_file

    say(f"{out}: {expand_file(file, out)} tensors")


@app.command()
def adopt(  # noqa: PLR0913, PLR0917 - a command's options are its words
    library: Annotated[str, typer.Argument(help="Whose checkpoint it is: torchvision, detectron2 or mmdet.")],
    file: Annotated[str, typer.Argument(help="A Faster R-CNN R50-FPN as published (.pth, .pkl, .safetensors); nothing in it is run.")],
    out: Annotated[str, typer.Argument(help="The .safetensors to write, under our names.")],
    classes: Annotated[
        int, typer.Option("--classes", help="How many it must have; 0: as many as it has; 80 of torchvision's 90 for COCO: without the gaps.")
    ] = 0,
    eps: Annotated[float, typer.Option("--eps", help="Of its norms: 0 for torchvision's own weights for COCO.")] = 1e-5,
    backbone: Annotated[bool, typer.Option("--backbone", help="The backbone alone, as `leandet run --init` takes it.")] = False,
) -> None:
    """A published checkpoint under our names, every tensor accounted for.

    Then `leandet measure python:implementations.compression.adopted:faster_rcnn --weights OUT`, or `leandet compress OUT FILE`.
    """
    from bench.compressing import Adoption, adopt_file

    say(adopt_file(Adoption(library, classes, eps, backbone), file, out))
