"""From folders to evidence: predictions beside records, differences paired by seed and image, digests of now."""

from dataclasses import replace

import numpy as np
import pytest
from stored_runs import write_runs

from bench import derive, gather
from bench.catalogue import built
from bench.datasets import open_split, parse_data
from bench.evidence import Evidence
from bench.records import Record, write_record

SEEDS = 2


@pytest.fixture(scope="module")
def truth():
    return open_split(parse_data("scenes-v1"), "test").ground_truth()


@pytest.fixture(scope="module")
def folder(truth, tmp_path_factory):
    """Two rows of two seeds: the baseline finds every object, K16 L5 seven in ten, each exactly."""
    place = tmp_path_factory.mktemp("records")
    shares = {"fpn-r50": 1.0, "k16-l5": 0.7}
    draws = {seed: np.random.default_rng([seed, 1]).random(len(truth.boxes)) for seed in range(SEEDS)}
    write_runs(place, truth, [(row, seed, draw < share) for row, share in shares.items() for seed, draw in draws.items()])
    return place


def test_records_are_read_with_the_predictions_beside_them(folder, tmp_path):
    found = gather.read_stored(folder)
    assert [each.record.id for each in found] == [f"condensing.{row}.proxy.s{seed}" for row in ("fpn-r50", "k16-l5") for seed in range(SEEDS)]
    assert all(each.predictions is not None for each in found)
    record = replace(found[0].record, id="alone")
    write_record(record, tmp_path / "alone" / "record.json")
    (alone,) = gather.read_stored(tmp_path)
    assert (alone.record, alone.predictions) == (record, None)


def test_what_a_derive_step_kept_beside_a_record_is_no_record(folder, tmp_path):
    assert gather.DERIVED == derive.DERIVED
    write_record(gather.read_stored(folder)[0].record, tmp_path / "run" / "record.json")
    derive.keep({"scale_averages": {"val": {"R31_h": 1.5}}}, tmp_path / "run")
    assert (tmp_path / "run" / derive.DERIVED).exists()
    assert len(gather.read_stored(tmp_path)) == 1


def test_a_difference_is_that_of_the_scores_and_turns_when_weights_are_swapped(folder):
    stored = gather.read_stored(folder)
    found = {difference.measure: difference for difference in gather.differences(stored)}
    assert set(found) == {"voc_ap50"}  # what the tables on VOC print
    means = {row: np.mean([e.record.values["voc_ap50"] for e in stored if e.record.row == row]) for row in ("fpn-r50", "k16-l5")}
    paired = found["voc_ap50"]
    assert (paired.row, paired.reference, paired.seeds) == ("k16-l5", "fpn-r50", SEEDS)
    assert paired.value == pytest.approx(means["k16-l5"] - means["fpn-r50"], abs=1e-6)
    assert paired.interval[0] < paired.value < paired.interval[1] < -20  # three in ten objects are missed
    other = {"fpn-r50": "k16-l5", "k16-l5": "fpn-r50"}
    swapped = [replace(each, record=replace(each.record, row=other[each.record.row])) for each in stored]
    turned = {difference.measure: difference for difference in gather.differences(swapped)}["voc_ap50"]
    assert turned.value == pytest.approx(-paired.value, abs=1e-6)
    assert turned.interval[0] > 20


def test_runs_on_other_images_are_not_paired(folder):
    stored = gather.read_stored(folder)
    other = [
        replace(e, record=replace(e.record, context={**e.record.context, "data_digest": "x"})) if e.record.row == "k16-l5" else e for e in stored
    ]
    assert gather.differences(other) == ()


def elsewhere(stored, row, **context):
    return [replace(e, record=replace(e.record, context={**e.record.context, **context})) if e.record.row == row else e for e in stored]


def test_a_transform_is_paired_with_the_weights_it_was_made_from_wherever_it_was_made(folder):
    stored, here = gather.read_stored(folder), {"machine": {"name": "laptop"}}
    assert gather.differences(elsewhere(stored, "k16-l5", **here)) == ()  # trained there: other weights
    carried = elsewhere(elsewhere(stored, "k16-l5", trained_on="desk", **here), "fpn-r50", machine={"name": "desk"})
    assert [found.value for found in gather.differences(carried)] == [found.value for found in gather.differences(stored)]


def test_what_a_paper_compares_beside_references_is_paired_too(folder, monkeypatch):
    paper = replace(built()["condensing"], compared=(("fpn-r50", "k16-l5"),))
    monkeypatch.setattr(gather, "built", lambda: {"condensing": paper})
    found = {(each.row, each.reference): each for each in gather.differences(gather.read_stored(folder))}
    assert set(found) == {("k16-l5", "fpn-r50"), ("fpn-r50", "k16-l5")}
    assert found["fpn-r50", "k16-l5"].value == pytest.approx(-found["k16-l5", "fpn-r50"].value)


def test_one_seed_has_no_interval(folder):
    assert gather.differences([each for each in gather.read_stored(folder) if each.record.seed == 0]) == ()


def test_a_standing_of_a_folder(folder):
    found = {(o.table, o.key): o for o in gather.standing(gather.read_stored(folder)).outcomes}
    assert found["T2", "k16-l5"].difference < -20
    assert found["T2", "k16-l5"].outcome == "undertrained"  # never continued


def test_digests_of_now_name_each_cost_and_each_proxy_run():
    found = gather.current_digests()
    paper = built()["condensing"]
    assert {f"condensing.{row.key}.cost" for row in paper.rows} <= set(found)
    assert {f"condensing.k16-l5.proxy.s{seed}" for seed in range(5)} <= set(found)
    record = Record("condensing.fpn-r50.cost", "cost", "condensing", "fpn-r50", "", 0, "ok", "", found["condensing.fpn-r50.cost"], {})
    evidence = Evidence(None, None, (record,), digests=found)
    assert not evidence.stale(record)
    assert evidence.stale(replace(record, digest="other"))
