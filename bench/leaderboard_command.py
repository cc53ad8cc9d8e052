"""`leandet leaderboard`: the standings on the screen or as CSV; files of several machines held to the schema and joined. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.types import UserError

board = typer.Typer(
    help="The standings: every row that was run or counted, best first within a tier and its data. `merge` and `validate` take files of others.",
    invoke_without_command=True,
)

Committed = Annotated[bool, typer.Option("--committed", help="From the committed records alone, without this machine's.")]


@board.callback()
def leaderboard(
    context: typer.Context,
    committed: Committed = False,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
) -> None:
    """The standings: every row that was run or counted, best first within a tier and its data; `merge` and `validate` take files of others."""
    if context.invoked_subcommand:
        if committed or csv:
            raise UserError(f"leaderboard {context.invoked_subcommand}: reads files alone; leave out --committed and --csv")
        return
    from bench.leaderboard import as_csv
    from bench.publish import shown_standing

    found = shown_standing(committed=committed)
    if csv:
        typer.echo(as_csv(found.lines).decode(), nl=False)
        return
    from rich.console import Console

    from bench.leaderboard_table import print_leaderboard
    from bench.report import latencies
    from bench.timing_table import print_latencies

    print_leaderboard(found.lines, Console())
    if latencies(found):
        print_latencies(latencies(found), Console())


@board.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="A.csv B.csv ...", help="Two or more files as `leandet leaderboard --csv` writes them.")],
    out: Annotated[str, typer.Option("--out", help="The file to write; the screen if left out.")] = "",
) -> None:
    """Join leaderboards of several machines: each row keeps its machine, ranks are made anew; duplicates are told, conflicts refused."""
    from bench.leaderboard import as_csv
    from bench.leaderboard_files import merge as join
    from bench.leaderboard_files import read_board
    from bench.records import write_atomically

    if len(files) < 2:
        raise UserError(f"leaderboard merge {files[0]}: one file alone; give two or more, as in A.csv B.csv")
    boards = [read_board(path) for path in files]
    _refuse([f"{each.name}:{fault.line}: {fault.said}" for each in boards for fault in each.faults])
    merged = join(boards)
    for note in merged.notes:
        typer.echo(note, err=True)
    _refuse(merged.conflicts)
    text = as_csv(merged.lines)
    if not out:
        typer.echo(text.decode(), nl=False)
        return
    write_atomically(Path(out), text)
    machines = {line.machine for line in merged.lines} - {""}
    typer.echo(f"{out}: {len(merged.lines)} rows of {len(machines)} machines")


@board.command()
def validate(file: Annotated[Path, typer.Argument(help="A leaderboard.csv, or what `leandet measure --json` wrote.")]) -> None:
    """Hold a leaderboard file to the schema: units in the columns' names, ranges, words, versions; each fault with its line, exit code 2."""
    from bench.leaderboard_files import read_board

    read = read_board(file)
    _refuse([f"{file}:{fault.line}: {fault.said}" for fault in read.faults])
    typer.echo(f"{file}: {len(read.lines)} rows fit the schema")


@board.command()
def publish(allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Although the tree differs from its commit.")] = False) -> None:
    """`leandet publish`: this machine's records into results/records/, and all committed tables, leaderboard.csv and pages anew."""
    from bench.publish import publish as move

    moved = move(allow_dirty=allow_dirty)
    typer.echo(f"{len(moved.written)} files written; look at `git status` and commit them")
    _refuse(moved.refused)


def _refuse(faults: list[str] | tuple[str, ...]) -> None:
    """A line each on standard error, and exit code 2, where there are any."""
    for fault in faults:
        typer.echo(" ".join(fault.split()), err=True)
    if faults:
        raise typer.Exit(2)
