"""One leaderboard row after its runs were made again."""

from __future__ import annotations

from bench import places
from bench.leaderboard import as_csv
from bench.publish import local_standing
from bench.records import write_atomically


def print_line(row: str) -> str:
    """The row as this machine's leaderboard shows it, in words; the whole leaderboard is written to results/local."""
    lines = local_standing().lines
    write_atomically(places.local_results() / "leaderboard.csv", as_csv(lines))
    found = [line for line in lines if line.id == row]
    return "\n".join(f"{line.id}: AP {line.ap:.2f} over {line.seeds} seeds on {line.data}, {line.machine}" for line in found)
