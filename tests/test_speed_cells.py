"""Cells of a printed speed: judged by the ratio to another row that was timed in turns. The records are made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import tables, verdicts
from bench.catalogue import catalogue
from bench.claims import Case
from bench.evidence import Evidence
from bench.published import read_published
from bench.records import Record
from bench.spec import Column, Paper, Row, Setting, Table
from bench.tables import compare

PUBLISHED = read_published(Path(__file__).parents[1] / "implementations" / "light_head" / "published.json")
SPEEDS = replace(PUBLISHED, tables=(PUBLISHED.table("T8"),), claims=())
SETTING = Setting("coco2014", 80, 600, 1000, "R101")
KEYS = ("other",) * 6 + ("slow", "other", "fast", "small")  # printed 11, 95 and 102 fps
ROWS = (
    Row("other", "quoted", SETTING, None, quoted="the paper quotes it"),
    *(Row(key, key, SETTING, lambda request: None, reference="" if key == "slow" else "slow") for key in ("slow", "fast", "small")),
)
BLANK = Column("", unattempted="not ours")
PAPER = Paper("light_head", "Light", ROWS, (Table("T8", KEYS, (*(BLANK,) * 3, Column("fps"), BLANK)),), ())


def timed(row, whole_ms=100.0, ratio=None, against="slow", **context):
    """A record of a row; `ratio` (value, low, high) of its time to that of `against`."""
    values = {f"{phase}_ms": whole_ms for phase in ("network", "whole")}  # nothing comes after the network
    if ratio:
        values |= {f"{phase}_ratio{end}": value for phase in ("network", "whole") for end, value in zip(("", "_low", "_high"), ratio, strict=True)}
    about = {"against": [f"light_head.{against}.paper", "w"] if ratio else [], "rois_given": 300, "quiet": "ok", "machine": {"name": "desk"}}
    about |= {"device": "cpu", "precision": "float32"}
    return Record(f"light_head.{row}.paper.latency.1", "latency", "light_head", row, "paper", 0, "ok", "", "now", values, context=about | context)


def cell(records, key, digests=None):
    found = compare(PAPER, SPEEDS, Evidence(PAPER, SPEEDS, tuple(records), (), digests))
    return next(outcome for outcome in found if outcome.key == key and outcome.kind == "latency")


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [
        ((0.115, 0.11, 0.12), "reproduced"),  # 1 / 0.115 = 8.7 times as fast, as 95 is to 11
        ((0.5, 0.45, 0.55), "direction holds"),
        ((0.99, 0.9, 1.05), "undecided"),
        ((1.5, 1.4, 1.6), "direction reversed"),
    ],
)
def test_a_speed_is_judged_by_its_ratio(ratio, outcome):
    found = cell([timed("fast", 40.0, ratio)], "fast")
    assert (found.outcome, found.tier, found.measured) == (outcome, "paper", 25.0)  # fps of 40 ms
    assert "printed 8.64" in found.reason
    assert "300 RoIs each" in found.reason


def test_printed_fps_are_of_the_forward_pass_alone_and_the_whole_detection_is_told():
    record = timed("fast", 40.0, (0.115, 0.11, 0.12))
    whole = {"whole_ms": 80.0, "whole_ratio": 0.5, "whole_ratio_low": 0.4, "whole_ratio_high": 0.6}
    found = cell([replace(record, values=dict(record.values) | whole)], "fast")
    assert (found.outcome, found.measured) == ("reproduced", 25.0)
    assert "the network alone 8.70 times as fast" in found.reason
    assert "with post-processing 2.00" in found.reason


def test_most_samples_come_first():
    few, many = timed("fast", 50.0, (0.5, 0.45, 0.55), samples=11), timed("fast", 40.0, (0.115, 0.11, 0.12), samples=64)
    assert cell([replace(few, id="a"), many], "fast").measured == 25.0


def test_the_reference_decides_nothing_by_itself():
    found = cell([timed("slow", 200.0)], "slow")
    assert (found.outcome, found.measured) == ("undecided", 5.0)
    assert "the reference" in found.reason


def test_what_was_not_timed_or_failed_says_so():
    assert cell([], "fast").reason == "fast was not timed yet: leandet time light_head.slow light_head.fast light_head.small"
    failed = replace(timed("fast"), status="failed", reason="hung", values={})
    found = cell([failed], "fast")
    assert (found.outcome, found.reason) == ("not attempted", "failed: hung")


def test_what_is_to_be_timed_in_turns_is_named_whole():
    entry = catalogue()["mimicdet"]
    found = {
        outcome.key: outcome.reason
        for outcome in compare(entry.paper, entry.published, Evidence(entry.paper, entry.published))
        if outcome.kind == "training-time"
    }
    assert found["separated-r101"].endswith(": leandet pace mimicdet.r101-800 mimicdet.teacher-r101+separated-r101")
    assert found["r50-800"].endswith(": leandet pace mimicdet.r50-800 mimicdet.teacher-r50+separated-r50 mimicdet.r101-800")


def test_equal_rois_come_first():
    own = timed("fast", 40.0, (0.115, 0.11, 0.12), rois_given=0)
    held = timed("fast", 50.0, (0.5, 0.45, 0.55))
    found = cell([own, held], "fast")
    assert (found.outcome, found.measured) == ("direction holds", 20.0)


def test_a_quiet_session_comes_before_one_with_equal_rois():
    own = replace(timed("fast", 40.0, (0.115, 0.11, 0.12), rois_given=0), id="own")
    held = timed("fast", 50.0, (0.5, 0.45, 0.55), quiet="noisy")
    assert cell([own, held], "fast").outcome == "reproduced"


def test_a_noisy_session_decides_nothing_and_stands_behind_a_quiet_one():
    noisy = timed("fast", 40.0, (0.115, 0.11, 0.12), quiet="noisy", samples=64)
    found = cell([noisy], "fast")
    assert (found.outcome, found.measured) == ("undecided", 25.0)
    assert "a noisy session decides nothing (see its marks; quiet, this would read reproduced: " in found.reason
    assert cell([noisy, replace(timed("fast", 50.0, (0.5, 0.45, 0.55), samples=11), id="quiet")], "fast").outcome == "direction holds"
    said = Case(Evidence(PAPER, SPEEDS, (noisy,))).faster("fast", "slow")
    assert (said.outcome, said.measured) == ("undecided", 1 / 0.115)
    assert "quiet, this would read reproduced: " in said.reason


def test_a_stale_time_is_said():
    record = timed("fast", 40.0, (0.115, 0.11, 0.12))
    assert cell([record], "fast", {record.id: "other"}).outcome == "stale"
    assert cell([record], "fast", {record.id: "now"}).outcome == "reproduced"


def test_the_reference_is_stale_as_any_other_and_says_that_it_was_noisy():
    record = timed("slow")
    assert cell([record], "slow", {record.id: "other"}).outcome == "stale"
    noisy = timed("slow", quiet="noisy")
    assert cell([noisy], "slow").reason.endswith("; noisy, see its marks")


def test_a_ratio_to_a_row_that_prints_no_speed_decides_nothing():
    assert cell([timed("fast", 40.0, (0.115, 0.11, 0.12), against="unprinted")], "fast").outcome == "undecided"
    assert cell([timed("small", 40.0, (0.108, 0.1, 0.11))], "small").outcome == "reproduced"  # 102 to 11 is 9.27


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [((0.98, 0.96, 1.0), "reproduced"), ((1.0, 0.98, 1.03), "reproduced"), ((1.04, 1.02, 1.07), "undecided"), ((1.08, 1.06, 1.1), "deviates")],
)
def test_as_fast_is_judged_by_how_near_to_one_the_interval_lies(ratio, outcome):
    """102 fps to 102: printed as fast, so 2 % faster is no reversal, and 8 % slower is no reproduction."""
    found = cell([timed("small", 10.0, ratio, against="small")], "small")
    assert found.outcome == outcome
    assert verdicts.same_time((1 / ratio[2], 1 / ratio[1]), 1.0)[0] == outcome


def test_rows_that_saw_other_counts_of_rois_are_not_compared():
    ratio = (0.115, 0.11, 0.12)
    few, many = timed("fast", 40.0, ratio, rois_given=0), timed("slow", 200.0, rois_given=0)
    records = [replace(few, values={**few.values, "rois": 1.0}), replace(many, values={**many.values, "rois": 1000.0})]
    found = cell(records, "fast")
    assert found.outcome == "undecided"
    assert "it saw 1 RoIs and slow 1000" in found.reason
    equal = [replace(each, values={**each.values, "rois": 990.0}) for each in records]
    assert cell(equal, "fast").outcome == "reproduced"
    assert cell([few, many], "fast").outcome == "reproduced"  # neither has RoIs to speak of


def test_where_random_weights_find_other_counts_of_boxes_the_network_alone_is_judged(monkeypatch):
    """A whole detection of 100 boxes against one of none says what suppression takes, not what the row does."""
    monkeypatch.setitem(tables.SPEEDS, "fps", ("whole", 1))
    record, reference = timed("fast", 40.0, (0.115, 0.11, 0.12)), timed("slow", 200.0)
    record = replace(record, values={**record.values, "detections": 0.0, "whole_ratio": 0.05, "whole_ratio_low": 0.04, "whole_ratio_high": 0.06})
    reference = replace(reference, values={**reference.values, "detections": 100.0})
    found = cell([record, reference], "fast")
    assert found.outcome == "reproduced"
    assert "the network alone (with random weights it finds 0 boxes and slow 100), 8.70 times as fast" in found.reason
    assert "with post-processing 20.00" in found.reason
    alike = [replace(each, values={**each.values, "detections": 90.0}) for each in (record, reference)]
    assert "with random weights" not in cell(alike, "fast").reason


def test_ratios_by_hand():
    assert verdicts.ratio((1.1, 1.3), 1.2)[0] == "reproduced"
    assert verdicts.ratio((1.1, 1.3), 2.0)[0] == "direction holds"
    assert verdicts.ratio((0.9, 1.3), 1.2)[0] == "undecided"
    assert verdicts.ratio((0.5, 0.9), 1.2)[0] == "direction reversed"


@pytest.mark.parametrize(
    ("ratio", "outcome"), [((0.25, 0.2, 0.4), "reproduced"), ((0.99, 0.9, 1.05), "undecided"), ((2.0, 1.6, 2.5), "direction reversed")]
)
def test_a_sentence_on_speed_is_judged_by_the_same_ratio(ratio, outcome):
    net = {"network_ratio": 0.5, "network_ratio_low": 0.4, "network_ratio_high": 0.8}
    record = timed("fast", 40.0, ratio)
    record = replace(record, values=dict(record.values) | net)
    found = Case(Evidence(PAPER, SPEEDS, (record,))).faster("fast", "slow")
    assert (found.outcome, found.measured) == (outcome, 1 / ratio[0])
    assert found.interval == (1 / ratio[2], 1 / ratio[1])
    assert "the net alone 2.00 [1.25, 2.50]" in found.reason
    assert "300 RoIs each" in found.reason


def test_rows_are_as_fast_where_the_worst_pair_is_in_the_form_that_is_asked_for():
    """FD beside its baseline in a runtime: 0.98 and 1.02 of its time are as fast, 1.10 is not, and a plain session answers for no runtime."""

    def beside(row, ratio, form="onnx"):
        record = timed(row, 40.0, ratio)
        at = {"against": [f"light_head.slow.paper@{form}", "w"]}
        net = {f"network_ratio{end}": 1.0 for end in ("", "_low", "_high")}
        return replace(record, row=f"{row}@{form}", values=dict(record.values) | net, context=dict(record.context) | at)

    near, nearer, far = beside("fast", (0.98, 0.97, 0.99)), beside("rapid", (1.02, 1.0, 1.03)), beside("late", (1.10, 1.08, 1.12))
    plain = replace(timed("fast", 40.0, (0.98, 0.97, 0.99)), row="fast@onnx")

    def case(*records):
        return Case(Evidence(PAPER, SPEEDS, records))

    pairs = [("fast@onnx", "slow@onnx"), ("rapid@onnx", "slow@onnx")]
    found = case(near, nearer).as_fast(pairs)
    assert (found.outcome, found.measured) == ("reproduced", 1 / 0.98)
    assert "fast@onnx 1.02 times as fast as slow@onnx" in found.reason
    late = case(near, far).as_fast([("fast@onnx", "slow@onnx"), ("late@onnx", "slow@onnx")])
    assert (late.outcome, late.measured) == ("deviates", 1 / 1.10)
    assert case(near).as_fast(pairs).outcome == "not attempted"
    assert case(plain).as_fast(pairs[:1]).outcome == "not attempted"


def test_a_sentence_on_speed_needs_both_rows_timed_in_turns():
    other = Case(Evidence(PAPER, SPEEDS, (timed("fast", 40.0, (0.5, 0.4, 0.6), against="else"), timed("slow"))))
    found = other.faster("fast", "slow")
    assert (found.outcome, found.measured) == ("not attempted", None)
    assert "leandet time light_head.slow light_head.fast" in found.reason
