"""Training times in turns: what is asked, what is kept, and how cells and sentences are judged by it."""

import pytest
import torch
from lightning_fabric import Fabric

from bench.catalogue import catalogue, find_paper
from bench.claims import decide
from bench.datasets import open_split
from bench.datasets.source import parse_data
from bench.evidence import Evidence
from bench.pacing import line, pace_rows
from bench.plan import Choice, plan
from bench.records import Record
from bench.scales import SCALES
from bench.spec import Request
from bench.tables import compare
from bench.training_time import Learner, in_turns, parse, records_of
from bench.types import UserError

ENTRY = catalogue()["mimicdet"]
NAMES = ("mimicdet", (("r50-800",), ("teacher-r50", "separated-r50")))
CONTEXT = {"tier": "proxy", "machine": {"name": "desk"}}
DIGESTS = dict.fromkeys(("r50-800", "separated-r50", "r101-800", "separated-r101"), "now")


def wobbling(step, *, by, rounds):
    """Times around a step, not in time with those of the reference."""
    return [step * (1 + 0.01 * ((i + by) % 3)) for i in range(rounds)]


def records(shared=100.0, teacher=80.0, student=110.0, backbone="r50", rounds=12):
    names = ("mimicdet", ((f"{backbone}-800",), (f"teacher-{backbone}", f"separated-{backbone}")))
    pace = {f"{backbone}-800": shared, f"teacher-{backbone}": teacher, f"separated-{backbone}": student}
    return records_of(names, {key: wobbling(step, by=key.endswith("-800"), rounds=rounds) for key, step in pace.items()}, CONTEXT, DIGESTS)


def test_words_of_the_command():
    assert parse(["mimicdet.r50-800", "mimicdet.teacher-r50+separated-r50"]) == NAMES
    for wrong in (["mimicdet.r50-800"], ["mimicdet.r50-800", "condensing.fpn-r50"], ["mimicdet", "mimicdet.r50-800"]):
        with pytest.raises(UserError, match="two or more of one paper"):
            parse(wrong)
    for threads in (-1, 10_000):
        with pytest.raises(UserError, match=f"--threads {threads}: allowed: 1 to "):
            list(pace_rows(["mimicdet.mimicdet", "mimicdet.no-t-head"], "smoke", threads))
    with pytest.raises(UserError, match="--tier 'moon'"):
        list(pace_rows(["mimicdet.r50-800", "mimicdet.light"], "moon", 1))


def test_both_trainings_count():
    shared, separated = records()
    assert (shared.row, separated.row) == ("r50-800", "separated-r50")
    assert separated.values["step_ms"] == pytest.approx(190 * 1.01)
    assert separated.values["training_ratio"] == pytest.approx(1.9)
    assert "training_ratio" not in shared.values
    assert line(shared) == "r50-800: 101 ms a step"
    low, high = (separated.values[f"training_ratio_{end}"] for end in ("low", "high"))
    assert 1.85 < low <= 1.9 <= high < 1.95
    assert line(separated) == f"teacher-r50 + separated-r50: 192 ms a step, 1.90 [{low:.2f}, {high:.2f}] times r50-800"


def judged(found, row):
    return next(
        o
        for o in compare(ENTRY.paper, ENTRY.published, Evidence(ENTRY.paper, ENTRY.published, tuple(found)))
        if o.kind == "training-time" and o.key == row
    )


@pytest.mark.parametrize(
    ("student", "word"), [(34 / 17.5 * 100 - 80, "reproduced"), (220.0, "direction holds"), (15.0, "direction reversed"), (20.5, "undecided")]
)
def test_a_training_time_is_judged_by_its_ratio(student, word):
    """Printed: 34 h against 17.5 h."""
    found = judged(records(student=student), "separated-r50")
    assert found.outcome == word
    assert "printed 1.94" in found.reason


def test_without_a_measurement_there_is_no_outcome():
    assert judged((), "separated-r50").outcome == "not attempted"
    assert judged(records(), "r50-800").outcome == "undecided"


@pytest.mark.parametrize(("student", "word"), [(120.0, "reproduced"), (60.0, "direction holds"), (10.0, "deviates")])
def test_about_half_of_the_training_time(student, word):
    """Half: 100 of 200. Both backbones must hold."""
    both = (*records(student=student), *records(backbone="r101"))
    found = {claim.key: claim for claim in decide(ENTRY.paper, ENTRY.published, Evidence(ENTRY.paper, ENTRY.published, both))}
    assert found["half-the-training-time"].outcome == word
    one = {claim.key: claim for claim in decide(ENTRY.paper, ENTRY.published, Evidence(ENTRY.paper, ENTRY.published, tuple(records())))}
    assert one["half-the-training-time"].outcome == "not attempted"


def test_a_training_time_of_other_code_is_stale():
    from bench.gather import Stored, standing

    (_, separated) = records()
    for digest, word in (("now", "direction holds"), ("later", "stale")):
        found = standing([Stored(separated, None)], digests={"mimicdet.separated-r50.proxy.s0": digest})
        cell = next(o for o in found.outcomes if o.paper == "mimicdet" and o.kind == "training-time" and o.key == "separated-r50")
        assert cell.outcome == word


def test_steps_are_taken_in_turns_and_all_are_timed():
    torch.set_num_threads(1)
    paper, split = find_paper("mimicdet"), open_split(parse_data("scenes-v1"), "train")
    runs = {run.row: run for run in plan([paper], Choice("smoke", rows=("no-t-head", "mimicdet"), seeds=1)) if run.kind == "train"}
    found = {}
    for key in ("no-t-head", "mimicdet"):
        row = paper.row(key)
        model = row.build(Request(row.setting, SCALES["smoke"], len(split.classes)), **row.arguments)
        found[key] = Learner(runs[key], model, split, SCALES["smoke"].schedule)
    before = {name: p.detach().clone() for name, p in found["mimicdet"].model.named_parameters() if name.startswith("regions.")}
    seen = []
    times = in_turns(Fabric(accelerator="cpu", devices=1), found, 2, lambda turn, rounds: seen.append((turn, rounds)))
    assert {key: len(steps) for key, steps in times.items()} == {"no-t-head": 2, "mimicdet": 2}
    assert all(step > 0 for steps in times.values() for step in steps)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    after = dict(found["mimicdet"].model.named_parameters())
    assert all(not torch.equal(tensor, after[name]) for name, tensor in before.items() if name.endswith("weight"))


def test_sessions_with_another_first_row_stand_beside_each_other():
    """Both of Table 5's commands time the R101 row, once to the R50 row and once as the first."""
    to_r50 = Record("mimicdet.r101-800.training.to.r50-800", "training", "mimicdet", "r101-800", "proxy", 0, "ok", "", "", {"training_ratio": 1.5})
    first = Record("mimicdet.r101-800.training", "training", "mimicdet", "r101-800", "proxy", 0, "ok", "", "", {"step_ms": 10.0})
    evidence = Evidence(ENTRY.paper, ENTRY.published, (first, to_r50))
    assert evidence.training("r101-800") is to_r50
    assert {record.id for record in records()} == {"mimicdet.r50-800.training", "mimicdet.separated-r50.training.to.r50-800"}


def test_what_is_to_be_timed_for_the_sentence_is_a_whole_command():
    found = {claim.key: claim for claim in decide(ENTRY.paper, ENTRY.published, Evidence(ENTRY.paper, ENTRY.published, ()))}
    assert found["half-the-training-time"].reason.endswith("leandet pace mimicdet.r50-800 mimicdet.teacher-r50+separated-r50")
