"""What there is to judge by: records, paired differences, and what a paper prints. Asked by tables, claims, leaderboard and report; no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING

from bench.records import machine_of
from bench.spec import Train

if TYPE_CHECKING:
    from bench.published import Published
    from bench.records import Record
    from bench.spec import Paper
    from bench.verdicts import Ruling

JUDGED_TIERS = ("paper", "proxy")  # accuracy is judged at the first of these that has runs; `real` and `smoke` show that the path works
RUNS = ("train", "transform")  # kinds of record that carry a trained row's accuracy
PAIRED = ("voc_ap50", "ap")  # measures whose differences can be resampled
SEEDS = 5  # of a headline row; fewer never decide
MAIN = "scenes-v1"  # the data that published cells are judged on at the proxy tier
PLATEAU_AP = 1.0  # a run that is continued for half its length gains less than this


@dataclass(frozen=True)
class Difference:
    """A row minus its reference, paired by seed and image, in points of `measure`."""

    paper: str
    row: str
    reference: str
    measure: str
    tier: str
    value: float
    interval: tuple[float, float]  # 95 %, over seeds and images
    seeds: int  # pairs
    smallest_detectable: float  # the difference that so many seeds would show
    data: str = MAIN


@dataclass(frozen=True)
class Evidence:
    """All that is known of one paper, by its runs on one kind of scenes.

    `digests`: what each record's run depends on now, by record id; None: not asked. `seen`: takes the ids of records as they are looked at.
    """

    paper: Paper | None
    published: Published
    records: tuple[Record, ...] = ()
    differences: tuple[Difference, ...] = ()
    digests: Mapping[str, str] | None = None
    data: str = MAIN  # what the runs of the proxy tier that count were trained and tested on: a negative control judges no published cell
    seen: set[str] | None = field(default=None, compare=False, repr=False)

    def watched(self) -> tuple[Evidence, set[str]]:
        """The same evidence, and a set that will hold the id of every record that it is asked for: what a verdict rests on."""
        seen: set[str] = set()
        return replace(self, seen=seen), seen

    def _note(self, found: Iterable[Record]) -> None:
        if self.seen is not None:
            self.seen.update(record.id for record in found)

    def cost(self, row: str) -> Record | None:
        """The cost record of a row, one that could not be counted too; None where nobody tried."""
        found = [record for record in self.records if record.kind == "cost" and (record.paper, record.row) == (self.published.paper, row)]
        found.sort(key=lambda record: record.status != "ok")
        self._note(found[:1])
        return found[0] if found else None

    def latencies(self, row: str, status: str = "ok") -> tuple[Record, ...]:
        """The latency records of a row at the paper's own scale: quiet, then with as many RoIs for all, then with the most samples first."""
        own = (self.published.paper, row, "paper")
        found = [
            record
            for record in self.records
            if record.kind == "latency" and record.status == status and (record.paper, record.row, record.tier) == own
        ]
        found.sort(
            key=lambda record: (record.context["quiet"] == "noisy", not record.context["rois_given"], -record.context.get("samples", 0), record.id)
        )
        self._note(found)
        return tuple(found)

    def training(self, row: str) -> Record | None:
        """How long a row trains, a ratio to another that took its steps in turns with it first; None where nobody measured it."""
        own = (self.published.paper, row)
        found = [record for record in self.records if record.kind == "training" and record.status == "ok" and (record.paper, record.row) == own]
        found.sort(key=lambda record: ("training_ratio" not in record.values, record.id))
        self._note(found[:1])
        return found[0] if found else None

    def tier(self, row: str) -> str:
        """The tier at which this row's accuracy is judged; empty if it has no run there."""
        return next((tier for tier in JUDGED_TIERS if self.attempts(row, tier)), "")

    def attempts(self, row: str, tier: str, *beside: str) -> tuple[Record, ...]:
        """The runs of a row at a tier by seed, the failed and the skipped among them, on the machine where it stands beside those other rows."""
        return self._of(row, tier, RUNS, self.machine(tier, (row, *beside)))

    def runs(self, row: str, tier: str, *beside: str) -> tuple[Record, ...]:
        """The attempts that ended well."""
        return tuple(record for record in self.attempts(row, tier, *beside) if record.status == "ok")

    def mean(self, row: str, tier: str, measure: str, *beside: str) -> float | None:
        """The mean of a measure over the seeds of a row; None where no run has it."""
        values = [record.values[measure] for record in self.runs(row, tier, *beside) if measure in record.values]
        return fmean(values) if values else None

    def by_seed(self, rows: tuple[str, ...], tier: str, measure: str) -> dict[int, tuple[float, ...]]:
        """A measure of these rows, in their order, of each seed that all of them have on the machine where they stand side by side."""
        found = [{record.seed: record.values[measure] for record in self.runs(row, tier, *rows) if measure in record.values} for row in rows]
        shared = set.intersection(*(set(values) for values in found)) if found else set()
        return {seed: tuple(values[seed] for values in found) for seed in sorted(shared)}

    def gain(self, row: str, tier: str, measure: str) -> float | None:
        """What the row gained when its runs were continued for half their length, mean over seeds; None where none was continued.

        On the machine that is judged, or on another that ran and continued the same seeds: a plateau is the length's, not the machine's.
        """
        for machine in self._machines(tier):
            before = {record.seed: record.values for record in self._of(row, tier, RUNS, machine) if record.status == "ok"}
            after = [record for record in self._of(row, tier, ("plateau",), machine) if record.status == "ok" and record.seed in before]
            both = [(record.values, before[record.seed]) for record in after]
            gains = [then[measure] - first[measure] for then, first in both if measure in then and measure in first]
            if gains:
                return fmean(gains)
        return None

    def saved_here(self, row: str, reference: str, tier: str) -> float | None:
        """Per cent of the reference's second stage that the row saves at this tier's scale: divisibility makes it differ from the paper's."""
        pair = (row, reference)
        sizes = [next((r.context["head_params_m"] for r in self.runs(key, tier, *pair) if "head_params_m" in r.context), None) for key in pair]
        return None if sizes[0] is None or not sizes[1] else 100 * (1 - sizes[0] / sizes[1])

    def difference(self, row: str, reference: str, measure: str) -> Difference | None:
        """Row minus reference at the tier that is judged, from whichever side it was computed; None where it was not."""
        tier = self.tier(row)
        for found in self.differences:
            if (found.paper, found.tier, found.measure, found.data) != (self.published.paper, tier, measure, self.data):
                continue
            if (found.row, found.reference) == (row, reference):
                return found
            if (found.reference, found.row) == (row, reference):
                return _turned(found)
        return None

    def stale(self, record: Record) -> bool:
        """Whether the code or data that the record rests on has changed since, without a replay that attests it."""
        return self.digests is not None and record.id in self.digests and self.digests[record.id] not in record.digests

    def obstacle(self, rows: tuple[str, ...], measure: str, claimed: float) -> Ruling | None:
        """Why the accuracy of these rows decides nothing yet, the first reason found; None where they may be compared."""
        tier = self.tier(rows[0])
        missing, stale = ([look(row, tier, rows) for row in rows] for look in (self._missing, self._stale))
        for found in (*missing, *stale, *(self._young(row, tier, measure, claimed) for row in rows)):
            if found:
                return found
        seeds = min(len(self.runs(row, tier, *rows)) for row in rows)
        if seeds < SEEDS:
            return "undecided", f"{seeds} seed{'s' * (seeds > 1)}: {SEEDS} decide"
        return None

    def machine(self, tier: str, rows: tuple[str, ...]) -> str:
        """Whose runs are judged where these rows stand side by side: they ran there by the most seeds; else the machine with the most runs."""
        names = {self._twin(row, tier) for row in rows}

        def seeds(machine: str) -> int:
            counted = Counter(each.row for each in self.records if each.status == "ok" and self._at(each, tier, RUNS) and machine_of(each) == machine)
            return min(counted[name] for name in names)

        return max(self._machines(tier), key=seeds, default="")

    def _machines(self, tier: str) -> tuple[str, ...]:
        """Those with runs at a tier, the one with the most first."""
        counted = Counter(machine_of(record) for record in self.records if self._at(record, tier, RUNS))
        return tuple(sorted(counted, key=lambda name: (-counted[name], name)))

    def _at(self, record: Record, tier: str, kinds: tuple[str, ...]) -> bool:
        return (record.paper, record.tier) == (self.published.paper, tier) and record.kind in kinds and self._on_data(record)

    def _on_data(self, record: Record) -> bool:
        return record.tier != "proxy" or record.context.get("data", MAIN) == self.data

    def _of(self, row: str, tier: str, kinds: tuple[str, ...], machine: str) -> tuple[Record, ...]:
        row = self._twin(row, tier)
        found = (record for record in self.records if record.row == row and self._at(record, tier, kinds) and machine_of(record) == machine)
        ordered = tuple(sorted(found, key=lambda record: (record.seed, record.id)))
        self._note(ordered)
        return ordered

    def _twin(self, row: str, tier: str) -> str:
        """The row under whose name this row's runs stand: below the paper's tier, twins share those of the first."""
        twins = {second: first for first, second in self.paper.twins} if self.paper and tier != "paper" else {}
        return twins.get(row, row)

    def _learner(self, row: str) -> str:
        """The row whose training a row rests on: itself, or the one that it was transformed from."""
        ours = next((each for each in self.paper.rows if each.key == row), None) if self.paper else None
        return row if ours is None or not ours.needs or any(isinstance(step, Train) for step in ours.recipe) else ours.needs[0]

    def _missing(self, row: str, tier: str, beside: tuple[str, ...]) -> Ruling | None:
        attempts = self.attempts(row, tier, *beside)
        if not attempts:
            alone = " on one machine with the other" if self.attempts(row, tier) else ""
            return "not attempted", f"{row} has no run at the {tier or JUDGED_TIERS[-1]} tier{alone} yet"
        if not self.runs(row, tier, *beside):
            return "not attempted", f"{row}: {attempts[0].status}: {attempts[0].reason}"
        return None

    def _stale(self, row: str, tier: str, beside: tuple[str, ...]) -> Ruling | None:
        old = [record.id for record in self.runs(row, tier, *beside) if self.stale(record)]
        return ("stale", f"{old[0]} was made by other code; run or attest it again") if old else None

    def _young(self, row: str, tier: str, measure: str, claimed: float) -> Ruling | None:
        limit = min(PLATEAU_AP, abs(claimed)) if claimed else PLATEAU_AP
        learner = self._learner(row)
        gain = self.gain(learner, tier, measure)
        if gain is None:
            return "undertrained", f"{learner} was not continued past its length, so no plateau is shown"
        if gain >= limit:
            return "undertrained", f"{learner} gains {gain:+.1f} when continued for half its length; a plateau is below {limit:g}"
        return None


def data_of(record: Record) -> str:
    """What it was trained and tested on, in a word, and how many times as long as its tier learns: "coco:bccd", "coco:bccd x10"."""
    length = length_of(record)
    return f"{record.context.get('data', '')}{f' x{length}' if length > 1 else ''}"


def length_of(record: Record) -> int:
    """How many times its tier's schedule a run learnt."""
    return int(record.context.get("length", 1))


def _turned(found: Difference) -> Difference:
    low, high = found.interval
    return replace(found, row=found.reference, reference=found.row, value=-found.value, interval=(-high, -low))
