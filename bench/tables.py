"""Outcomes: each published cell beside what was measured. Pure, from values to values; no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from bench import verdicts
from bench.evidence import JUDGED_TIERS, PAIRED
from bench.published import labels, result_cells

if TYPE_CHECKING:
    from bench.evidence import Evidence
    from bench.published import Cell, Published, Value
    from bench.records import Record
    from bench.spec import Column, Paper, Row
    from bench.verdicts import Word


@dataclass(frozen=True)
class Outcome:
    """What became of one published cell."""

    paper: str
    table: str
    row: str  # the label as printed
    key: str  # of our row; empty where the paper is not built yet
    column: str
    unit: str
    kind: str
    printed: str  # the cell as printed
    published: Value
    measured: float | None
    difference: float | None  # cost: measured minus printed; accuracy: measured row minus its measured reference
    outcome: Word
    reason: str
    tier: str  # of an accuracy; empty for cost
    records: tuple[str, ...] = ()  # ids of those that the outcome rests on, sorted


@dataclass(frozen=True)
class _Finding:
    """What one cell's judge says."""

    outcome: Word
    reason: str
    measured: float | None = None
    difference: float | None = None
    tier: str = ""


@dataclass(frozen=True)
class _Question:
    """A cell with the row and the column of ours that answer it."""

    cell: Cell
    row: Row
    column: Column
    evidence: Evidence


def compare(paper: Paper | None, published: Published, evidence: Evidence) -> tuple[Outcome, ...]:
    """One outcome a published result cell, in the order of the paper."""
    return tuple(_watched(cell, paper, evidence) for cell in result_cells(published))


def _watched(cell: Cell, paper: Paper | None, evidence: Evidence) -> Outcome:
    """The outcome, with the records that were looked at for it."""
    watched, seen = evidence.watched()
    found = _outcome(cell, *_judge(cell, paper, watched))
    return replace(found, records=tuple(sorted(seen)))


def _outcome(cell: Cell, key: str, finding: _Finding) -> Outcome:
    return Outcome(
        cell.paper, cell.table, cell.row, key, cell.column, cell.unit, cell.kind, cell.printed, cell.value,
        finding.measured, finding.difference, finding.outcome, finding.reason, finding.tier,
    )  # fmt: skip


def _judge(cell: Cell, paper: Paper | None, evidence: Evidence) -> tuple[str, _Finding]:
    if paper is None:
        return "", _Finding("not attempted", "not built yet")
    table = next(table for table in paper.tables if table.id == cell.table)
    column = replace(table.columns[cell.at[1]], measure=table.measure(*cell.at))
    row = paper.row(answering(table.rows[cell.at[0]], column))
    row = replace(row, reference=table.references.get(row.key, row.reference))
    question = _Question(cell, row, column, evidence)
    if row.quoted:
        return row.key, _Finding("quoted", row.quoted)
    if column.unattempted:
        return row.key, _Finding("not attempted", column.unattempted)
    if cell.kind not in JUDGES:
        return row.key, _Finding("not attempted", f"no meter for {cell.kind} yet")
    return row.key, JUDGES[cell.kind](question)


def _cost(question: _Question) -> _Finding:
    record = question.evidence.cost(question.row.key)
    measure = question.column.measure
    if record is None:
        return _Finding("not attempted", f"{question.row.key} was not counted yet: leandet cost {question.cell.paper}")
    if record.status != "ok" or measure not in record.values:
        return _Finding("not attempted", f"{record.status}: {record.reason or f'no {measure} was counted'}")
    if question.evidence.stale(record):
        return _Finding("stale", f"{record.id} was made by other code; count it again")
    measured = record.values[measure]
    difference = measured - float(verdicts.printed_number(question.cell.printed))
    word, reason = _cost_ruling(question, record, measured)
    return _Finding(word, reason, measured, difference)


def _cost_ruling(question: _Question, record: Record, measured: float) -> verdicts.Ruling:
    measure = question.column.measure
    unknown = record.context.get("unknown", ())
    if unknown and measure == "macs_g":
        return "undecided", f">= {measured:.3f}: no formula for {', '.join(unknown)}"
    word, reason = verdicts.digits(question.cell.printed, measured, tolerance=question.column.tolerance)
    if word != "reproduced" and measure in question.row.unmatched:
        known, proof = question.row.unmatched[measure]
        word, reason = verdicts.word_of(known), f"{reason}; {proof}"
    return word, reason + _pooled_first(record, measure)


def _pooled_first(record: Record, measure: str) -> str:
    """Eq. 9's figure beside a count that holds only with the 1x1 before the pooling."""
    other = record.values.get("macs_g_eq9")
    if measure != "macs_g" or other is None or other == record.values[measure]:
        return ""
    return f"; counted with the 1x1 before the pooling: Eq. 9 pools first and needs {other:.2f}"


def _accuracy(question: _Question) -> _Finding:
    evidence, row, measure = question.evidence, question.row, question.column.measure
    tier = evidence.tier(row.key)
    if not row.reference:
        return _reference(question, tier, evidence.mean(row.key, tier, measure))
    measured, shared = evidence.mean(row.key, tier, measure, row.reference), evidence.by_seed((row.key, row.reference), tier, measure)
    found = evidence.difference(row.key, row.reference, measure)
    difference = found.value if found else fmean(own - other for own, other in shared.values()) if shared else None
    word, reason = _accuracy_ruling(question)
    return _Finding(word, reason + _saved(question, tier), measured, difference, tier)


def _saved(question: _Question, tier: str) -> str:
    """What the head saves at the scale at which the accuracy was measured."""
    row = question.row
    share = question.evidence.saved_here(row.key, row.reference, tier) if tier and tier != "paper" else None
    if share is None or round(share) == 0:
        return ""
    return f"; at this scale its head has {abs(share):.0f} % {'fewer' if share >= 0 else 'more'} parameters"


def _reference(question: _Question, tier: str, measured: float | None) -> _Finding:
    """A row that others are judged against: its own value says something of the printed one only at the paper's own scale."""
    evidence, row = question.evidence, question.row
    obstacle = evidence.obstacle((row.key,), question.column.measure, 0.0)
    if obstacle and obstacle[0] != "undecided":
        return _Finding(obstacle[0], obstacle[1], measured, None, tier)
    if tier == "paper" and measured is not None:
        word, reason = verdicts.digits(question.cell.printed, measured, tolerance=0.01)
        return _Finding(word, reason, measured, None, tier)
    return _Finding("undecided", "the reference: other rows are judged by their difference to it", measured, None, tier)


def _accuracy_ruling(question: _Question) -> verdicts.Ruling:
    evidence, row, measure = question.evidence, question.row, question.column.measure
    printed = printed_difference(evidence, row.key, row.reference, measure, first=question.cell.table)
    if printed is None:
        return "undecided", f"{row.reference} prints no {measure}, so there is no difference to compare"
    said = f"printed {printed:+.1f} to {row.reference}"
    obstacle = evidence.obstacle((row.key, row.reference), measure, printed)
    if obstacle:
        return obstacle[0], obstacle[1] if obstacle[0] == "not attempted" else f"{said}; {obstacle[1]}"
    found = evidence.difference(row.key, row.reference, measure)
    if found is None:
        why = "no paired predictions of both are stored" if measure in PAIRED else "differences of AP and VOC AP50 alone are resampled"
        return "undecided", f"{said}; {why}"
    word, reason = verdicts.difference(found.interval, printed)
    return word, f"{said}; {reason}, {found.seeds} seeds"


# ---- latency: the ratio counts, not the milliseconds, as the paper's machine is not ours

# By measure: what of a detection it times, and whether more is faster. Light-Head's fps is the forward pass alone, as its author says of it.
MANY = 2.0  # times as many boxes found: a detection's end takes other time
SPEEDS = {"fps": ("network", 1), "latency_ms": ("whole", -1)}


def _latency(question: _Question) -> _Finding:
    """A speed by its ratio to another row of the paper, timed in turns with it at the paper's scale, with as many RoIs where that was held."""
    evidence, row, measure = question.evidence, question.row.key, question.column.measure
    compared = [record for record in evidence.latencies(row) if "whole_ratio" in record.values]
    judged = next(((record, *printed) for record in compared if (printed := _printed_ratio(question, record))), None)
    if judged is None:
        return _timed_alone(question)
    record, reference, claimed = judged
    if evidence.stale(record):
        return _Finding("stale", f"{record.id} was made by other code; time it again", tier=record.tier)
    phase = SPEEDS[measure][0]
    counts = _found_unequally(question, record, reference) if phase == "whole" else ""
    phase = "network" if counts else phase
    low, high, value = (1 / record.values[f"{phase}_ratio{end}"] for end in ("_high", "_low", ""))
    rule = verdicts.same_time if abs(claimed - 1) <= verdicts.SAME_TIME else verdicts.ratio
    unequal = _other_rois(question, record, reference)
    ruling: verdicts.Ruling = ("undecided", unequal) if unequal else rule((low, high), claimed)
    word, reason = unless_noisy(record, ruling)
    whole = "" if phase == "whole" else f"; with post-processing {1 / record.values['whole_ratio']:.2f}"
    alone = f"the network alone{counts}, " if counts else "the network alone " if phase == "network" else ""
    reason = f"{alone}{value:.2f} times as fast as {reference}, printed {claimed:.2f}; {reason}{whole}; {where_timed(record)}"
    return _Finding(word, reason, _speed(record, measure), None, record.tier)


def _found_unequally(question: _Question, record: Record, reference: str) -> str:
    """That one of two rows decodes and suppresses many boxes more, as random weights have it: no speed of theirs. Empty where they find as many."""
    of = [each for each in question.evidence.latencies(reference) if each.context["rois_given"] == record.context["rois_given"]]
    found = [each.values["detections"] for each in (record, *of[:1]) if "detections" in each.values]
    if len(found) < 2 or max(found) <= MANY * max(1.0, min(found)):
        return ""
    return f" (with random weights it finds {found[0]:g} boxes and {reference} {found[1]:g})"


def _other_rois(question: _Question, record: Record, reference: str) -> str:
    """Why a ratio compares two amounts of work: both saw their own RoIs, and not as many; empty where they saw as many or were given them."""
    if record.context["rois_given"]:
        return ""
    others = [each for each in question.evidence.latencies(reference) if not each.context["rois_given"]]
    counts = [each.values["rois"] for each in (record, *others[:1]) if "rois" in each.values]
    if len(counts) < 2 or max(counts) <= (1 + verdicts.SAME_TIME) * min(counts):
        return ""
    return f"it saw {counts[0]:g} RoIs and {reference} {counts[1]:g}, so the ratio is of other work too; time them with --rois"


def _timed_alone(question: _Question) -> _Finding:
    row = question.row.key
    found = question.evidence.latencies(row)
    if not found:
        failed = question.evidence.latencies(row, status="failed")
        why = f"failed: {failed[0].reason}" if failed else f"{row} was not timed yet: leandet time {_in_turns(question)}"
        return _Finding("not attempted", why)
    if question.evidence.stale(found[0]):
        return _Finding("stale", f"{found[0].id} was made by other code; time it again", tier=found[0].tier)
    noisy = "; noisy, see its marks" if found[0].context["quiet"] == "noisy" else ""
    reason = f"the reference: other rows are judged by their ratio to it; {where_timed(found[0])}{noisy}"
    return _Finding("undecided", reason, _speed(found[0], question.column.measure), None, found[0].tier)


def _in_turns(question: _Question, *, training: bool = False) -> str:
    """This table's rows that are timed in turns with this one, as a command names them: the reference first, in training each with what it needs."""
    paper, first = question.evidence.paper, question.row.reference or question.row.key
    assert paper is not None
    table = next(table for table in paper.tables if table.id == question.cell.table)
    keys = dict.fromkeys(answering(key, question.column) for key in table.rows)
    others = (key for key in keys if key != first and paper.row(key).reference == first and not paper.row(key).quoted)
    return " ".join(f"{paper.key}.{'+'.join((*(paper.row(key).needs if training else ()), key))}" for key in (first, *others))


def _printed_ratio(question: _Question, record: Record) -> tuple[str, float] | None:
    """The row that a record was timed against, and how many times as fast as it this row is printed to be; None where that is not printed."""
    evidence, measure = question.evidence, question.column.measure
    paper, _, reference = str(record.context["against"][0]).removesuffix(f".{record.tier}").partition(".")
    others = printed_values(evidence, reference, measure) if paper == question.cell.paper else ()
    if not others:
        return None
    ours, theirs = verdicts.printed_number(question.cell.printed), verdicts.printed_number(others[0].printed)
    return reference, float(ours / theirs) ** SPEEDS[measure][1]


def _speed(record: Record, measure: str) -> float:
    """What the record measured, in the column's unit."""
    phase, direction = SPEEDS[measure]
    return 1000 / record.values[f"{phase}_ms"] if direction > 0 else record.values[f"{phase}_ms"]


def unless_noisy(record: Record, ruling: verdicts.Ruling) -> verdicts.Ruling:
    """The ruling; of a session that was noisy "undecided", with what it would have been."""
    if record.context["quiet"] != "noisy":
        return ruling
    return "undecided", f"a noisy session decides nothing (see its marks; quiet, this would read {ruling[0]}: {ruling[1]})"


def where_timed(record: Record) -> str:
    """The conditions of a latency record, in words."""
    about = record.context
    rois = f"{about['rois_given']} RoIs each" if about["rois_given"] else "its own RoIs"
    return f"on {about['machine']['name']}, {about['device']}, {about['precision']}, {rois}"


def answering(key: str, column: Column) -> str:
    """The row that answers a column where the table has the row `key`."""
    return column.stands_in.get(key, key)


def _training(question: _Question) -> _Finding:
    """A training time by its ratio to another row of the paper, both taking their steps in turns in one run."""
    evidence, row, measure = question.evidence, question.row.key, question.column.measure
    record = evidence.training(row)
    if record is None:
        return _Finding("not attempted", f"{row} was not timed in training yet: leandet pace {_in_turns(question, training=True)}")
    if evidence.stale(record):
        return _Finding("stale", f"{record.id} was made by other code; time it again", tier=record.tier)
    printed = printed_values(evidence, str(record.context["against"]), measure)
    if "training_ratio" not in record.values or not printed:
        return _Finding("undecided", "the reference: other rows are judged by their ratio to it", None, None, record.tier)
    claimed = float(verdicts.printed_number(question.cell.printed) / verdicts.printed_number(printed[0].printed))
    low, high, value = (record.values[f"training_ratio{end}"] for end in ("_low", "_high", ""))
    word, reason = verdicts.ratio((low, high), claimed)
    summed = " and ".join(record.context["summed"])
    reason = f"{summed} take {value:.2f} times as long as {record.context['against']}, printed {claimed:.2f}; {reason}"
    return _Finding(word, reason, None, None, record.tier)


def printed_values(evidence: Evidence, row: str, measure: str, *, table: str = "") -> tuple[Cell, ...]:
    """The printed cells that our row and measure answer, in one table or (empty) in all; columns of other data (test-dev) are left out."""
    if evidence.paper is None:
        return ()
    places = {
        (ours.id, i, j)
        for ours in evidence.paper.tables
        for i, key in enumerate(ours.rows)
        for j, column in enumerate(ours.columns)
        if answering(key, column) == row and ours.measure(i, j) == measure and not column.unattempted and table in {"", ours.id}
    }
    return tuple(cell for cell in result_cells(evidence.published) if (cell.table, *cell.at) in places)


def printed_difference(evidence: Evidence, row: str, reference: str, measure: str, *, first: str = "") -> float | None:
    """Printed row minus printed reference, to the printed digits, in the table `first` where both stand there; None where one is not printed."""
    pairs = ([printed_values(evidence, key, measure, table=table) for key in (row, reference)] for table in (first, ""))
    ours, others = next((pair for pair in pairs if all(pair)), ((), ()))
    if not ours or not others:
        return None
    return float(verdicts.printed_number(ours[0].printed) - verdicts.printed_number(others[0].printed))


# ---- what a run learnt and a Derive step measured


def _learnt(question: _Question) -> _Finding:
    """A number that a net learnt (POD's scales): another net on other data may learn another, so only the paper's own scale can bear it out."""
    evidence, row, measure = question.evidence, question.row.key, question.column.measure
    tier = evidence.tier(row)
    runs = evidence.runs(row, tier)
    if not runs:
        attempts = evidence.attempts(row, tier)
        said = f"{attempts[0].status}: {attempts[0].reason}" if attempts else f"no run at the {tier or JUDGED_TIERS[-1]} tier yet"
        return _Finding("not attempted", f"{row}: {said}", tier=tier)
    measured = evidence.mean(row, tier, measure)
    if measured is None:
        return _Finding("not attempted", f"{row}'s net has no block that {measure} is of", tier=tier)
    old = next((record for record in runs if evidence.stale(record)), None)
    if old is not None:
        return _Finding("stale", f"{old.id} was made by other code; run or attest it again", measured, None, tier)
    deviation = evidence.mean(row, tier, f"{DEVIATION}{measure}")
    spread = f"standard deviation over images {deviation:.3f}" if deviation is not None else "no standard deviation was kept"
    if tier != "paper":
        return _Finding("undecided", f"{spread}; a value of its own says something at the paper's scale alone", measured, None, tier)
    word, reason = verdicts.digits(question.cell.printed, measured, tolerance=LEARNT_TOLERANCE)
    return _Finding(word, f"{reason}; {spread}", measured, None, tier)


JUDGES = {"cost": _cost, "accuracy": _accuracy, "latency": _latency, "training-time": _training, "other": _learnt}
DEVIATION = "std_"  # before a measure: its standard deviation
LEARNT_TOLERANCE = 0.05  # two trainings of one net differ by more than the printed digits


def check_table(paper: Paper, published: Published) -> None:
    """Assert that each table of ours has a row for each printed row and a column for each printed column, and no row that is not ours."""
    keys = {row.key for row in paper.rows}
    for table in paper.tables:
        printed = published.table(table.id)
        assert len(table.rows) == len(labels(printed)), f"{paper.key} {table.id}: {len(table.rows)} rows of {len(printed.rows)}"
        assert len(table.columns) == len(printed.columns), f"{paper.key} {table.id}: {len(table.columns)} columns of {len(printed.columns)}"
        asked = {answering(key, column) for key in table.rows for column in table.columns} | set(table.rows)
        assert asked <= keys, f"{paper.key} {table.id}: unknown rows {asked - keys}"
