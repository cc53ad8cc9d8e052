"""Every audit says nothing against an honest detector, and finds the fault that is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import audits
from bench.datasets import open_split, parse_data
from bench.detectors import load_module, weights_hash
from bench.meters.latency import open_runtime, time_image
from bench.records import Record
from bench.timing_records import key
from bench.types import Detections

planted = load_module(Path(__file__).with_name("planted.py"))


@pytest.fixture(scope="module")
def images():
    torch.set_num_threads(1)
    split = open_split(parse_data("scenes-v1"), "test")
    return [split.image(index) for index in range(6)]


@pytest.fixture(scope="module")
def runtime():
    return open_runtime("cpu", "float32")


def test_an_honest_detector_has_nothing_to_hide(images, runtime):
    assert audits.audit(planted.Honest().eval(), images, runtime) == ()


PLANTED = [
    (planted.Remembering, "repeats"),
    (planted.Forgetful, "repeats"),
    (planted.TwoFaced, "accuracy"),
    (planted.Mixing, "batch"),
    (planted.Drifting, "order"),
]


@pytest.mark.parametrize(("kind", "audit"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_is_found(images, runtime, kind, audit):
    found = audits.audit(kind().eval(), images, runtime)
    assert audit in {finding.audit for finding in found}, found


@pytest.mark.parametrize(("kind", "audit"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_each_audit_finds_its_own_fault_alone(images, runtime, kind, audit):
    detector = kind().eval()
    if audit == "accuracy":
        timed = [time_image(detector, image, runtime)[1] for image in images]
        found = audits.accuracy(timed, audits.scored(detector, images, runtime))
    else:
        found = getattr(audits, audit)(detector, images, runtime)
    assert {finding.audit for finding in found} == {audit}


def latency(weights: str, name: str = "one") -> Record:
    return Record(name, "latency", "p", "r", "paper", 0, "ok", "", "d", {}, context={"weights": weights})


def test_two_detectors_of_one_name_must_not_share_a_record():
    assert audits.names([latency("a"), latency("a"), latency("b", "two")]) == ()
    (found,) = audits.names([latency("a"), latency("b")])
    assert found.audit == "names"
    assert "2 detectors" in found.said


def test_a_record_is_keyed_by_the_weights():
    """The names of records keyed by their weights pass the audit; keyed without them they would not."""
    hashes = [weights_hash(planted.Honest(seed)) for seed in (0, 1, 0)]
    assert hashes[0] == hashes[2] != hashes[1]
    about = dict.fromkeys(
        ("image_list", "images", "device", "gpu", "precision", "threads", "rois_given", "memory_format", "quick", "against"), ""
    ) | {"machine": {"name": "m"}, "versions": {"torch": "2"}}
    keys = [key(about | {"weights": each}) for each in hashes]
    assert keys[0] == keys[2] != keys[1]
    assert audits.names(replace(latency(each), id=f"fast.{found}") for each, found in zip(hashes, keys, strict=True)) == ()
    assert audits.names(replace(latency(each), id="fast") for each in hashes)


def one(box, score, label):
    return Detections(torch.tensor([box], dtype=torch.float32), torch.tensor([score]), torch.tensor([label]))


@pytest.mark.parametrize(
    ("other", "lost"),
    [
        (one([0.5, 0, 10, 10], 0.9, 1), 0),
        (one([0, 0, 12, 10], 0.9, 1), 1),
        (one([0, 0, 10, 10], 0.8, 1), 1),
        (one([0, 0, 10, 10], 0.9, 2), 1),
        (Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)), 1),
    ],
)
def test_a_counterpart_is_alike_in_box_score_and_label(other, lost):
    assert audits.unmatched(one([0, 0, 10, 10], 0.9, 1), other) == lost


def test_a_hash_covers_every_weight():
    detector = planted.Honest()
    before = weights_hash(detector)
    with torch.no_grad():
        detector.conv.bias[0] += 1e-6
    assert weights_hash(detector) != before
