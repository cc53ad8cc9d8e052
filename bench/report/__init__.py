"""What a reader sees: tables, claims, leaderboard, static pages. The same bytes for the same records."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, TypeVar

from bench import places
from bench.catalogue import printing
from bench.claims import ClaimOutcome, decide
from bench.deployed_table import CAPTION as DEPLOYED_CAPTION
from bench.deployed_table import HEAD as DEPLOYED_HEAD
from bench.deployed_table import deployed, print_deployed
from bench.deployed_table import lines as deployed_lines
from bench.evidence import Difference, Evidence
from bench.leaderboard import Line, as_csv, lines
from bench.records import Record, write_atomically
from bench.tables import Outcome, compare
from bench.timing_table import as_csv as latency_csv
from bench.verdicts import WORDS, span

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from bench.published import PublishedTable, Value
    from bench.report.page import AuditRow

HEAD = ("row", "column", "unit", "printed", "measured", "difference", "outcome", "reason", "tier")
STYLES = {
    "reproduced": "green",
    "direction holds": "green",
    "direction reversed": "red",
    "deviates": "red",
    "stale": "yellow",
    "undertrained": "yellow",
}


Judged = TypeVar("Judged", Outcome, ClaimOutcome)


@dataclass(frozen=True)
class Standing:
    """All that is known, judged: what every rendering renders."""

    outcomes: tuple[Outcome, ...]
    claims: tuple[ClaimOutcome, ...]
    lines: tuple[Line, ...]
    records: tuple[Record, ...]
    differences: tuple[Difference, ...]
    titles: Mapping[str, str]  # of the papers, by key
    captions: Mapping[tuple[str, str], str]  # of the tables, by paper and id
    stale: frozenset[str] = frozenset()  # ids of the records that other code made
    committed: bool = False  # whether all of its records are committed ones, so that they lie beside the page


def judge(records: Sequence[Record], differences: Sequence[Difference] = (), digests: Mapping[str, str] | None = None) -> Standing:
    """Every published cell and sentence of every paper beside these records."""
    outcomes: list[Outcome] = []
    claims: list[ClaimOutcome] = []
    entries = printing()
    for key, entry in entries.items():
        own = tuple(record for record in records if record.paper == key)
        evidence = Evidence(entry.paper, entry.published, own, tuple(differences) if own else (), digests)
        outcomes += compare(entry.paper, entry.published, evidence)
        claims += decide(entry.paper, entry.published, evidence)
    return Standing(
        tuple(outcomes),
        tuple(claims),
        lines(records, outcomes),
        tuple(records),
        tuple(differences),
        {key: entry.published.title for key, entry in entries.items()},
        {(key, table.id): _caption(table) for key, entry in entries.items() for table in entry.published.tables},
        frozenset(record.id for record in records if record.id in (digests or {}) and (digests or {})[record.id] not in record.digests),
    )


def _caption(table: PublishedTable) -> str:
    """As printed, and what it was printed for, which an outcome is to be read with."""
    return f"{table.caption} [{table.conditions}]" if table.conditions else table.caption


def of_paper(standing: Standing, paper: str) -> Standing:
    """The same, with the outcomes and claims of one paper alone."""
    return replace(
        standing,
        outcomes=tuple(outcome for outcome in standing.outcomes if outcome.paper == paper),
        claims=tuple(claim for claim in standing.claims if claim.paper == paper),
    )


def cite(local: Standing, committed: Standing) -> Standing:
    """The outcomes of this machine's records, each beside what the committed records say: alone where this machine has nothing to say."""
    cells = tuple(_cited(ours, theirs) for ours, theirs in zip(local.outcomes, committed.outcomes, strict=True))
    claims = tuple(_cited(ours, theirs) for ours, theirs in zip(local.claims, committed.claims, strict=True))
    return replace(local, outcomes=cells, claims=claims)


def _cited(ours: Judged, theirs: Judged) -> Judged:
    """A verdict of one seed points to the committed one; a cell without a run here takes it over."""
    if (ours.outcome, ours.measured) == (theirs.outcome, theirs.measured) or theirs.outcome == "not attempted":
        return ours
    if ours.outcome == "not attempted":
        return replace(theirs, reason=f"committed records: {theirs.reason}")
    return replace(ours, reason=f"{ours.reason}; committed records: {theirs.outcome}: {theirs.reason}")


# ---- cells as text


def number(value: float | None, kind: str, *, sign: bool = False) -> str:
    """A measured number as text: two digits of an accuracy, three of a cost; empty where there is none."""
    if value is None or isnan(value):
        return ""
    return format(value, ("+" if sign else "") + (".2f" if kind == "accuracy" else ".3f"))


def cells(outcome: Outcome) -> tuple[str, ...]:
    """One outcome as the texts under HEAD."""
    return (
        outcome.row, outcome.column, outcome.unit, outcome.printed, number(outcome.measured, outcome.kind),
        number(outcome.difference, outcome.kind, sign=True), outcome.outcome, outcome.reason, outcome.tier,
    )  # fmt: skip


def as_object(outcome: Outcome) -> dict[str, object]:
    """One outcome as `leandet cells --json` prints it."""
    return {
        "paper": outcome.paper, "table": outcome.table, "row": outcome.row, "column": outcome.column, "unit": outcome.unit, "kind": outcome.kind,
        "published": _plain(outcome.published), "measured": outcome.measured, "outcome": outcome.outcome, "reason": outcome.reason,
        "tier": outcome.tier,
    }  # fmt: skip


def _plain(value: Value) -> object:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


def by_table(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], tuple[Outcome, ...]]:
    """(paper, table) -> its outcomes, in the order of the papers."""
    keys = dict.fromkeys((outcome.paper, outcome.table) for outcome in outcomes)
    return {key: tuple(outcome for outcome in outcomes if (outcome.paper, outcome.table) == key) for key in keys}


def tally(outcomes: Sequence[Outcome | ClaimOutcome]) -> dict[str, int]:
    """How many of each outcome, in the order of WORDS, those that do not occur left out."""
    counted = Counter(outcome.outcome for outcome in outcomes)
    return {word: counted[word] for word in WORDS if counted[word]}


# ---- files


def render(standing: Standing, folder: Path, *, audit: Sequence[AuditRow] = ()) -> tuple[Path, ...]:
    """Write tables/, the files of cells, claims and standings and the pages of report/ below the folder; the paths written.

    Where there are such records: latency.csv, pareto.csv and sweeps.csv too.

    tables/ holds those of the papers and, for a paper with deployed runs, one of these.
    `audit`: what the section of that name says, each a title, a text and where to look it up. Drawings come from results/figures.
    """
    from bench.report.figures import drawings
    from bench.report.page import Beside, pages

    files = {"cells.csv": _csv(("paper", "table", *HEAD), [(o.paper, o.table, *cells(o)) for o in standing.outcomes])}
    built = {outcome.paper for outcome in standing.outcomes if outcome.key}
    for (paper, table), found in by_table(standing.outcomes).items():
        if paper in built:
            rows = [cells(outcome) for outcome in found]
            files[f"tables/{paper}-{table}.csv"] = _csv(HEAD, rows)
            files[f"tables/{paper}-{table}.md"] = _markdown(standing.captions[paper, table], rows)
    for paper in sorted(built):
        forms = deployed_lines(deployed(standing.records, paper), standing.stale)
        if forms:
            files[f"tables/{paper}-deployed.csv"] = _csv(DEPLOYED_HEAD, forms)
            files[f"tables/{paper}-deployed.md"] = _markdown(DEPLOYED_CAPTION, forms, DEPLOYED_HEAD)
    files["claims.csv"] = _csv(CLAIM_HEAD, [claim_cells(claim) for claim in standing.claims])
    files["leaderboard.csv"] = as_csv(standing.lines)
    timed = latencies(standing)
    files |= {"latency.csv": latency_csv(timed)} if timed else {}
    files |= _swept(standing.records)
    beside = Beside(drawings(places.home() / "results" / "figures"), audit, "../records" if standing.committed else "")
    files |= {f"report/{name}": text.encode() for name, text in pages(standing, beside).items()}
    for name, data in files.items():
        write_atomically(folder / name, data)
    return tuple(folder / name for name in files)


def _swept(records: Sequence[Record]) -> dict[str, bytes]:
    """pareto.csv and sweeps.csv, where `leandet pareto` has kept what they hold."""
    from bench import sweeps
    from bench.pareto_record import CSV_HEAD, csv_rows

    points, found = csv_rows(records), sweeps.sweeps(records)
    return ({"pareto.csv": _csv(CSV_HEAD, points)} if points else {}) | ({"sweeps.csv": sweeps.as_csv(found)} if found else {})


def latencies(standing: Standing) -> tuple[Record, ...]:
    """The latency records among all."""
    return tuple(record for record in standing.records if record.kind == "latency")


CLAIM_HEAD = ("paper", "line", "claim", "kind", "unit", "printed", "measured", "interval", "outcome", "reason", "headline")


def claim_cells(claim: ClaimOutcome) -> tuple[str, ...]:
    """One claim as the texts under CLAIM_HEAD."""
    printed = claim.published if isinstance(claim.published, tuple) else () if claim.published is None else (claim.published,)
    measured = "" if claim.measured is None else f"{claim.measured:.2f}"
    return (
        claim.paper, str(claim.line), claim.claim, claim.kind, claim.unit, ", ".join(f"{value:g}" for value in printed), measured,
        span(claim.interval) if claim.interval else "", claim.outcome, claim.reason, "headline" if claim.headline else "",
    )  # fmt: skip


def _csv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue().encode()


def _markdown(caption: str, rows: Sequence[Sequence[str]], names: Sequence[str] = HEAD) -> bytes:
    head = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    body = ["| " + " | ".join(_escaped(text) for text in row) + " |" for row in rows]
    return "\n".join([_escaped(caption), "", *head, *body, ""]).encode()


def _escaped(text: str) -> str:
    """Text of a Markdown cell: no markup of ours or of the paper's is read as such."""
    for mark, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\\", "\\\\"), ("|", "\\|"), ("*", "\\*"), ("_", "\\_"), ("`", "\\`")):
        text = text.replace(mark, instead)
    return " ".join(text.split())


# ---- the terminal


def print_tables(standing: Standing, console: Console) -> None:
    """Every table that has a row of ours, its claims, and the count of outcomes."""
    for (paper, table), found in by_table(standing.outcomes).items():
        _print_outcomes(f"{paper} {table}. {standing.captions[paper, table]}", found, console)
    for paper in dict.fromkeys(outcome.paper for outcome in standing.outcomes):
        print_deployed(paper, deployed(standing.records, paper), standing.stale, console)
    print_claims(standing, console)
    console.print("cells: " + ", ".join(f"{word} {count}" for word, count in tally(standing.outcomes).items()), markup=False)
    console.print("claims: " + ", ".join(f"{word} {count}" for word, count in tally(standing.claims).items()), markup=False)


def _print_outcomes(title: str, found: Sequence[Outcome], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    shown, notes = Table(title=escape(title), title_justify="left"), _Notes()
    for name in ("row", "column", "printed", "measured", "difference", "outcome", "reason"):
        shown.add_column(name, overflow="fold", justify="right" if name in {"printed", "measured", "difference", "reason"} else "left")
    for outcome in found:
        row, column, _, printed, measured, difference, word, reason, tier = (escape(text) for text in cells(outcome))
        said = f"{word} ({tier})" if tier else word
        shown.add_row(row, column, printed, measured, difference, said, notes.number(reason), style=STYLES.get(outcome.outcome, ""))
    console.print(shown)
    notes.show(console)


class _Notes:
    """Reasons under a table, each once, by its number: in a column of their own they would be a word wide."""

    def __init__(self) -> None:
        self.numbers: dict[str, str] = {}

    def number(self, reason: str) -> str:
        """The note's number in brackets; nothing for no reason."""
        return self.numbers.setdefault(reason, f"({len(self.numbers) + 1})") if reason else ""

    def show(self, console: Console) -> None:
        """One line a note, or more where it is long."""
        for reason, number in self.numbers.items():
            console.print(f"  {number} {reason}")
        console.print()


def print_claims(standing: Standing, console: Console) -> None:
    """The sentences and what became of them."""
    from rich.markup import escape
    from rich.table import Table

    shown, notes = Table(title="claims", title_justify="left"), _Notes()
    for name in ("claim", "printed", "measured", "interval", "outcome", "reason"):
        shown.add_column(name, overflow="fold")
    for claim in standing.claims:
        _, _, said, _, _, printed, measured, interval, outcome, reason, _ = (escape(text) for text in claim_cells(claim))
        shown.add_row(said, printed, measured, interval, outcome, notes.number(reason), style=STYLES.get(claim.outcome, ""))
    console.print(shown)
    notes.show(console)
