"""The commands that measure detectors as they are: their pace, latency, and accuracy in a deployed form; and that score and compare results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli_app import AsJson, DataText, app, say

Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option("--precision", help="float32, bfloat16 or float16.")]
SUBJECTS = (
    "PAPER.ROW (random weights), a run's id (its weights) or FILE.py:FUNCTION that makes a detector; each may end in @fused (one kernel a "
    "convolution), @compiled (torch.compile), @onnx (onnxruntime) or @openvino."
)
AllThreads = Annotated[int, typer.Option("--threads", help="CPU threads; 0: all cores.")]


@app.command()
def pace(
    rows: Annotated[list[str], typer.Argument(help="PAPER.ROW, and PAPER.ROW or PAPER.ROW+ROW (both trainings) to compare with it.")],
    tier: Annotated[str, typer.Option("--tier", help="At which scale rows learn.")] = "proxy",
    threads: AllThreads = 1,
) -> None:
    """Training times of rows against the first, taking their steps in turns on the same images. Kept in runs/training/."""
    from bench.pacing import pace_rows

    for line in pace_rows(rows, tier, threads):
        say(line)


@app.command("time")
def time_(  # noqa: PLR0913, PLR0917 - a command's options are its words
    rows: Annotated[list[str], typer.Argument(help=SUBJECTS)],
    tier: Annotated[str, typer.Option("--tier", help="At which scale rows are built.")] = "paper",
    data: DataText = "scenes-v1",
    images: Annotated[int, typer.Option("--images", help="The first so many of the test split: 11 bound a median, 64 p90, 130 p95, 662 p99.")] = 64,
    rois: Annotated[int, typer.Option("--rois", help="So many random RoIs for every detector; 0: each its own.")] = 0,
    device: Device = "auto",
    threads: AllThreads = 0,
    precision: Precision = "float32",
    quick: Annotated[bool, typer.Option("--quick", help="Three samples, no percentiles: whether it runs at all.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Look for what would make the numbers untrue: caches, answers that change.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for one answer of a measured process.")] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Latency of detectors, a process each, in turns A B A B: prepare, network, finish, memory; ratios to the first. Kept in runs/latency/."""
    from bench import machine
    from bench.subjects import Conditions
    from bench.timing import Manner
    from bench.timing_command import time_rows

    conditions = Conditions(data, images, device, threads or machine.cores(), precision, rois)
    good = time_rows(rows, tier, conditions, Manner(quick, audit, timeout, settled=not quick), as_json=as_json)
    if not good:
        raise typer.Exit(1)


@app.command()
def deploy(  # noqa: PLR0913, PLR0917 - a command's options are its words
    name: Annotated[str, typer.Argument(help="A run's id with a form, as in condensing.fpn-r50.proxy.s0@fused; without one, as it learnt.")],
    data: DataText = "scenes-v1",
    device: Device = "auto",
    threads: AllThreads = 0,
    precision: Precision = "float32",
    as_json: AsJson = False,
) -> None:
    """Test a run's weights in the form and precision that they are deployed in: its AP, and what that changes. Kept in runs/deployed/."""
    from bench import machine
    from bench.comparing import in_words
    from bench.deploying import deploy as tested
    from bench.deploying import in_json
    from bench.subjects import Conditions

    record, found = tested(name, Conditions(data, 1, device, threads or machine.cores(), precision))
    say(in_json(record) if as_json else in_words(found))


@app.command()
def score(
    predictions: Annotated[str, typer.Option("--predictions", help="A COCO results file (JSON), or a run's predictions.parquet.")],
    data: DataText = "scenes-v1",
    split: Annotated[str, typer.Option("--split", help="Which split they are of: train, val or test.")] = "test",
    name: Annotated[str, typer.Option("--name", help="What the leaderboard calls them; the file's name if left out.")] = "",
) -> None:
    """Score anybody's results without running a model: prints the numbers and adds a row to this machine's leaderboard."""
    from bench.scoring import score_file

    record = score_file(Path(predictions), data, split, name)
    for key, value in record.values.items():
        say(f"{key:12} {value:7.3f}")
    say(f"added to the local leaderboard as {record.row}")


@app.command()
def compare(  # noqa: PLR0913, PLR0917 - a command's options are its words
    first: Annotated[str, typer.Argument(help="A run's id, a COCO results file or a predictions.parquet; several seeds by commas.")],
    second: Annotated[str, typer.Argument(help="What it is compared with, likewise.")],
    data: DataText = "scenes-v1",
    split: Annotated[str, typer.Option("--split", help="Which split they are of: train, val or test.")] = "test",
    groups: Annotated[str, typer.Option("--groups", help="Regular expression; file names in which it finds the same are one group.")] = "",
    as_json: AsJson = False,
) -> None:
    """First minus second on the same images, with its interval; images that belong together (frames of a clip) are resampled together."""
    from bench.comparing import compare_results, in_json, in_words

    say((in_json if as_json else in_words)(compare_results(first, second, data, split, groups)))
