"""Accuracy against bytes, multiply-adds and time: which rows another row beats for certain. Pure; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from bench.evidence import SEEDS

Interval = tuple[float, float]
Pair = tuple[str, str]  # ids of two points

AXES = {"stored_mb": "MB stored", "macs_g": "GMAC", "ms": "ms an image"}  # cost -> its name on the axis


@dataclass(frozen=True)
class Costs:
    """What one image costs, of the row's own weights at its own scale and 1000 RoIs; None where it was not counted or timed."""

    stored_mb: float | None = None  # bytes of a file that holds it, / 10^6: the compressed file, or 4 bytes a number
    arithmetic_mb: float | None = None  # parameters that are not zero x their bits
    stored_ratio: float | None = None  # stored over arithmetic: places, scales and header add to it, packing the values takes from it
    macs_g: float | None = None  # zeros multiplied, as kernels do
    effective_macs_g: float | None = None  # zeros skipped, as no kernel here does
    bops_g: float | None = None  # multiply-adds x bits x bits
    effective_bops_g: float | None = None  # of the multiply-adds without zeros
    ms: float | None = None  # median of a whole detection


@dataclass(frozen=True)
class Point:
    """A row at one tier on one machine."""

    id: str  # "condensing.k16-l5"
    ap: float  # mean over seeds
    interval: Interval  # 95 %, over seeds and images
    seeds: int
    costs: Costs
    speedup: str = ""  # "yes", "no", "not timed": whether the saving is one on a clock; empty for a row that nothing was done to
    notes: tuple[str, ...] = ()


def least_drawn(points: Sequence[Point]) -> float:
    """The AP that a point must reach to be drawn, half of the best: what has lost more would press all others into a corner of the plot."""
    return max((point.ap for point in points), default=0.0) / 2


@dataclass(frozen=True)
class Gain:
    """AP of the first of a pair minus that of the second, paired by seed and image."""

    value: float
    interval: Interval
    seeds: int


@dataclass(frozen=True)
class Field:
    """All points of one plot, and what is known of pairs of them. Times are of one machine, which need not be the one that trained."""

    points: tuple[Point, ...]
    gains: Mapping[Pair, Gain] = field(default_factory=lambda: MappingProxyType({}))  # each pair once
    ratios: Mapping[Pair, Interval] = field(
        default_factory=lambda: MappingProxyType({})
    )  # time of the first over the second's, one session, each once
    noisy: frozenset[Pair] = frozenset()  # those of the ratios that only a noisy session gave, as they stand there: they decide nothing
    missing: tuple[str, ...] = ()  # what is not there, a sentence each
    references: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # id -> id of the row that it is judged against
    data: str = ""  # name of what all were tested on
    length: int = 1  # times their tier's schedule, of all
    machine: str = ""  # what trained them
    timed_on: str = ""  # the machine, device and threads of all times; empty where nothing was timed
    groups: int = 0  # of images that are resampled together; as many as images where nothing belongs together

    def gain(self, first: str, second: str) -> Gain | None:
        """First minus second, from whichever side it was computed; None where they share no seed."""
        if (first, second) in self.gains:
            return self.gains[first, second]
        found = self.gains.get((second, first))
        return None if found is None else Gain(-found.value, (-found.interval[1], -found.interval[0]), found.seeds)

    def time_ratio(self, first: str, second: str) -> Interval | None:
        """Time of the first over the second's; None where no session timed both in turns."""
        if (first, second) in self.ratios:
            return self.ratios[first, second]
        found = self.ratios.get((second, first))
        return None if found is None else (1 / found[1], 1 / found[0])


@dataclass(frozen=True)
class Standing:
    """A point on one axis: beaten by another for certain, perhaps beaten, or by nothing as far as is known."""

    by: str  # id of what beats it, or may; empty: nothing does
    gain: Gain | None = None
    certain: bool = False  # by as many seeds as decide, and a session that was not noisy


def no_dearer(known: Field, axis: str, first: Point, second: Point) -> bool:
    """Whether the first costs no more than the second: times by the interval of their ratio, what is counted by its count."""
    if axis == "ms":
        ratio = known.time_ratio(first.id, second.id)
        return ratio is not None and ratio[1] <= 1
    ours, theirs = getattr(first.costs, axis), getattr(second.costs, axis)
    return ours is not None and theirs is not None and ours <= theirs


def standing(known: Field, axis: str, point: Point) -> Standing | None:
    """Beaten only by what costs no more and whose gain in AP has its whole interval above zero; None for a point that has no such cost.

    For certain: the pair shares at least bench.evidence.SEEDS seeds. The interval of fewer is over images more than over seeds, and decides nothing.
    """
    if getattr(point.costs, axis) is None:
        return None
    rivals = [other.id for other in known.points if other is not point and no_dearer(known, axis, other, point)]
    better = [(gain, other) for other in rivals if (gain := known.gain(other, point.id)) is not None and gain.interval[0] > 0]
    found = [Standing(other, gain, _decides(known, axis, gain, (other, point.id))) for gain, other in better]
    return max(found, key=_strength, default=Standing(""))


def _decides(known: Field, axis: str, gain: Gain, pair: Pair) -> bool:
    noisy = axis == "ms" and not known.noisy.isdisjoint({pair, pair[::-1]})
    return gain.seeds >= SEEDS and not noisy


def _strength(found: Standing) -> tuple[bool, int, float, str]:
    assert found.gain is not None
    return found.certain, found.gain.seeds, found.gain.interval[0], found.by


def front(known: Field, axis: str) -> tuple[Point, ...]:
    """The points that nothing beats for certain, the undecided ones among them, cheapest first."""
    kept = [point for point in known.points if (found := standing(known, axis, point)) is not None and not found.certain]
    return tuple(sorted(kept, key=lambda point: (getattr(point.costs, axis), -point.ap, point.id)))


# ---- as text

UNDECIDED = "undecided: "  # before what may beat a row
COSTS = tuple(each.name for each in fields(Costs))
HEAD = ("row", "seeds", "AP", "95 %", *COSTS, "timed_on", "speedup_realised", *(f"beaten_on_{axis}" for axis in AXES), "notes")


def cells(known: Field, point: Point) -> tuple[str, ...]:
    """One point as the texts under HEAD."""
    return texts(point, [beaten_text(standing(known, axis, point)) for axis in AXES], known.timed_on)


def texts(point: Point, beaten: Sequence[str], timed_on: str) -> tuple[str, ...]:
    """One point, and what beats it on each axis, as the texts under HEAD."""
    costs = ("" if (value := getattr(point.costs, name)) is None else f"{value:.3f}" for name in COSTS)
    low, high = point.interval
    timed = "" if point.costs.ms is None else timed_on
    said = (timed, point.speedup, *beaten, "; ".join(point.notes))
    return (point.id, str(point.seeds), f"{point.ap:.2f}", f"{low:.2f} to {high:.2f}", *costs, *said)


def beaten_text(found: Standing | None) -> str:
    """By what, by how much, and by how many seeds that is known; a dash where nothing beats it, and UNDECIDED before what does not for certain."""
    if found is None:
        return ""
    if not found.by or found.gain is None:
        return "-"
    low, high = found.gain.interval
    said = f"{found.by} {found.gain.value:+.2f} [{low:+.2f}, {high:+.2f}], {found.gain.seeds} seed{'s' * (found.gain.seeds != 1)}"
    why = ", in a noisy session" if found.gain.seeds >= SEEDS else ""
    return said if found.certain else f"{UNDECIDED}{said}{why}"


def kind(beaten: str) -> str:
    """What such a text says of a row: "front", "undecided" or "beaten"."""
    return "front" if beaten in {"", "-"} else "undecided" if beaten.startswith(UNDECIDED) else "beaten"


def best_first(points: Sequence[Point]) -> tuple[Point, ...]:
    """By AP, then by id."""
    return tuple(sorted(points, key=lambda point: (-point.ap, point.id)))
