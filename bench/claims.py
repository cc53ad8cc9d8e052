"""Sentences of a paper, decided. A paper's `decide` is given a Case: it asks for the rule that fits and repeats no printed number. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from bench import verdicts
from bench.published import result_cells
from bench.spec import Verdict
from bench.tables import DEVIATION, LEARNT_TOLERANCE, printed_values
from bench.timed_claims import times_as_fast

if TYPE_CHECKING:
    from bench.evidence import Evidence
    from bench.published import Published
    from bench.spec import Claim, Paper
    from bench.verdicts import Word

Pairs = Sequence[tuple[str, str]]  # rows and the rows that they are leaner than
Rule = Callable[[verdicts.Interval], verdicts.Ruling]
ABOUT = 0.1  # "about half" reaches so far to both sides
Met = Callable[[float, float], bool]  # (least saving, largest saving)


@dataclass(frozen=True)
class ClaimOutcome:
    """What became of one sentence; `index` is its place in published.json, or -1."""

    paper: str
    index: int
    key: str  # empty where the paper is not built yet
    claim: str
    kind: str  # how it is decided; where the paper is not built yet, its kind as printed
    unit: str
    published: float | tuple[float, ...] | None
    line: int
    measured: float | None
    interval: tuple[float, float] | None
    outcome: Word
    reason: str
    headline: bool = False
    records: tuple[str, ...] = ()  # ids of those that the verdict rests on, sorted


def decide(paper: Paper | None, published: Published, evidence: Evidence) -> tuple[ClaimOutcome, ...]:
    """One outcome a printed sentence, in the order of the paper, then those that a table only implies."""
    claims = {claim.index: claim for claim in paper.claims if claim.index >= 0} if paper else {}
    printed = tuple(_one(index, claims.get(index), evidence) for index in range(len(published.claims)))
    implied = tuple(_one(-1, claim, evidence) for claim in paper.claims if claim.index < 0) if paper else ()
    return printed + implied


def _one(index: int, claim: Claim | None, evidence: Evidence) -> ClaimOutcome:
    watched, seen = evidence.watched()
    verdict = claim.decide(Case(watched)) if claim else Verdict("not attempted", None, "not built yet")
    return replace(_outcome(index, claim, verdict, evidence.published), records=tuple(sorted(seen)))


def _outcome(index: int, claim: Claim | None, verdict: Verdict, published: Published) -> ClaimOutcome:
    word = verdicts.word_of(verdict.outcome)
    key, kind, headline = (claim.key, str(claim.kind), claim.headline) if claim else ("", "", False)
    if index < 0:
        return ClaimOutcome(published.paper, index, key, key, kind, "", None, 0, verdict.measured, verdict.interval, word, verdict.reason, headline)
    said = published.claims[index]
    return ClaimOutcome(
        published.paper, index, key, said.claim, kind or said.kind, said.unit, said.value, said.line,
        verdict.measured, verdict.interval, word, verdict.reason, headline,
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """The evidence on one claim, and the rules to decide it by."""

    evidence: Evidence

    def claimed(self, index: int) -> float:
        """The number of a printed claim."""
        value = self.evidence.published.claims[index].value
        assert isinstance(value, float), f"{self.evidence.published.paper}: claim {index} is not one number"
        return value

    def on(self, data: str) -> Case:
        """The same case by the runs on another kind of scenes."""
        return Case(replace(self.evidence, data=data))

    # ---- cost

    def saved(self, row: str, reference: str, measure: str) -> float | None:
        """Per cent of a cost that a row saves, from this code's own counts; None where one is not counted or stale."""
        ours, theirs = self._cost(row, measure), self._cost(reference, measure)
        return None if ours is None or theirs is None else 100 * (1 - ours / theirs)

    def saved_more_than(self, index: int, measure: str, pairs: Pairs) -> Verdict:
        """Every pair saves more than is claimed; the measured number is the least saving."""
        return self._saving(pairs, measure, lambda least, _most: least > self.claimed(index), f"more than {self.claimed(index):g} %")

    def saved_about(self, index: int, measure: str, pairs: Pairs, *, within: float) -> Verdict:
        """Every pair saves what is claimed, give or take `within` per cent points; the measured number is the least saving."""
        claimed = self.claimed(index)
        return self._saving(pairs, measure, lambda least, most: claimed - within <= least and most <= claimed + within, f"{claimed:g} % +-{within:g}")

    def share_about(self, index: int, measure: str, part: float, row: str, *, within: float) -> Verdict:
        """A part is the claimed per cent of a row's cost, give or take `within` points. `part` is in the measure's unit."""
        whole = self._cost(row, measure)
        if whole is None:
            return _uncounted(row)
        share, claimed = 100 * part / whole, self.claimed(index)
        met = abs(share - claimed) <= within
        return Verdict("reproduced" if met else "deviates", share, f"{part:.3f} of {whole:.3f} is {share:.1f} %; claimed {claimed:g} %")

    def cost_claim(self, index: int, row: str, measure: str, *, tolerance: float = 0.0, unit: float = 1.0) -> Verdict:
        """A cost that a sentence repeats from a table; `unit` is the sentence's in the measure's (1e-3: millions said, GMAC counted)."""
        counted = self._cost(row, measure)
        if counted is None:
            return _uncounted(row)
        measured = counted / unit
        word, reason = verdicts.digits(repr(self.claimed(index)), measured, tolerance=tolerance)
        return Verdict(word, measured, reason)

    def cost_ratio(self, index: int, row: str, reference: str, measure: str) -> Verdict:
        """How many times a cost of the reference the row's is, to the digits that the sentence shows."""
        ours, theirs = self._cost(row, measure), self._cost(reference, measure)
        if ours is None or theirs is None:
            return _uncounted(row if ours is None else reference)
        word, reason = verdicts.digits(f"{self.claimed(index):g}", ours / theirs)
        return Verdict(word, ours / theirs, f"{ours:.3g} against {theirs:.3g}: {reason}")

    def arithmetic(self, index: int, computed: Sequence[float]) -> Verdict:
        """Numbers of a sentence that follow from the settings of our rows, in its order; the first is the measured one."""
        said = self._numbers(index)
        met = tuple(computed) == said
        reason = f"our settings give {_listed(computed)}" + ("" if met else f"; claimed {_listed(said)}")
        return Verdict("reproduced" if met else "deviates", computed[0], reason)

    def never_above(self, pairs: Pairs, measures: Sequence[str]) -> Verdict:
        """No row costs more than its reference by any of the measures; measured: the largest extra in per cent, negative for a saving."""
        extra = {}
        for row, reference in pairs:
            for measure in measures:
                saved = self.saved(row, reference, measure)
                if saved is None:
                    return _uncounted(row if self._cost(row, measure) is None else reference)
                extra[f"{row} {measure}"] = 0.0 - saved
        most, least = max(extra, key=lambda name: extra[name]), min(extra, key=lambda name: extra[name])
        said = f"{len(extra)} counts: from {extra[least]:+.2f} % ({least}) to {extra[most]:+.2f} % ({most})"
        return Verdict("reproduced" if extra[most] <= 0 else "deviates", extra[most], said)

    def as_printed(self, index: int, table: str, rows: Sequence[str], measure: str) -> Verdict:
        """Numbers that a sentence repeats from the cells of these rows, in its order."""
        printed = [float(verdicts.printed_number(printed_values(self.evidence, row, measure, table=table)[0].printed)) for row in rows]
        said = self._numbers(index)
        if tuple(printed) == said:
            return Verdict("reproduced", None, f"Table {table.removeprefix('T')} prints {_listed(printed)}")
        return Verdict("contradicted by its own table", None, f"Table {table.removeprefix('T')} prints {_listed(printed)}, not {_listed(said)}")

    def _numbers(self, index: int) -> tuple[float, ...]:
        value = self.evidence.published.claims[index].value
        assert value is not None, f"{self.evidence.published.paper}: claim {index} holds no number"
        return value if isinstance(value, tuple) else (value,)

    def printed_saving(self, index: int, table: str, measure: str, pairs: Pairs) -> Verdict:
        """The paper's own cells save more than is claimed, in every pair; our counts stand in the reason."""
        claimed = self.claimed(index)
        printed = {row: self._printed_saving(table, measure, row, reference) for row, reference in pairs}
        below = [f"{row} {saving:.1f} %" for row, saving in printed.items() if saving <= claimed]
        counted = [saved for row, reference in pairs if (saved := self.saved(row, reference, measure)) is not None]
        ours = f"; counted here: at least {min(counted):.1f} %" if len(counted) == len(pairs) else ""
        measured = min(counted) if len(counted) == len(pairs) else None
        if below:
            return Verdict("contradicted by its own table", measured, f"the printed cells save {', '.join(below)}, not more than {claimed:g} %{ours}")
        return Verdict("reproduced", measured, f"the printed cells save at least {min(printed.values()):.1f} %{ours}")

    # ---- latency

    def faster(self, row: str, reference: str) -> Verdict:
        """The row detects faster than its reference, timed in turns with it at the paper's scale; measured is how many times as fast it is."""
        return times_as_fast(self.evidence, row, reference, verdicts.faster)

    def as_fast(self, pairs: Pairs) -> Verdict:
        """Each row, perhaps in a form (`row@onnx`), takes the time of its reference in that form, give or take SAME_TIME; the worst pair counts."""
        return _worst(times_as_fast(self.evidence, row, reference, partial(verdicts.same_time, claimed=1.0)) for row, reference in pairs)

    # ---- accuracy

    def absolute(self, index: int, row: str, measure: str) -> Verdict:
        """A row's own accuracy, which only the paper's own scale can bear out."""
        tier = self.evidence.tier(row)
        measured = self.evidence.mean(row, tier, measure)
        obstacle = self.evidence.obstacle((row,), measure, 0.0)
        if obstacle and obstacle[0] != "undecided":
            return Verdict(obstacle[0], measured, obstacle[1])
        if tier != "paper" or measured is None:
            return Verdict("undecided", measured, "a value of its own says something at the paper's scale alone")
        word, reason = verdicts.digits(repr(self.claimed(index)), measured, tolerance=0.01)
        return Verdict(word, measured, reason)

    def equality(self, row: str, reference: str, measure: str, *, within: float = verdicts.EQUAL_AP) -> Verdict:
        """The row is as accurate as its reference."""
        return self._accuracy(row, reference, measure, 0.0, lambda interval: verdicts.equality(interval, within))

    def superiority(self, row: str, reference: str, measure: str) -> Verdict:
        """The row is more accurate than its reference."""
        return self._accuracy(row, reference, measure, 0.0, verdicts.superiority)

    def magnitude(self, index: int, row: str, reference: str, measure: str) -> Verdict:
        """The row differs from its reference by what is claimed, in points."""
        claimed = self.claimed(index)
        return self._accuracy(row, reference, measure, claimed, lambda interval: verdicts.magnitude(interval, claimed))

    def magnitudes(self, index: int, pairs: Mapping[int, tuple[str, str]], measure: str) -> Verdict:
        """Several differences of one sentence: place among its numbers -> row and reference. As good as the worst of them, the last one's number."""
        said = self._numbers(index)
        found: dict[str, Verdict] = {}
        for place, (row, reference) in pairs.items():
            rule = partial(verdicts.magnitude, claimed=said[place])
            found[f"{row} to {reference}"] = self._accuracy(row, reference, measure, said[place], rule)
        last = list(found.values())[-1]
        reason = "; ".join(f"{name}: {verdict.outcome}, {verdict.reason}" for name, verdict in found.items())
        return Verdict(_worst(found.values()).outcome, last.measured, reason, last.interval)

    def equalities(self, rows: Sequence[str], reference: str, measure: str) -> Verdict:
        """Several rows are each as accurate as one reference: the verdict on the worst of them, which the reason names."""
        found = {row: self.equality(row, reference, measure) for row in rows}
        worst = _worst(found.values())
        named = next(row for row, verdict in found.items() if verdict is worst)
        return replace(worst, reason=f"{named}: {worst.reason}")

    # ---- time

    def training_share(self, index: int, pairs: Sequence[tuple[str, str]]) -> Verdict:
        """The claimed share of each reference's training time, give or take a tenth, is what the row takes; measured in turns, the largest counts."""
        claimed, shares = self.claimed(index), {}
        for row, reference in pairs:
            record = self.evidence.training(reference)
            if record is None or record.context["against"] != row:
                paper = self.evidence.published.paper
                needs = self.evidence.paper.row(reference).needs if self.evidence.paper else ()
                asked = f"leandet pace {paper}.{row} {paper}.{'+'.join((*needs, reference))}"
                return Verdict("not attempted", None, f"{reference} was not timed in training against {row} yet: {asked}")
            if self.evidence.stale(record):
                return Verdict("stale", None, f"{record.id} was made by other code; time it again")
            shares[row] = tuple(1 / record.values[f"training_ratio{end}"] for end in ("_high", "", "_low"))
        reason = "; ".join(f"{row} takes {share:.2f} [{low:.2f}, {high:.2f}]" for row, (low, share, high) in shares.items())
        met = all(claimed - ABOUT <= low and high <= claimed + ABOUT for low, _, high in shares.values())
        less = all(high < 1 for _, _, high in shares.values())
        word = "reproduced" if met else "direction holds" if less else "deviates"
        return Verdict(word, max(share for _, share, _ in shares.values()), f"claimed {claimed:g}: {reason}")

    def frames_as_printed(self, index: int, table: str, *, timed: str, row: str) -> Verdict:
        """Frames a second and AP of a sentence, from the printed milliseconds of the timed row and the printed AP of the trained one."""
        milliseconds, ap = (
            float(verdicts.printed_number(printed_values(self.evidence, key, measure, table=table)[0].printed))
            for key, measure in ((timed, "latency_ms"), (row, "ap"))
        )
        frames, said = 1000 / milliseconds, self._numbers(index)
        met = verdicts.digits(f"{said[0]:g}", frames)[0] == "reproduced" and ap == said[1]
        reason = f"Table {table.removeprefix('T')} prints {milliseconds:g} ms, {frames:.1f} a second, and {ap:g} AP"
        return Verdict("reproduced" if met else "contradicted by its own table", None, reason)

    def _accuracy(self, row: str, reference: str, measure: str, claimed: float, rule: Rule) -> Verdict:
        found = self.evidence.difference(row, reference, measure)
        value, interval = (found.value, found.interval) if found else (self._plain_difference(row, reference, measure), None)
        obstacle = self.evidence.obstacle((row, reference), measure, claimed)
        power = f"; {found.seeds} seeds, which show differences from {found.smallest_detectable:.1f} on" if found else ""
        if obstacle:
            return Verdict(obstacle[0], value, obstacle[1] + power, interval)
        if found is None:
            return Verdict("undecided", value, "no paired predictions of both rows are stored")
        word, reason = rule(found.interval)
        return Verdict(word, value, reason + power, interval)

    def _plain_difference(self, row: str, reference: str, measure: str) -> float | None:
        shared = self.evidence.by_seed((row, reference), self.evidence.tier(row), measure)
        return fmean(own - other for own, other in shared.values()) if shared else None

    # ---- what a net learnt and a Derive step measured

    def spread_below(self, index: int, table: str, rows: Sequence[str]) -> Verdict:
        """Standard deviations are below so many per cent of their means: by the table's own cells, and by our runs of these rows."""
        limit = self.claimed(index)
        cells = [cell for cell in result_cells(self.evidence.published) if cell.table == table and isinstance(cell.value, tuple)]
        printed = {f"{cell.column} ({cell.row})": _spread(*cell.value) for cell in cells if isinstance(cell.value, tuple)}
        above = [f"{name} {spread:.2f} %" for name, spread in printed.items() if spread >= limit]
        ours = {name: spread for row in rows for name, spread in self._spreads(row).items()}
        largest = max(ours, key=lambda name: ours[name], default="")
        said = f"; learnt here: at most {ours[largest]:.2f} % ({largest})" if ours else "; no run of ours learnt scales yet"
        measured = ours[largest] if ours else None
        if above:
            return Verdict("contradicted by its own table", measured, f"Table {table.removeprefix('T')} prints {', '.join(above)}{said}")
        met = measured is not None and measured < limit
        return Verdict("not attempted" if measured is None else "reproduced" if met else "deviates", measured, f"its table agrees{said}")

    def _spreads(self, row: str) -> dict[str, float]:
        """Per cent, by seed, block and direction, of what a row's runs learnt."""
        return {
            f"{row} s{run.seed} {name}": _spread(value, run.values[f"{DEVIATION}{name}"])
            for run in self.evidence.runs(row, self.evidence.tier(row))
            for name, value in run.values.items()
            if name.startswith("R") and f"{DEVIATION}{name}" in run.values
        }

    def learnt(self, index: int, table: str, row: str, measures: Sequence[str]) -> Verdict:
        """Numbers that a net learnt, in the sentence's order; only the paper's own scale can bear them out."""
        printed = tuple(float(verdicts.printed_number(printed_values(self.evidence, row, measure, table=table)[0].printed)) for measure in measures)
        tier = self.evidence.tier(row)
        ours = [self.evidence.mean(row, tier, measure) for measure in measures]
        known = [value for value in ours if value is not None]
        agrees = f"Table {table.removeprefix('T')} prints {_listed(printed)}"
        if printed != self._numbers(index):
            return Verdict("contradicted by its own table", known[0] if known else None, agrees)
        if len(known) < len(measures):
            return Verdict("not attempted", None, f"{agrees}; {row} has no run that learnt it yet")
        here = f"learnt here at the {tier} tier: {_listed([round(value, 2) for value in known])}"
        if tier != "paper":
            return Verdict("undecided", known[0], f"{agrees}; {here}; another net on other data may learn another")
        words = [verdicts.digits(f"{said:g}", value, tolerance=LEARNT_TOLERANCE)[0] for said, value in zip(printed, known, strict=True)]
        return Verdict("reproduced" if set(words) == {"reproduced"} else "deviates", known[0], f"{agrees}; {here}")

    def learnt_below(self, index: int, table: str, rows: Sequence[str], measures: Sequence[str]) -> Verdict:
        """All of these rows' learnt numbers are below the sentence's, in the table and in our runs; the measured number is our largest."""
        limit = self.claimed(index)
        cells = [cell for row in rows for measure in measures for cell in printed_values(self.evidence, row, measure, table=table)]
        above = [f"{cell.column} ({cell.row}) {cell.printed}" for cell in cells if verdicts.printed_number(cell.printed) >= limit]
        if above:
            return Verdict("contradicted by its own table", None, f"Table {table.removeprefix('T')} prints {', '.join(above)}")
        ours: dict[str, float] = {}
        for row in rows:
            for measure in measures:
                value = self.evidence.mean(row, self.evidence.tier(row), measure)
                if value is None:
                    known = "".join(f"; {name} {value:.2f}, not below" for name, value in ours.items() if value >= limit)
                    return Verdict(
                        "not attempted", None, f"the {len(cells)} printed cells are below; {row} has no run that learnt {measure} yet{known}"
                    )
                ours[f"{row} {measure}"] = value
        over = [f"{name} {value:.2f}" for name, value in ours.items() if value >= limit]
        said = f"learnt here not below: {', '.join(over)}" if over else f"all {len(ours)} learnt here are below"
        reason = f"the {len(cells)} printed cells are below; {said}"
        if any(self.evidence.tier(row) != "paper" for row in rows):
            return Verdict("undecided", max(ours.values()), f"{reason}; another net on other data may learn another")
        return Verdict("deviates" if over else "reproduced", max(ours.values()), reason)

    def note(self, index: int) -> str:
        """What published.json remarks on a sentence."""
        return self.evidence.published.claims[index].note

    def _cost(self, row: str, measure: str) -> float | None:
        record = self.evidence.cost(row)
        return None if record is None or self.evidence.stale(record) else record.values.get(measure)

    def _saving(self, pairs: Pairs, measure: str, met: Met, claimed: str) -> Verdict:
        savings = {row: self.saved(row, reference, measure) for row, reference in pairs}
        missing = [row for row, saving in savings.items() if saving is None]
        if missing:
            return _uncounted(missing[0])
        known = [saving for saving in savings.values() if saving is not None]
        said = ", ".join(f"{row} {saving:.1f} %" for row, saving in savings.items())
        return Verdict("reproduced" if met(min(known), max(known)) else "deviates", min(known), f"claimed {claimed}; counted: {said}")

    def _printed_saving(self, table: str, measure: str, row: str, reference: str) -> float:
        ours, theirs = (printed_values(self.evidence, key, measure, table=table)[0] for key in (row, reference))
        return float(100 * (1 - verdicts.printed_number(ours.printed) / verdicts.printed_number(theirs.printed)))


def _spread(mean: float, deviation: float) -> float:
    """A standard deviation as per cent of its mean."""
    return 100 * deviation / abs(mean)


def _listed(numbers: Sequence[float]) -> str:
    """As in "3969 and 490"."""
    return " and ".join(f"{number:g}" for number in numbers)


def _worst(found: Iterable[Verdict]) -> Verdict:
    return min(found, key=lambda verdict: verdicts.WORST_FIRST.index(verdicts.word_of(verdict.outcome)))


def _uncounted(row: str) -> Verdict:
    return Verdict("not attempted", None, f"{row} was not counted yet by this code")
