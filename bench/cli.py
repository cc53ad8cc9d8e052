"""The command line: each command a few lines of composition. Imports what a command needs when it is called, so that `leandet list` is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.detector_commands import check, equivalence, measure
from bench.types import UserError

if TYPE_CHECKING:
    from bench.plan import Choice, Run
    from bench.report import Standing

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
DATA_HELP = "scenes-v1 (drawn on the fly), or train=A.json,val=B.json,test=C.json[,images=DIR] (COCO format), or voc=DIR."

Tier = Annotated[str, typer.Option("--tier", help=TIER_HELP)]
DataText = Annotated[str, typer.Option("--data", help=DATA_HELP)]
Rows = Annotated[str, typer.Option("--rows", help="Only these rows, by key, joined by commas; `leandet list PAPER` shows the keys.")]
Seeds = Annotated[int, typer.Option("--seeds", help="How many seeds a row; 0: five for headline rows, one for the others.")]
Init = Annotated[str, typer.Option("--init", help="Weights of the backbone as safetensors, in place of a pretraining run (the paper tier needs it).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def say(text: str = "") -> None:
    """One line of a command's answer."""
    typer.echo(text)


@app.command("list")
def list_(
    paper: Annotated[str, typer.Argument(help="A paper's key; without one, the papers.")] = "",
    adapters: Annotated[
        bool, typer.Option("--adapters", help="Detectors of other frameworks: what is installed, and how to install the rest.")
    ] = False,
) -> None:
    """The papers, or the rows of one paper, or the adapters."""
    from bench.catalogue import catalogue, find_paper

    if adapters:
        from bench.checking import adapter_lines

        for line in adapter_lines():
            say(line)
        return
    if not paper:
        for key, entry in catalogue().items():
            built = f"{sum(row.build is not None for row in entry.paper.rows)} rows" if entry.paper else "not built yet"
            say(f"{key:14} {built:14} {entry.published.title}")
        return
    for row in find_paper(paper).rows:
        say(f"{row.key:22} {'headline' if row.headline else 'quoted' if row.build is None else '':9} {row.title}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="PAPER.ROW, as in condensing.k16-l5, or a run's id, as in condensing.k16-l5.proxy.s0.")]) -> None:
    """What a row is, or what a run gave: its settings, its numbers, and what made them."""
    from bench.showing import record_text, row_text

    say(row_text(name) if name.count(".") == 1 else record_text(name))


@app.command()
def plan(  # noqa: PLR0913, PLR0917 - a command's options are its words
    target: Annotated[str, typer.Argument(help="A paper or a run's id; without one, every built paper.")] = "",
    tier: Tier = "proxy",
    data: DataText = "",
    rows: Rows = "",
    seeds: Seeds = 0,
    init: Init = "",
    write: Annotated[bool, typer.Option("--write", help="Write dvc.yaml and pipeline/: the stages that `dvc repro` runs.")] = False,
    digests: Annotated[
        bool, typer.Option("--digests", help="Write runs/.plan.json, from which DVC sees what has changed (its first stage does this).")
    ] = False,
) -> None:
    """Which runs there are to do, in order, and how each stands; runs nothing."""
    from bench.orders import choice_of, ordered, state

    chosen = choice_of(tier, data, rows, seeds, init)
    if write or digests:
        from bench.pipeline import write_digests, write_pipeline

        say(" ".join(map(str, write_pipeline(chosen) if write else (write_digests(chosen),))))
        return
    runs = ordered(target, chosen)
    for run in runs:
        say(f"{state(run):8} {run.kind:9} {run.id}")
    say(f"{len(runs)} runs, {sum(state(run) == 'stands' for run in runs)} of them stand")


@app.command()
def run(  # noqa: PLR0913, PLR0917 - a command's options are its words
    target: Annotated[
        str,
        typer.Argument(
            help="A paper, a run's id (`leandet plan` lists them), quick: what `dvc repro quick` needs, or ADAPTER:NAME; else every built paper."
        ),
    ] = "",
    tier: Tier = "proxy",
    data: DataText = "",
    rows: Rows = "",
    seeds: Seeds = 0,
    init: Init = "",
    jobs: Annotated[int, typer.Option("--jobs", help="Runs at once, each a process; their words go to runs/.logs/.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Train and score; what stands is not done again, what was interrupted goes on from its last epoch."""
    from bench.adapters import is_adapted
    from bench.orders import choice_of, ordered

    if is_adapted(target):
        from bench.adapted import train_adapted

        for line in train_adapted(target, choice_of(tier, data, rows, seeds, init), jobs=jobs, quiet=quiet):
            say(line)
        return
    chosen = choice_of(target.split(".")[2] if target.count(".") > 2 else tier, data or ("scenes-v1" if "." in target else ""), rows, seeds, init)
    _do(ordered(target, chosen), chosen, jobs=jobs, quiet=quiet)


def _do(runs: tuple[Run, ...], choice: Choice, *, jobs: int = 1, quiet: bool = False) -> None:
    from bench.campaign import at_once, here, jobs_allowed
    from bench.showing import result_line

    if jobs_allowed(jobs) == 1:
        here(runs, choice, quiet=quiet)
    else:
        failed = at_once(runs, choice, jobs)
        if failed:
            say(f"leandet: failed: {', '.join(failed)}; their words are in runs/.logs/")
            raise typer.Exit(1)
    for each in () if quiet else runs:
        say(result_line(each))


@app.command()
def cost(
    paper: Annotated[str, typer.Argument(help="A paper's key; without one, every built paper.")] = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Parameters, bytes and multiply-adds of each row at the paper's own scale; needs no data and no training."""
    from dataclasses import asdict

    from bench.catalogue import built, find_paper
    from bench.costing import costs_of

    for each in [find_paper(paper)] if paper else built().values():
        records = costs_of(each)
        if as_json:
            say(json.dumps([asdict(record) for record in records], indent=1))
        elif not quiet:
            from rich.console import Console

            from bench.cost_table import print_costs

            print_costs(records, Console())


@app.command()
def pace(
    rows: Annotated[list[str], typer.Argument(help="PAPER.ROW, and PAPER.ROW or PAPER.ROW+ROW (both trainings) to compare with it.")],
    tier: Annotated[str, typer.Option("--tier", help="At which scale rows learn.")] = "proxy",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0: all cores.")] = 1,
) -> None:
    """Training times of rows against the first, taking their steps in turns on the same images. Kept in runs/training/."""
    from bench.pacing import pace_rows

    for line in pace_rows(rows, tier, threads):
        say(line)


@app.command("time")
def time_(  # noqa: PLR0913, PLR0917 - a command's options are its words
    rows: Annotated[
        list[str], typer.Argument(help="PAPER.ROW (random weights), a run's id (its weights) or FILE.py:FUNCTION that makes a detector.")
    ],
    tier: Annotated[str, typer.Option("--tier", help="At which scale rows are built.")] = "paper",
    data: DataText = "scenes-v1",
    images: Annotated[int, typer.Option("--images", help="The first so many of the test split: 11 bound a median, 64 p90, 130 p95, 662 p99.")] = 64,
    rois: Annotated[int, typer.Option("--rois", help="So many random RoIs for every detector; 0: each its own.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0: all cores.")] = 0,
    precision: Annotated[str, typer.Option("--precision", help="float32, bfloat16 or float16.")] = "float32",
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
    good = time_rows(rows, tier, conditions, Manner(quick, audit, timeout), as_json=as_json)
    if not good:
        raise typer.Exit(1)


for command in (measure, check, equivalence):
    app.command()(command)


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


def _standing(committed: bool) -> Standing:
    from bench.publish import committed_standing, local_standing

    return committed_standing() if committed else local_standing()


Committed = Annotated[bool, typer.Option("--committed", help="From the committed records alone, without this machine's.")]


@app.command()
def tables(
    paper: Annotated[str, typer.Argument(help="A paper's key; without one, every built paper.")] = "",
    committed: Committed = False,
    quiet: Quiet = False,
    out: Annotated[str, typer.Option("--out", help="Where to write; results/local if left out.")] = "",
) -> None:
    """Every published cell beside the measured one, with an outcome and its reason; also written to results/local."""
    from bench import places
    from bench.catalogue import find_paper
    from bench.report import of_paper, print_tables, render

    standing = _standing(committed)
    folder = Path(out) if out else places.local_results()
    written = render(standing, folder)
    if quiet:
        return
    from rich.console import Console

    built = [find_paper(paper).key] if paper else sorted({outcome.paper for outcome in standing.outcomes if outcome.key})
    for key in built:
        print_tables(of_paper(standing, key), Console())
    say(f"{len(written)} files written to {folder}")


@app.command()
def leaderboard(
    committed: Committed = False,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
) -> None:
    """The standings: every row that was run or counted, best first within a tier and its data."""
    from bench.leaderboard import as_csv
    from bench.report import print_leaderboard

    found = _standing(committed)
    if csv:
        typer.echo(as_csv(found.lines).decode(), nl=False)
        return
    from rich.console import Console

    from bench.report import latencies
    from bench.timing_table import print_latencies

    print_leaderboard(found.lines, Console())
    if latencies(found):
        print_latencies(latencies(found), Console())


@app.command()
def cells(
    paper: Annotated[str, typer.Argument(help="A paper's key; without one, all of them.")] = "", committed: Committed = False, as_json: AsJson = False
) -> None:
    """Every published cell of every paper: printed, measured, outcome, reason, tier."""
    from bench.catalogue import catalogue
    from bench.report import as_object

    if paper and paper not in catalogue():
        raise UserError(f"paper {paper!r}: unknown; allowed: {', '.join(catalogue())}")
    found = [as_object(outcome) for outcome in _standing(committed).outcomes if paper in {"", outcome.paper}]
    if as_json:
        say(json.dumps(found, indent=1))
        return
    for cell in found:
        say(f"{cell['paper']} {cell['table']} {cell['row']} | {cell['column']}: {cell['published']} -> {cell['outcome']}")


@app.command()
def publish(allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Although the tree differs from its commit.")] = False) -> None:
    """Move what was measured here into results/records/<machine>/ and render the committed tables anew; you then commit them."""
    from bench.publish import publish as move

    written = move(allow_dirty=allow_dirty)
    say(f"{len(written)} files written; look at `git status` and commit them")


@app.command()
def attest(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of committed records; without one, those that are stale.")] = None,
    one_a_paper: Annotated[bool, typer.Option("--one-a-paper", help="One record of each paper, whether stale or not.")] = False,
) -> None:
    """Replay the first 20 steps of records (and their detections where the weights are here); bit-equal, they stand for the code of now."""
    from bench.attesting import attest_records

    lines, failed = attest_records(tuple(ids or ()), one_a_paper=one_a_paper)
    for line in lines:
        say(line)
    if failed:
        raise typer.Exit(1)


@app.command()
def rerun(
    row: Annotated[str, typer.Option("--row", help="A row's id as the leaderboard shows it, as in condensing.k16-l5.proxy.")],
    data: DataText = "",
    seeds: Seeds = 0,
    init: Init = "",
    jobs: Annotated[int, typer.Option("--jobs", help="Runs at once.")] = 1,
) -> None:
    """Make exactly one leaderboard row again from its id: all its seeds, trained anew where they do not stand, in results/local."""
    from bench.orders import choice_of, of_line
    from bench.rerun import print_line

    tier = row.split(".")[2] if row.count(".") == 2 else "proxy"
    chosen = choice_of(tier, data, "", seeds, init)
    _do(of_line(row, chosen), chosen, jobs=jobs)
    say(print_line(row))


@app.command()
def doctor() -> None:
    """Look whether this machine is ready, and say what to do where it is not."""
    from bench.doctor import diagnose, require

    lines, problems = diagnose()
    for line in lines:
        say(line)
    require(problems)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="voc2007, voc2012, coco2017 and the like; a wrong name prints those there are.")],
    folder: Annotated[str, typer.Argument(help="Where to put it.")],
) -> None:
    """Get a dataset: resumes, checks checksums and free space, unpacks safely; prints what to give to --data."""
    from bench.campaign import downloading
    from bench.datasets.download import download as get

    with downloading() as progress:
        text = get(name, Path(folder), progress)
    say(f"--data {text}")


@app.command()
def draw(
    name: Annotated[str, typer.Argument(help="The id of a run of a row with a condensed head.")],
    out: Annotated[str, typer.Argument(help="The PNG to write.")],
    data: DataText = "",
    image: Annotated[int, typer.Option("--image", help="Which image of the test split.")] = 0,
) -> None:
    """Draw the key parts that a run has discovered, and its global activation, on one test image (Figures 3 and 5)."""
    from bench.drawing import draw_run

    say(draw_run(name, Path(out), data, image))


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit code 2, a failed run one line and 1."""
    try:
        app()
    except UserError as error:
        typer.echo(f"leandet: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "TrainingError":  # named, since importing it would import torch
            raise
        typer.echo(f"leandet: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
