"""Runs in the forms that they are deployed in, as a table of their paper: what each form finds, what that changes, and what it weighs. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from bench.catalogue import built

if TYPE_CHECKING:
    from rich.console import Console

    from bench.records import Record
    from bench.spec import Row

HEAD = (
    "run", "form", "precision", "data", "ap", "ap_change", "ap_change_low", "ap_change_high", "artefact_bytes", "operators_beyond_reference", "said",
    "machine",
)  # fmt: skip
NUMBERS = ("ap", "ap_change", "ap_change_low", "ap_change_high", "artefact_bytes")
AS_LEARNT = "as learnt"
CAPTION = (
    "Runs tested in the form that they are deployed in. ap_change: form minus run on the same images, with its 95 % interval over images; "
    "operators_beyond_reference: kinds in the exported graphs that those of the row it is judged against have not."
)


def deployed(records: Iterable[Record], paper: str) -> tuple[Record, ...]:
    """The paper's records of deployed forms, by run, form and machine."""
    return tuple(sorted((record for record in records if record.kind == "deployed" and record.paper == paper), key=_place))


def _place(record: Record) -> tuple[str, str, str, str]:
    return (run_of(record), form_of(record), str(record.context.get("precision", "")), _machine(record))


def run_of(record: Record) -> str:
    """The id of the run whose weights were tested."""
    return str(record.samples["against"])


def form_of(record: Record) -> str:
    """As after the @ of the run's name."""
    return record.row.partition("@")[2] or AS_LEARNT


def _machine(record: Record) -> str:
    about = record.context.get("machine", {})
    return str(about.get("name", "any"))


def lines(records: Sequence[Record], stale: Collection[str] = ()) -> tuple[tuple[str, ...], ...]:
    """One paper's records of deployed forms as the texts under HEAD; `stale`: ids of those that other code made."""
    return tuple(_line(record, records, stale) for record in records)


def _line(record: Record, records: Sequence[Record], stale: Collection[str]) -> tuple[str, ...]:
    change = record.samples.get("change", {}).get("ap_change")
    artefact = record.context.get("artefact", {})
    return (
        run_of(record), form_of(record), str(record.context.get("precision", "")), str(record.context.get("data", "")),
        f"{record.values['ap']:.2f}" if "ap" in record.values else "", *(f"{number:+.2f}" for number in change or ()), *(() if change else ("",) * 3),
        str(artefact.get("bytes", "")), beyond_reference(record, records), _said(record, stale), _machine(record),
    )  # fmt: skip


def _said(record: Record, stale: Collection[str]) -> str:
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    return "stale: made by other code; deploy it again" if record.id in stale else ""


def beyond_reference(record: Record, records: Sequence[Record]) -> str:
    """The operators of a form's graphs that those of the row's reference have not: "none", or what to deploy before that is known.

    Empty for a form that is no graph, and for a row that is a reference itself.
    """
    own = record.context.get("artefact", {}).get("operators")
    key = record.row.partition("@")[0]
    references = _references(record.paper, key)
    if own is None or not references:
        return ""
    other = next((found for key in references if (found := _operators(records, f"{key}@{form_of(record)}")) is not None), None)
    return f"deploy {references[0]} too" if other is None else ", ".join(sorted(set(own) - other)) or "none"


def _references(paper: str, key: str) -> list[str]:
    """The row that a row is judged against, the one that this one is judged against, and so on; with each, rows of its net that learn otherwise."""
    rows = {row.key: row for row in built()[paper].rows} if paper in built() else {}
    found: list[str] = []
    while key in rows and rows[key].reference and rows[key].reference not in found:
        key = rows[key].reference
        found += [key, *(other.key for other in rows.values() if other.key not in found and _same_net(other, rows[key]))]
    return list(dict.fromkeys(found))


def _same_net(row: Row, other: Row) -> bool:
    """Whether two rows build the same graph: they may learn longer, or on larger images."""
    return (row.build, row.arguments, row.setting.backbone) == (other.build, other.arguments, other.setting.backbone) and row.build is not None


def _operators(records: Sequence[Record], row: str) -> frozenset[str] | None:
    known = (record.context.get("artefact", {}).get("operators") for record in records if record.row == row)
    return next((frozenset(found) for found in known if found is not None), None)


def print_deployed(paper: str, records: Sequence[Record], stale: Collection[str], console: Console) -> None:
    """The table on the screen; nothing where no run was deployed."""
    if not records:
        return
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=f"{paper} deployed", title_justify="left")
    for name in HEAD:
        shown.add_column(name, overflow="fold", justify="right" if name in NUMBERS else "left")
    for line in lines(records, stale):
        shown.add_row(*map(escape, line))
    console.print(shown)
