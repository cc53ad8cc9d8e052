"""The command line: each command a few lines of composition. Imports what a command needs when it is called, so that `leandet list` is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli_app import AsJson, DataText, Init, Length, Quiet, Rows, Seeds, Tier, app, say
from bench.leaderboard_command import Committed, board
from bench.types import UserError

if TYPE_CHECKING:
    from bench.plan import Choice, Run


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
    length: Length = 1,
    write: Annotated[bool, typer.Option("--write", help="Write dvc.yaml and pipeline/: the stages that `dvc repro` runs.")] = False,
    digests: Annotated[
        bool, typer.Option("--digests", help="Write runs/.plan.json, from which DVC sees what has changed (its first stage does this).")
    ] = False,
) -> None:
    """Which runs there are to do, in order, and how each stands; runs nothing."""
    from bench.orders import choice_of, longer, ordered, state

    chosen = longer(choice_of(tier, data, rows, seeds, init), length)
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
    length: Length = 1,
    jobs: Annotated[int, typer.Option("--jobs", help="Runs at once, each a process; their words go to runs/.logs/.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Train and score; what stands is not done again, what was interrupted goes on from its last epoch."""
    from bench.adapters import is_adapted
    from bench.orders import choice_of, longer, ordered

    if is_adapted(target):
        from bench.adapted import train_adapted

        for line in train_adapted(target, longer(choice_of(tier, data, rows, seeds, init), length), jobs=jobs, quiet=quiet):
            say(line)
        return
    tier, data = (target.split(".")[2] if target.count(".") > 2 else tier), data or ("scenes-v1" if "." in target else "")
    chosen = longer(choice_of(tier, data, rows, seeds, init), length)
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
def tables(
    paper: Annotated[str, typer.Argument(help="A paper's key; without one, every built paper.")] = "",
    committed: Committed = False,
    quiet: Quiet = False,
    out: Annotated[str, typer.Option("--out", help="Where to write; results/local if left out.")] = "",
) -> None:
    """Every published cell beside the measured one, with an outcome and its reason; also written to results/local."""
    from bench import audit, places
    from bench.catalogue import find_paper
    from bench.publish import shown_standing
    from bench.report import of_paper, print_tables, render

    standing = shown_standing(committed=committed)
    folder = Path(out) if out else places.local_results()
    written = render(standing, folder, audit=audit.rows())
    if quiet:
        return
    from rich.console import Console

    built = [find_paper(paper).key] if paper else sorted({outcome.paper for outcome in standing.outcomes if outcome.key})
    for key in built:
        print_tables(of_paper(standing, key), Console())
    say(f"{len(written)} files written to {folder}")


app.add_typer(board, name="leaderboard")


@app.command()
def cells(
    paper: Annotated[str, typer.Argument(help="A paper's key; without one, all of them.")] = "", committed: Committed = False, as_json: AsJson = False
) -> None:
    """Every published cell of every paper: printed, measured, outcome, reason, tier."""
    from bench.catalogue import printing
    from bench.publish import shown_standing
    from bench.report import as_object

    if paper and paper not in printing():
        raise UserError(f"paper {paper!r}: unknown; allowed: {', '.join(printing())}")
    found = [as_object(outcome) for outcome in shown_standing(committed=committed).outcomes if paper in {"", outcome.paper}]
    if as_json:
        say(json.dumps(found, indent=1))
        return
    for cell in found:
        measured = "nothing measured" if cell["measured"] is None else f"measured {cell['measured']:.6g}, {cell['tier'] or 'counted'}"
        at = f"{cell['paper']} {cell['table']} {cell['row']} | {cell['column']}"
        say(f"{at}: printed {cell['published']}, {measured} -> {cell['outcome']}: {cell['reason']}")


@app.command()
def publish(allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Although the tree differs from its commit.")] = False) -> None:
    """Move what was measured here into results/records/<machine>/ and render the committed tables anew; you then commit them.

    A dirty tree is refused, and so is each stale record, in a line of its own, with exit code 2; what stands is published beside them.
    """
    from bench.leaderboard_command import publish as move

    move(allow_dirty=allow_dirty)


@app.command()
def attest(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of committed records; without one, those that are stale.")] = None,
    one_a_paper: Annotated[bool, typer.Option("--one-a-paper", help="One of each paper, stale or not, that starts from no trained run.")] = False,
) -> None:
    """Replay the first 20 steps of records (and their detections where the weights are here); bit-equal, they stand for the code of now."""
    from bench.attesting import attest_records

    lines, failed = attest_records(tuple(ids or ()), one_a_paper=one_a_paper)
    for line in lines:
        say(line)
    if failed:
        raise typer.Exit(1)


@app.command()
def rerun(  # noqa: PLR0913, PLR0917 - a command's options are its words
    row: Annotated[str, typer.Option("--row", help="A row's id as the leaderboard shows it, as in condensing.k16-l5.proxy.")],
    data: DataText = "",
    seeds: Seeds = 0,
    init: Init = "",
    length: Length = 1,
    jobs: Annotated[int, typer.Option("--jobs", help="Runs at once.")] = 1,
) -> None:
    """Make exactly one leaderboard row again from its id: all its seeds, trained anew where they do not stand, in results/local."""
    from bench.orders import choice_of, longer, of_line
    from bench.rerun import print_line

    tier = row.split(".")[2] if row.count(".") == 2 else "proxy"
    chosen = longer(choice_of(tier, data, "", seeds, init), length)
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
    name: Annotated[str, typer.Argument(help="The id of a run of a row with a condensed head; of POD's GSL rows one or more, by commas.")],
    out: Annotated[str, typer.Argument(help="The PNG to write.")],
    data: DataText = "",
    image: Annotated[int, typer.Option("--image", help="Which image of the test split.")] = 0,
) -> None:
    """Draw what runs have learnt: a condensed head's key parts and activation on one test image, or the scales of POD's GSL rows."""
    from bench.drawing import draw_run

    say(draw_run(name, Path(out), data, image))


from bench import cli_compressing, cli_detectors, cli_measuring, cli_reading  # noqa: E402, F401 - their commands register themselves, after those above


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit code 2, a failed run one line and 1."""
    try:
        app()
    except UserError as error:
        typer.echo(f"leandet: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno is None:
            raise
        place = error.filename or "what was being written"  # a full disk names no file
        typer.echo(f"leandet: {place}: {error.strerror}; give a place that is there, may be written and has space", err=True)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "TrainingError":  # named, since importing it would import torch
            raise
        typer.echo(f"leandet: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # likewise; not every model says itself whose weights it reads
            raise
        typer.echo(f"leandet: a file of weights that this starts from is damaged ({error}); run the rows it needs again (leandet plan ID)", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
