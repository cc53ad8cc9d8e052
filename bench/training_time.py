"""Training times of rows against each other: every row takes a few steps in each round, in turns, on the same images; ratios of times a step.

A row's training may be several runs: "paper.teacher+separated" is the time of both, as the second starts from the first. All learn for equally many
images, so the ratio of times a step is that of whole trainings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from lightning_fabric import Fabric

from bench import machine, places
from bench.assemble import open_fabric
from bench.catalogue import built, find_paper
from bench.execute import Setup, opening
from bench.plan import Choice, Run, plan, run_id
from bench.records import Record, write_record
from bench.scales import SCALES
from bench.spec import Schedule, Tier
from bench.train import Job, train
from bench.two_samples import ratio_of_medians
from bench.types import Split, UserError

STEPS = 6  # of a row in a round; the first is left out, as it fills caches
ROUNDS = 12
Times = Mapping[str, Sequence[float]]  # row -> milliseconds a step, one number a round


@dataclass(frozen=True)
class Learner:
    """A row that learns, with what it learns from."""

    run: Run
    model: Any
    split: Split
    schedule: Schedule


def parse(names: Sequence[str]) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """Paper and rows of "paper.row" and "paper.row+row"; UserError for fewer than two, or rows of several papers."""
    split = [name.partition(".") for name in names]
    papers = {paper for paper, _, _ in split}
    if len(names) < 2 or len(papers) != 1 or not all(rows for _, _, rows in split):
        raise UserError(
            f"{' '.join(names)}: allowed: PAPER.ROW PAPER.ROW+ROW ..., two or more of one paper; the first is what others are compared to"
        )
    return papers.pop(), tuple(tuple(rows.split("+")) for _, _, rows in split)


def learners(paper: str, rows: Sequence[str], tier: Tier, fabric: Fabric) -> dict[str, Learner]:
    """Each row as its run opens; UserError names what must be run before."""
    runs = {run.id: run for run in plan([find_paper(paper)], Choice(tier, rows=tuple(rows), seeds=1))}
    found = {}
    for key in rows:
        run = runs[run_id(paper, key, 0, Choice(tier))]
        model, split = opening(run, Setup(built()), fabric.device)
        found[key] = Learner(run, model, split, _step_schedule(tier))
    return found


def _step_schedule(tier: Tier) -> Schedule:
    schedule = SCALES[tier].schedule
    return replace(schedule, warmup_images=schedule.batch)


def in_turns(fabric: Fabric, found: Mapping[str, Learner], rounds: int = ROUNDS, show: Callable[[int, int], None] = lambda *_: None) -> Times:
    """Milliseconds a step of each learner in each round; who begins changes from round to round."""
    times: dict[str, list[float]] = {key: [] for key in found}
    order = list(found)
    with TemporaryDirectory() as folder:
        for turn in range(rounds + 1):  # the first warms everything up
            for key in order[turn % len(order) :] + order[: turn % len(order)]:
                taken = _steps(fabric, found[key], Path(folder))
                if turn:
                    times[key].append(taken)
            show(turn, rounds)
    return times


def _steps(fabric: Fabric, learner: Learner, folder: Path) -> float:
    """The median of a few steps, in milliseconds; the optimizer is a new one, the weights go on."""
    stamps: list[float] = []
    batch = learner.schedule.batch
    job = Job(folder, learner.schedule, 0, stop_after=STEPS * batch, on_step=lambda *_: stamps.append(time.perf_counter()))
    train(fabric, learner.model, learner.split, job)
    return 1000 * median(after - before for before, after in pairwise(stamps))


def records_of(names: tuple[str, tuple[tuple[str, ...], ...]], times: Times, context: Mapping[str, Any], digests: Mapping[str, str]) -> list[Record]:
    """A record for what is compared, under its last row's name: milliseconds a step, and the ratio to the first."""
    paper, sums = names
    first = [sum(steps) for steps in zip(*(times[key] for key in sums[0]), strict=True)]
    found = []
    for rows in sums:
        whole = [sum(steps) for steps in zip(*(times[key] for key in rows), strict=True)]
        values = {"step_ms": median(whole)}
        if rows != sums[0]:
            ratio = ratio_of_medians(whole, first)
            values |= {"training_ratio": ratio.value, "training_ratio_low": ratio.low, "training_ratio_high": ratio.high}
        about = {**context, "against": sums[0][-1], "summed": list(rows), "rounds": len(whole), "steps": STEPS}
        name = f"{paper}.{rows[-1]}.training" + ("" if rows == sums[0] else f".to.{sums[0][-1]}")  # a session with another first row leaves it be
        samples = {"step_ms": {key: [round(one, 3) for one in times[key]] for key in rows}}
        found.append(Record(name, "training", paper, rows[-1], str(context["tier"]), 0, "ok", "", digests[rows[-1]], values, (), samples, about))
    return found


def time_training(names: Sequence[str], tier: Tier, *, rounds: int = ROUNDS, threads: int = 1) -> list[Record]:
    """Measure, keep in runs/training/<machine>/, and give the records."""
    asked = parse(names)
    fabric = open_fabric(machine.precision(), threads)
    found = learners(asked[0], tuple(dict.fromkeys(key for rows in asked[1] for key in rows)), tier, fabric)
    batch = next(iter(found.values())).schedule.batch
    context = machine.source_state() | {
        "tier": tier,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "device": str(fabric.device),
        "precision": machine.precision(),
        "threads": threads,
        "batch": batch,
    }
    records = records_of(asked, in_turns(fabric, found, rounds), context, {key: each.run.digest for key, each in found.items()})
    for record in records:
        write_record(record, places.runs() / "training" / str(record.context["machine"]["name"]) / f"{record.id}.json")
    return records
