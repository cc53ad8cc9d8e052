"""A timing session: compared detectors, a process each, take turns image by image; memory, audits and multiply-adds come after. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from bench.subjects import Conditions, Subject, check
from bench.timing_worker import PATIENCE_S, Died, Refused, Worker
from bench.types import UserError
from bench.watching import Seen, Watch, load_average, settle

QUICK = 3  # samples: whether it runs at all
LOOKS = 8  # rounds between two looks at the GPU

Show = Callable[[str, float], None]


@dataclass(frozen=True)
class Manner:
    """How thoroughly: `quick` takes three samples and gives no percentile; `audit` looks for what would make the numbers untrue.

    `settled`: wait first until the load of what ran before has decayed.
    """

    quick: bool = False
    audit: bool = False
    patience_s: float = PATIENCE_S
    settled: bool = False


@dataclass
class Lane:
    """One compared detector and what is known of it so far. `failed`: how its process ended, if it did not do what was asked."""

    subject: Subject
    worker: Worker
    facts: dict[str, Any] = field(default_factory=dict)
    warmed: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)  # one a round
    memory: dict[str, float] = field(default_factory=dict)
    macs: dict[str, Any] = field(default_factory=dict)
    findings: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what went wrong after the timing, which stands all the same
    failed: str = ""
    refused: bool = False  # it failed as it cannot have the form that was asked for

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """The answer; empty once the process has failed, and then the others go on."""
        if self.failed:
            return {}
        try:
            return self.worker.ask(do, **details)
        except Died as died:
            self.failed, self.refused = str(died), isinstance(died, Refused)
            return {}


@dataclass(frozen=True)
class Session:
    """Everything that one session measured, in the order in which its detectors took turns."""

    conditions: Conditions
    manner: Manner
    lanes: tuple[Lane, ...]
    image_list: str  # hash; empty where no process lived to tell it
    seen: Seen


def time_subjects(
    subjects: Sequence[Subject], conditions: Conditions, manner: Manner, show: Show = lambda *_: None, opened: Callable[[Lane], None] = lambda _: None
) -> Session:
    """Time the subjects under the same conditions, in turns. UserError before anything is measured; a process that dies or hangs fails alone.

    `opened` is called with each lane once its detector is built, or is not: what it raises ends the session.
    """
    conditions = replace(conditions, images=min(conditions.images, QUICK)) if manner.quick else conditions
    check(conditions)
    if manner.settled:
        settle(lambda said: show(said, 0.0))
    load = load_average()
    with _lanes(subjects, conditions, manner) as lanes:
        for lane in lanes:
            show(f"{lane.subject.label}: building it", 0.0)
            lane.facts = lane.ask("open", **_opening(lane))
            opened(lane)
        image_list = next((said["hash"] for lane in lanes if (said := lane.ask("images"))), "")
        for lane in lanes:
            show(f"{lane.subject.label}: warming up", 0.0)
            lane.warmed = lane.ask("warm", quick=manner.quick)
        seen = _take_turns(lanes, conditions.images, load, show)
    for lane in lanes:
        show(f"{lane.subject.label}: memory{', audits' if manner.audit else ''}, multiply-adds", 1.0)
        _afterwards(lane, conditions, manner)
    return Session(conditions, manner, tuple(lanes), image_list, seen)


def _opening(lane: Lane) -> dict[str, Any]:
    return {"subject": vars(lane.worker.subject), "conditions": vars(lane.worker.conditions)}


@contextmanager
def _lanes(subjects: Sequence[Subject], conditions: Conditions, manner: Manner) -> Iterator[list[Lane]]:
    """A process for each, ended whatever happens."""
    lanes: list[Lane] = []
    try:
        for subject in subjects:
            lanes.append(Lane(subject, Worker(subject, conditions, patience_s=manner.patience_s)))  # noqa: PERF401 - those begun must be ended
        yield lanes
    finally:
        for lane in lanes:
            lane.worker.close()


def _take_turns(lanes: Sequence[Lane], images: int, load: float | str, show: Show) -> Seen:
    """Every image through each detector in turn, A B A B, watched."""
    gpu = next((str(lane.facts["gpu_uuid"]) for lane in lanes if lane.facts.get("gpu_uuid")), "")
    watch = Watch([lane.worker.pid for lane in lanes], gpu, load)
    watch.begin()
    for place in range(images):
        for lane in lanes:
            said = lane.ask("measure", place=place)
            if said:
                lane.samples.append({"round": place, **said})
        if place % LOOKS == 0:
            watch.look()
        show(f"timing: image {place + 1} of {images}, {len(lanes)} in turn", (place + 1) / images)
    return watch.end()


def _afterwards(lane: Lane, conditions: Conditions, manner: Manner) -> None:
    """Peak memory in a process of its own, then the audits if asked for, and the multiply-adds last."""
    if lane.failed:
        return
    after = Lane(lane.subject, Worker(lane.subject, conditions, patience_s=manner.patience_s))
    try:
        again = after.ask("open", **_opening(after))
        if again and again["weights"] != lane.facts["weights"]:
            lane.findings.append({"audit": "names", "said": "built twice it has other weights each time, so no record can name it"})
        lane.memory = after.ask("memory")
        if manner.audit:
            lane.findings += after.ask("audits").get("findings", [])
        rois = [sample["rois"] for sample in lane.samples if sample["rois"] is not None]
        lane.macs = after.ask("macs", size=lane.warmed["input"], rois=round(median(rois)) if rois else 0)
    except UserError as error:
        after.failed = str(error)
    finally:
        after.worker.close()
    lane.notes += [f"after its timing it {after.failed}"] if after.failed else []
