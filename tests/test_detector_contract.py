"""The contract over each installed adapter's detectors, and over a detector for each fault that it must find."""

from __future__ import annotations

import pytest
import torch
from faulty import FAULTS, Good

from bench.adapters import build_adapted, find_adapter
from bench.contract import examine

CLASSES = 3
QUICK = ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn")
TORCHVISION = [pytest.param(f"torchvision:{name}", marks=[] if name in QUICK else pytest.mark.slow) for name in find_adapter("torchvision").names()]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def states(findings):
    return {each.rule: each.state for each in findings}


def test_a_detector_that_keeps_it():
    found = examine(Good(), CLASSES)
    assert {each.state for each in found} == {"ok"}, [each for each in found if each.state != "ok"]
    assert len(found) == 17


@pytest.mark.parametrize(("rule", "place"), [(rule, place) for rule, made in FAULTS.items() for place in range(len(made))])
def test_each_fault_is_found_and_what_mends_it_said(rule, place):
    broken = {each.rule: each for each in examine(FAULTS[rule][place](), CLASSES) if each.state == "broken"}
    assert rule in broken, broken
    assert broken[rule].said
    assert broken[rule].mend
    assert "\n" not in broken[rule].said


def test_what_was_not_seen_is_not_called_good():
    class Blind(Good):
        def found(self, seen, size):
            one = super().found(seen, size)
            return type(one)(one.boxes[:0], one.scores[:0], one.labels[:0])

    found = states(examine(Blind(), CLASSES))
    assert found["labels 0..C-1"] == found["pixels of the image as given"] == "not seen"
    assert "broken" not in found.values()


def test_an_inference_only_detector_says_why_it_does_not_learn():
    class Mute:
        why_not = "it is a graph"

        def __init__(self):
            good = Good().eval()
            self.prepare, self.network, self.finish = good.prepare, good.network, good.finish

    (losses,) = [each for each in examine(Mute(), CLASSES) if each.rule == "losses"]
    assert losses.said == "inference only: it is a graph"


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_detectors_keep_it(name):
    size = None if "ssd300" in name else (96, 128)
    found = examine(build_adapted(name, classes=CLASSES, size=size, score=0.0), CLASSES, (96, 128))
    assert "broken" not in states(found).values(), [each for each in found if each.state == "broken"]
    assert states(found)["labels 0..C-1"] == states(found)["boxes inside the image"] == "ok"
    learns = "maskrcnn" not in name and "keypointrcnn" not in name
    assert ("losses reach every trainable parameter" in states(found)) == learns
