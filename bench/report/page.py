"""The static pages, nothing fetched: the standings (plots, every table and sentence of every paper, drawings, audit) and what they rest on.

The second page holds training curves and records; a measured number of the first leads to its record there.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.deployed_table import deployed
from bench.deployed_table import lines as deployed_lines
from bench.evidence import RUNS, SEEDS, data_of
from bench.leaderboard import SCORED, place_text
from bench.leaderboard_table import interval_text
from bench.records import machine_of
from bench.report import by_table, claim_cells, latencies, number, tally
from bench.report.pareto_view import COSTS, swept, views
from bench.report.plots import chart
from bench.report.provenance import environments, gist, of_line, rebuild, sources
from bench.report.trade_offs import trade_offs
from bench.timing_table import SHOWN as PHASES
from bench.timing_table import conditions_line, label
from bench.verdicts import WORDS

if TYPE_CHECKING:
    from markupsafe import Markup

    from bench.claims import ClaimOutcome
    from bench.leaderboard import Line
    from bench.records import Record
    from bench.report import Standing
    from bench.report.figures import Drawing
    from bench.tables import Outcome

HERE = Path(__file__).parent
# A sign and a class (a colour) for each outcome; the word always stands beside them.
MARKS = {
    "reproduced": ("\N{CHECK MARK}", "good"),
    "direction holds": ("\N{NORTH EAST ARROW}", "near"),
    "direction reversed": ("\N{SOUTH EAST ARROW}", "bad"),
    "undecided": ("?", "open"),
    "deviates": ("\N{NOT EQUAL TO}", "bad"),
    "irreproducible": ("\N{CIRCLED DIVISION SLASH}", "bad"),
    "contradicted by its own table": ("\N{DOUBLE EXCLAMATION MARK}", "odd"),
    "undertrained": ("\N{WHITE CIRCLE}", "wait"),
    "stale": ("\N{ANTICLOCKWISE OPEN CIRCLE ARROW}", "wait"),
    "quoted": ("\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}", "cited"),
    "not attempted": ("\N{EN DASH}", "none"),
}
# What text extraction leaves of a paper's formulas, as a reader would write it; a square root without anything below it is a tick.
FORMULAS = (
    (r"\\sqrt\{\}", "\N{CHECK MARK}"),
    (r"\\times", "\N{MULTIPLICATION SIGN}"),
    (r"\\uparrow", "\N{UPWARDS ARROW}"),
    (r"\\downarrow", "\N{DOWNWARDS ARROW}"),
    (r"\\mathcal\{(\w)\}_(\w)", r"\1_\2"),
    (r"\b([A-Z])_(\d)", r"\1\2"),
    (r"\$", ""),
)
AuditRow = tuple[str, str, Sequence[str]]  # what was found, in a title and in words, and where it can be looked up


@dataclass(frozen=True)
class Beside:
    """What the page shows beside the standing: drawings, what an audit of the papers and of this project found, and the records' files."""

    drawings: Sequence[Drawing] = ()
    audit: Sequence[AuditRow] = ()
    files: str = ""  # the way from a page to the committed records; empty where they do not lie beside it


STANDINGS, RECORDS = "index.html", "records.html"  # the files' names, by which each page leads to the other


def pages(standing: Standing, beside: Beside | None = None) -> dict[str, str]:
    """The text of every page by its file's name; everything from outside is escaped by the template engine."""
    shared = _shared(standing, beside or Beside())
    own = {STANDINGS: _standings, RECORDS: _records}
    return {name: _rendered(name, {**shared, **view(standing), "standings": STANDINGS, "records": RECORDS}) for name, view in own.items()}


def _rendered(name: str, view: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("bench", "report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(view) + "\n"


def _shared(standing: Standing, beside: Beside) -> dict[str, Any]:
    """What stands on every page: style, script, policy, and what the navigation leads to."""
    records = {record.id: record for record in standing.records}
    built = [outcome.paper for outcome in standing.outcomes if outcome.key]
    style, script = (_own(HERE / name) for name in ("page.css", "page.js"))
    return {
        "style": style, "script": script, "policy": _policy(style, script), "marks": MARKS,
        "papers": [_paper(standing, key, records) for key in sorted(standing.titles, key=lambda key: (key not in built, key))],
        "pareto": [(view, [_ours(plot) for plot in view.plots]) for view in views(standing.records)],
        "drawings": beside.drawings, "audit": beside.audit, "files": beside.files,
    }  # fmt: skip


def _standings(standing: Standing) -> dict[str, Any]:
    firsts = _records_of(standing.records)
    return {
        "tally": tally(standing.outcomes), "claim_tally": tally(standing.claims),
        "words": [word for word in WORDS if word in {*tally(standing.outcomes), *tally(standing.claims)}],
        "counts": _counts(standing),
        "lines": [_line(line, firsts) for line in standing.lines], "choices": _choices(standing),
        "trade_offs": [(group, [_ours(plot) for plot in group.plots]) for group in trade_offs(standing.lines, standing.records)],
        "costs": tuple(COSTS.values()), "seeds": SEEDS,
        "sweeps": [(each, [_ours(plot) for plot in each.plots]) for each in swept(standing.records)],
        "differences": standing.differences, "latencies": [_latency(record) for record in latencies(standing)],
        "conditions": list(dict.fromkeys(conditions_line(record) for record in latencies(standing))),
        "deployed": [line for key in sorted(standing.titles) for line in deployed_lines(deployed(standing.records, key), standing.stale)],
    }  # fmt: skip


def _records(standing: Standing) -> dict[str, Any]:
    return {
        "charts": [_ours(drawing) for drawing in curves(standing.records)],
        "sources": sources(standing.records), "environments": environments(standing.records),
    }  # fmt: skip


def _ours(text: str) -> Markup:
    """Markup that this package has made and in which it has escaped every text that it was given."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def _own(path: Path) -> Markup:
    return _ours(path.read_text(encoding="utf-8").strip())


def _policy(style: str, script: str) -> str:
    """A content security policy: nothing is fetched, and no style or script runs but the two that stand in the page."""
    hashes = {name: base64.b64encode(sha256(text.encode()).digest()).decode() for name, text in (("style", style), ("script", script))}
    allowed = "; ".join(f"{name}-src 'sha256-{value}'" for name, value in hashes.items())
    return f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; {allowed}"


def _counts(standing: Standing) -> dict[str, int]:
    """Of what there is, for the head of the page."""
    trained = [record for record in standing.records if record.kind in RUNS and record.status == "ok"]
    return {
        "papers": len(standing.titles),
        "cells": len(standing.outcomes),
        "claims": len(standing.claims),
        "trained runs": len(trained),
        "records": len(standing.records),
    }


# ---- papers


def _paper(standing: Standing, key: str, records: Mapping[str, Record]) -> dict[str, Any]:
    own = [outcome for outcome in standing.outcomes if outcome.paper == key]
    claims = [claim for claim in standing.claims if claim.paper == key]
    tables = [
        {
            "id": table,
            "caption": readable(standing.captions[paper, table]),
            "tally": tally(found),
            "rows": [_cell(outcome, records) for outcome in found],
        }
        for (paper, table), found in by_table(own).items()
    ]
    built = any(outcome.key for outcome in own)
    return {
        "key": key, "title": standing.titles[key], "built": built, "tables": tables if built else [],
        "claims": [_claim(claim, records) for claim in claims], "tally": tally(own), "claim_tally": tally(claims),
    }  # fmt: skip


def readable(text: str) -> str:
    """A label or cell as printed, its few formulas without their TeX."""
    for pattern, instead in FORMULAS if "$" in text or "\\" in text else ():
        text = re.sub(pattern, instead, text)
    return text


def _cell(outcome: Outcome, records: Mapping[str, Record]) -> dict[str, str]:
    measured = number(outcome.measured, outcome.kind)
    return {
        "row": readable(outcome.row), "column": readable(outcome.column), "unit": readable(outcome.unit), "printed": readable(outcome.printed),
        "measured": measured,
        "difference": number(outcome.difference, outcome.kind, sign=True), "word": outcome.outcome, "reason": outcome.reason, "tier": outcome.tier,
        **_origin(outcome.records, outcome.key, records, shown=bool(measured)),
    }  # fmt: skip


def _origin(ids: Sequence[str], row: str, records: Mapping[str, Record], *, shown: bool) -> dict[str, str]:
    """What a number rests on, the record that it leads to if it is shown, and what to type to make that record again."""
    first = _first(ids, row, records)
    return {"about": gist(ids, records), "source": first if shown else "", "rebuild": rebuild(records[first]) if first in records else ""}


def _first(ids: Sequence[str], row: str, records: Mapping[str, Record]) -> str:
    """The record that a measured number leads to: the row's own before its reference's."""
    return min(ids, key=lambda each: (each not in records or records[each].row != row, each), default="")


def _claim(claim: ClaimOutcome, records: Mapping[str, Record]) -> dict[str, str]:
    _, line, said, kind, unit, printed, measured, interval, word, reason, headline = claim_cells(claim)
    return {
        "line": line if claim.line else "", "said": readable(said), "kind": kind, "unit": unit, "printed": printed, "measured": measured,
        "interval": interval, "word": word, "reason": reason, "headline": headline,
        **_origin(claim.records, "", records, shown=bool(measured)),
    }  # fmt: skip


# ---- standings


def _records_of(records: Sequence[Record]) -> dict[tuple[str, ...], Record]:
    """The first record of each row, tier, data and machine, and the cost record of each row."""
    found: dict[tuple[str, ...], Record] = {}
    for record in records:
        if record.kind in SCORED:
            found.setdefault((record.paper, record.row, record.tier, data_of(record), machine_of(record)), record)
        elif record.kind == "cost":
            found.setdefault((record.paper, record.row, "", "", ""), record)
    return found


def _line(line: Line, records: Mapping[tuple[str, ...], Record]) -> dict[str, Any]:
    """The texts of one row of the leaderboard, and what it is filtered by."""
    source = records.get((line.paper, line.row, line.tier, line.data, line.machine))
    outcomes = [(word, count) for word, _, count in (part.rpartition(" ") for part in line.outcomes.split("; ") if part)]
    return {
        "rank": place_text(line), "id": line.id, "paper": line.paper, "tier": line.tier or "counted", "data": line.data, "machine": line.machine,
        "seeds": str(line.seeds or ""), "ap": number(line.ap, "accuracy"), "interval": interval_text(line), "ap50": number(line.ap50, "accuracy"),
        "voc": number(line.voc_ap50, "accuracy"), "params": number(line.params_m, "cost"), "size": number(line.size_mb, "cost"),
        "macs": number(line.macs_g, "cost"), "status": line.status, "outcomes": outcomes, "rebuild": of_line(line, source),
        "source": source.id if source else "",
    }  # fmt: skip


def _choices(standing: Standing) -> dict[str, list[str]]:
    """What the leaderboard can be filtered by, each with its values."""
    counted = {part.rpartition(" ")[0] for line in standing.lines for part in line.outcomes.split("; ") if part}
    return {
        "paper": sorted({line.paper for line in standing.lines}),
        "tier": sorted({line.tier or "counted" for line in standing.lines}),
        "outcome": [word for word in WORDS if word in counted],
        "machine": sorted({line.machine for line in standing.lines} - {""}),
    }


def _latency(record: Record) -> dict[str, Any]:
    """One timed row: medians, percentiles, the ratio to its reference, and the conditions in a line."""
    values, about = record.values, record.context
    ratio = "{:.3f} [{:.3f}, {:.3f}]".format(*(values[f"whole_ratio{end}"] for end in ("", "_low", "_high"))) if "whole_ratio" in values else ""
    said = record.status if record.status == "ok" else f"{record.status}: {record.reason}"
    return {
        "id": record.id, "label": label(record), "machine": about["machine"]["name"], "device": about["device"], "precision": about["precision"],
        "times": [f"{values[name]:.1f}" if name in values else "" for name in PHASES],
        "p90": f"{values['whole_p90_ms']:.1f}" if "whole_p90_ms" in values else "n/a",
        "peak": f"{values['peak_memory_mb']:.0f}" if "peak_memory_mb" in values else "",
        "ratio": ratio, "against": (about["against"] or [""])[0], "marks": "; ".join([*([said] if said != "ok" else []), *about["marks"]]) or "quiet",
    }  # fmt: skip


# ---- training curves


def curves(records: Sequence[Record]) -> list[str]:
    """One chart of accuracy and one of loss for each paper, tier and dataset that was trained."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.kind in RUNS and record.samples.get("curve"):
            groups[record.paper, record.tier, data_of(record)].append(record)
    out = []
    for (paper, tier, data), found in sorted(groups.items()):
        for measure, named in (("val_ap", "AP on val"), ("val_ap50", "AP50 on val"), ("loss", "loss")):
            series = {f"{record.row} s{record.seed}": _points(record.samples["curve"], measure) for record in found}
            out.append(chart(f"{paper}, {tier}, {data}: {named}", series, horizontal="images seen", vertical=named))
    return [drawing for drawing in out if drawing]


def _points(curve: Sequence[Mapping[str, float]], measure: str) -> list[tuple[float, float]]:
    return [(entry["images"], entry[measure]) for entry in curve if measure in entry]
