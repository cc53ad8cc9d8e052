"""The sentences of Compressed Object Detection on accuracy, decided on records and differences made by hand."""

from dataclasses import replace

import pytest

from bench.catalogue import catalogue
from bench.claims import decide
from bench.evidence import Difference, Evidence
from bench.records import Record

ENTRY = catalogue()["compression"]
FALLING = {"dense": 60.0, "both-30": 55.0, "both-40": 50.0, "both-50": 45.0, "both-70": 30.0, "both-80": 12.0, "both-90": 0.1}
LOW = ("backbone-10", "backbone-20", "backbone-30")
CPU, GPU = ({"data": "scenes-v1", "machine": {"name": name}} for name in ("a-cpu", "a-gpu"))


def runs(values, *, seeds=range(5), context=CPU, gain=0.3):
    """Of each row five seeds a tenth of a point apart, and a plateau proof of those that learn."""
    blank = Record("", "train", "compression", "", "proxy", 0, "ok", "", "now", {}, context=context)
    found = [
        replace(blank, id=f"compression.{row}.proxy.s{seed}", row=row, seed=seed, values={"ap": value + seed / 10})
        for row, value in values.items()
        for seed in seeds
    ]
    if "dense" in values:
        proof = replace(blank, id="compression.dense.proxy.s0.plateau", kind="plateau", row="dense", values={"ap": values["dense"] + gain})
        found.append(proof)
    return found


def gap(row, low, high):
    return Difference("compression", row, "dense", "ap", "proxy", (low + high) / 2, (low, high), 5, 0.7)


def said(records, differences=()):
    found = decide(ENTRY.paper, ENTRY.published, Evidence(ENTRY.paper, ENTRY.published, tuple(records), tuple(differences)))
    return {claim.key: claim for claim in found}


def flat(*gaps, records=None):
    return said(records or runs({"dense": 60.0} | dict.fromkeys(LOW, 60.0)), gaps)["flat-to-30"]


def test_flat_only_where_all_three_are():
    inside = [gap(row, -0.4, 0.3) for row in LOW]
    assert flat(*inside).outcome == "reproduced"
    assert flat(*inside[:2], gap("backbone-30", -1.3, -0.2)).outcome == "undecided"


def test_the_worst_of_the_three_decides_and_is_named():
    found = flat(gap("backbone-10", -1.5, 0.5), gap("backbone-20", -0.4, 0.3), gap("backbone-30", -6.0, -4.0))
    assert found.outcome == "deviates"
    assert found.reason.startswith("backbone-30: ")
    assert found.interval == (-6.0, -4.0)


def test_flat_needs_five_seeds_and_a_plateau():
    inside = [gap(row, -0.4, 0.3) for row in LOW]
    assert flat(*inside, records=runs({"dense": 60.0} | dict.fromkeys(LOW, 60.0), seeds=range(4))).outcome == "undecided"
    assert flat(*inside, records=runs({"dense": 60.0} | dict.fromkeys(LOW, 60.0), gain=1.4)).outcome == "undertrained"


def test_low_sparsity_beats_dense_only_above_zero():
    records = runs({"dense": 60.0, "backbone-20": 60.5})
    outcomes = {
        interval: said(records, [gap("backbone-20", *interval)])["low-sparsity-beats-dense"].outcome for interval in ((0.1, 0.9), (-0.2, 0.9))
    }
    assert list(outcomes.values()) == ["reproduced", "undecided"]


def test_eight_bits_keep_accuracy_within_a_point():
    records = runs({"dense": 60.0, "int8": 59.8})
    assert said(records, [gap("int8", -0.5, 0.1)])["8-bits-keep-accuracy"].outcome == "reproduced"
    assert said(records, [gap("int8", -3.0, -2.0)])["8-bits-keep-accuracy"].outcome == "deviates"


def test_it_falls_at_every_step_and_collapses():
    found = said(runs(FALLING))["falls-and-collapses"]
    assert found.outcome == "reproduced"
    assert "falls in 5 of 5 seeds" in found.reason


@pytest.mark.parametrize("changed", [{"both-50": 52.0}, {"both-90": 4.0}], ids=["it rises once", "more than a twentieth is left"])
def test_a_curve_of_another_shape_deviates(changed):
    assert said(runs(FALLING | changed))["falls-and-collapses"].outcome == "deviates"


def test_one_seed_that_rises_is_enough():
    records = runs(FALLING, seeds=range(4)) + [each for each in runs(FALLING | {"both-50": 52.0}) if each.seed == 4 and each.kind == "train"]
    found = said(records)["falls-and-collapses"]
    assert found.outcome == "deviates"
    assert "falls in 4 of 5 seeds" in found.reason


def test_steps_between_are_held_to_the_same_rules():
    """One seed in the middle, or rows that stand on two machines alone, decide nothing."""
    ends = {row: value for row, value in FALLING.items() if row in {"dense", "both-30", "both-90"}}
    middle = {row: value for row, value in FALLING.items() if row not in ends}
    assert said(runs(ends) + runs(middle, seeds=range(1)))["falls-and-collapses"].outcome == "undecided"
    assert said(runs(ends) + runs(middle, context=GPU))["falls-and-collapses"].outcome == "not attempted"
    assert said(runs(FALLING, gain=1.4))["falls-and-collapses"].outcome == "undertrained"
