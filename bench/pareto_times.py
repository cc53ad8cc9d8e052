"""The times of a Pareto field: which latencies are of its very runs, on whose clock, and what a session says of a pair. No torch but to hash."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench import places
from bench.evidence import MAIN
from bench.plan import file_hash
from bench.records import ran_on
from bench.subjects import WEIGHTS

if TYPE_CHECKING:
    from pathlib import Path

    from bench.gather import Stored
    from bench.pareto import Pair
    from bench.records import Record
    from bench.two_samples import Ratio

# What a latency says where it stands beside an accuracy: the row's own RoIs in float32; int8 kernels run under it too
CONDITIONS = MappingProxyType({"trained": True, "precision": "float32", "rois_given": 0, "batch": 1, "quick": False})


@dataclass(frozen=True)
class Turn:
    """A row's part in one session, with the weights of one of its runs."""

    row: str  # PAPER.ROW
    record: Record  # the latency
    samples: Path | None  # its raw times

    @property
    def noisy(self) -> bool:
        """Whether this row's times were disturbed."""
        return bool(self.record.context["quiet"] == "noisy")

    @property
    def clock(self) -> str:
        """The machine, device and threads that it ran on: times of two clocks share no axis."""
        threads = self.record.context["threads"]
        return f"{ran_on(self.record)}, {self.record.context['device']}, {threads} thread{'s' * (threads != 1)}"

    @property
    def session(self) -> tuple[str, ...]:
        """Equal for what took turns: the same detectors, the same weights of the first of them, the same images, and what was seen meanwhile."""
        said = self.record.context
        first = (said.get("against") or ["", said["weights"]])[1]
        return (self.clock, *said["turns"], str(said["image_list"]), str(first), json.dumps(said.get("seen"), sort_keys=True))


@dataclass(frozen=True)
class PairTime:
    """Time of one row over another's, of equal seeds, in one session."""

    ratio: Ratio
    rounds: int
    noisy: bool
    clock: str
    ids: Pair  # of the two latencies


@dataclass(frozen=True)
class Times:
    """All times of a field. `clock`: the one that timed the most rows, and alone gives milliseconds."""

    turns: tuple[Turn, ...] = ()  # of every clock
    pairs: Mapping[Pair, tuple[PairTime, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )  # of every session that timed both, the best first; each pair once
    clock: str = ""
    overtaken: tuple[str, ...] = ()  # ids of latencies whose weights are not those that the run has now

    def turn(self, row: str) -> Turn | None:
        """The row's latency on the field's clock: a quiet one first, then of the session with the most rows, then with the most samples."""
        sizes = Counter(each.session for each in self.turns)
        own = [each for each in self.turns if (each.row, each.clock) == (row, self.clock)]
        return min(own, key=lambda each: (each.noisy, -sizes[each.session], -each.record.context.get("samples", 0), each.record.id), default=None)

    def of_pair(self, first: str, second: str) -> tuple[PairTime, ...]:
        """First over second, from whichever side it was computed."""
        turned = self.pairs.get((second, first), ())
        return self.pairs.get((first, second), tuple(_turned(each) for each in turned))

    def ratios(self) -> dict[Pair, PairTime]:
        """The best of each pair on the field's clock."""
        own = {pair: [each for each in found if each.clock == self.clock] for pair, found in self.pairs.items()}
        return {pair: found[0] for pair, found in own.items() if found}


def times_of(runs: Sequence[Record], stored: Iterable[Stored]) -> Times:
    """Everything that was timed with the weights of these runs."""
    by_id = {run.id: run for run in runs}
    found = [(each, by_id[str(each.record.context["weights_from"])]) for each in stored if _is_of_a_run(each.record, by_id)]
    kept = {each.record.id: same_weights(each.record, run) for each, run in found}
    turns = tuple(Turn(f"{run.paper}.{run.row}", each.record, each.predictions) for each, run in found if kept[each.record.id])
    rows = Counter(clock for clock, _ in {(each.clock, each.row) for each in turns})
    clock = min(rows, key=lambda name: (-rows[name], name), default="")
    return Times(turns, _pairs(turns), clock, tuple(sorted(name for name, same in kept.items() if not same)))


def _is_of_a_run(record: Record, runs: Mapping[str, Record]) -> bool:
    """Whether it is a latency of one of the runs, as it learns and on its own data; a deployed form and another size are rows of their own."""
    if record.kind != "latency" or record.status != "ok":
        return False
    run = runs.get(str(record.context.get("weights_from", "")))
    if run is None or (record.paper, record.row, record.tier) != (run.paper, run.row, run.tier):
        return False
    alike = record.context["data"] == run.context.get("data", MAIN)
    return alike and all(record.context[name] == value for name, value in CONDITIONS.items())


# ---- weights


def same_weights(latency: Record, run: Record) -> bool:
    """Whether a latency of this run is of the very weights that the run's record names; where the record names none, the run's id must do.

    A latency names the file by its hash; one that was recorded before that was kept names the tensors, and is known where the file lies here.
    """
    own, told = str(run.samples.get("weights", "")), str(latency.context.get("weights_file", ""))
    if not own:
        return True
    return told == own if told else latency.context["weights"] == _tensors_here(run.id, own)


def _tensors_here(run: str, own: str) -> str:
    """The hash of a run's tensors where its file of weights is here and is the one that its record names; else empty."""
    path = places.run_folder(run) / WEIGHTS
    if not path.exists() or file_hash(path) != own:
        return ""
    from safetensors.torch import load_file

    from bench.detectors import tensors_hash

    return tensors_hash(load_file(path))


# ---- pairs


def _pairs(turns: Sequence[Turn]) -> dict[Pair, tuple[PairTime, ...]]:
    """First over second of all that took turns, from the raw samples; quiet sessions first, then those of more rounds."""
    sessions: dict[tuple[object, ...], list[Turn]] = defaultdict(list)
    for turn in turns:
        if turn.samples is not None:
            sessions[*turn.session, turn.record.seed].append(turn)
    found: dict[Pair, list[PairTime]] = defaultdict(list)
    for together in sessions.values():
        for pair, time in _in_session(sorted(together, key=lambda turn: (turn.row, turn.record.id))):
            found[pair].append(time)
    return {pair: tuple(sorted(times, key=lambda each: (each.noisy, -each.rounds, each.ids))) for pair, times in found.items()}


def _in_session(turns: Sequence[Turn]) -> Iterator[tuple[Pair, PairTime]]:
    from bench.two_samples import ratio_of_medians

    times = [_whole_ms(turn.samples) for turn in turns if turn.samples is not None]
    for (first, ours), (second, theirs) in combinations(zip(turns, times, strict=True), 2):
        rounds = sorted(ours.keys() & theirs.keys())
        if rounds and first.row != second.row:
            ratio = ratio_of_medians([ours[one] for one in rounds], [theirs[one] for one in rounds])
            ids = (first.record.id, second.record.id)
            yield (first.row, second.row), PairTime(ratio, len(rounds), first.noisy or second.noisy, first.clock, ids)


def _whole_ms(samples: Path) -> dict[int, float]:
    """By round, the time of a whole detection."""
    import pyarrow.parquet as pq

    rows = pq.read_table(samples, columns=["phase", "round", "whole_ms"]).to_pylist()
    return {row["round"]: row["whole_ms"] for row in rows if row["phase"] == "measured"}


def _turned(found: PairTime) -> PairTime:
    from bench.two_samples import Ratio

    ratio = Ratio(1 / found.ratio.value, 1 / found.ratio.high, 1 / found.ratio.low)
    return PairTime(ratio, found.rounds, found.noisy, found.clock, found.ids[::-1])
