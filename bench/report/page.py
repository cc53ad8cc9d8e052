"""The static page: every table of a built paper, claims, curves, leaderboard, provenance; no network, no script."""

from __future__ import annotations

from collections import defaultdict
from math import isnan
from typing import TYPE_CHECKING, Any

from bench.evidence import RUNS, machine_of
from bench.report import CLAIM_HEAD, HEAD, by_table, cells, claim_cells, number, tally
from bench.report.plots import chart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.records import Record
    from bench.report import Standing


def page(standing: Standing) -> str:
    """index.html as text; everything from outside is escaped by the template engine."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    loader = PackageLoader("bench", "report")
    environment = Environment(
        loader=loader, autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("index.html").render(_view(standing)) + "\n"


def _view(standing: Standing) -> dict[str, Any]:
    from markupsafe import Markup

    built = {outcome.paper for outcome in standing.outcomes if outcome.key}
    return {
        "papers": [_paper(standing, key, built=key in built) for key in sorted(standing.titles, key=lambda key: (key not in built, key))],
        "head": HEAD,
        "claim_head": CLAIM_HEAD[1:],
        "tally": tally(standing.outcomes),
        "claim_tally": tally(standing.claims),
        "differences": standing.differences,
        "lines": [_line(line) for line in standing.lines],
        # plots.chart escapes every text that it is given
        "charts": [Markup(drawing) for drawing in curves(standing.records)],  # noqa: S704
        "provenance": [_provenance(record) for record in standing.records],
    }


def _paper(standing: Standing, key: str, *, built: bool) -> dict[str, Any]:
    own = [outcome for outcome in standing.outcomes if outcome.paper == key]
    tables = [
        {"id": table, "caption": standing.captions[paper, table], "rows": [(outcome.outcome, cells(outcome)) for outcome in found]}
        for (paper, table), found in by_table(own).items()
    ]
    claims = [(claim.outcome, claim_cells(claim)[1:]) for claim in standing.claims if claim.paper == key]
    return {"key": key, "title": standing.titles[key], "built": built, "tables": tables if built else [], "claims": claims, "tally": tally(own)}


def _line(line: Any) -> tuple[str, ...]:
    rank = "" if isnan(line.rank) else f"{line.rank:.0f}"
    inside = f"{number(line.ap_low, 'accuracy')} to {number(line.ap_high, 'accuracy')}" if line.seeds > 1 else ""
    accuracy = (number(line.ap, "accuracy"), inside, number(line.ap50, "accuracy"), number(line.voc_ap50, "accuracy"))
    cost = (number(line.params_m, "cost"), number(line.size_mb, "cost"), number(line.macs_g, "cost"))
    return (rank, line.id, line.data, line.machine, str(line.seeds), *accuracy, *cost, line.status, line.outcomes)


def _provenance(record: Record) -> tuple[str, ...]:
    context = record.context
    return (
        record.id, record.kind, record.status, record.digest[:12], machine_of(record), str(context.get("data", "")),
        str(context.get("commit", ""))[:12], f"{float(context.get('seconds', 0)):.0f}", record.reason,
    )  # fmt: skip


def curves(records: Sequence[Record]) -> list[str]:
    """One chart of accuracy and one of loss for each paper, tier and dataset that was trained."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.kind in RUNS and record.samples.get("curve"):
            groups[record.paper, record.tier, str(record.context.get("data", ""))].append(record)
    out = []
    for (paper, tier, data), found in sorted(groups.items()):
        for measure, named in (("val_ap", "AP on val"), ("val_ap50", "AP50 on val"), ("loss", "loss")):
            series = {f"{record.row} s{record.seed}": _points(record.samples["curve"], measure) for record in found}
            out.append(chart(f"{paper}, {tier}, {data}: {named}", series, horizontal="images seen", vertical=named))
    return [drawing for drawing in out if drawing]


def _points(curve: Sequence[Mapping[str, float]], measure: str) -> list[tuple[float, float]]:
    return [(entry["images"], entry[measure]) for entry in curve if measure in entry]
