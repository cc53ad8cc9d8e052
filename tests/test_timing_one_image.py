"""Timing one image: the spans of the three phases, when warm-up ends, peak memory, and RoI counts held equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.datasets import open_split, parse_data
from bench.detectors import build, load_module
from bench.meters import latency
from bench.meters.latency import memory_format, open_runtime, running, slope, time_image, warm_up
from bench.meters.rois import count_rois, hold_rois, most_rois, random_boxes
from bench.subjects import Subject
from bench.types import UserError

PLANTED = Path(__file__).with_name("planted.py")
planted = load_module(PLANTED)


@pytest.fixture(scope="module")
def image():
    torch.set_num_threads(1)
    return open_split(parse_data("scenes-v1"), "test").image(0)


# ---- one image


class Slow(planted.Honest):
    """Each phase sleeps for a time of its own."""

    def prepare(self, images):
        latency.time.sleep(0.01)
        return super().prepare(images)

    def network(self, batch):
        latency.time.sleep(0.03)
        return super().network(batch)

    def finish(self, raw):
        latency.time.sleep(0.02)
        return super().finish(raw)


def test_the_three_phases_are_timed_apart(image):
    timed, found = time_image(Slow(), image, open_runtime("cpu", "float32"))
    assert 10 <= timed.prepare_ms < 20 <= timed.finish_ms < 30 <= timed.network_ms < 60
    assert timed.whole_ms == pytest.approx(timed.prepare_ms + timed.network_ms + timed.finish_ms)
    assert (timed.rois, timed.detections, len(found.scores)) == (64, 8, 8)


def test_the_precision_is_that_of_the_runtime(image, monkeypatch):
    monkeypatch.setattr("bench.machine.cpu_flags", lambda: {"avx512_bf16"})
    with running(open_runtime("cpu", "bfloat16")):
        assert planted.Honest().conv(image[None]).dtype == torch.bfloat16
    with running(open_runtime("cpu", "float32")):
        assert planted.Honest().conv(image[None]).dtype == torch.float32


def test_a_precision_that_the_device_lacks_is_named(monkeypatch):
    monkeypatch.setattr("bench.machine.cpu_flags", lambda: {"avx512_bf16"})
    with pytest.raises(UserError, match=r"--precision float16.*allowed here: float32, bfloat16"):
        open_runtime("cpu", "float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_where_none_is(monkeypatch):
    with pytest.raises(UserError, match=r"--device cuda: torch finds no GPU here; allowed: cpu"):
        open_runtime("cuda", "float32")
    assert open_runtime("auto", "float32").device.type == "cpu"


def test_a_slope_by_hand():
    """Ten samples that rise by one each from 100: 9 of a mean of 104.5."""
    assert slope([100.0 + i for i in range(10)]) == pytest.approx(9 / 104.5)
    assert slope([5.0] * 10) == 0


def test_warm_up_ends_when_the_last_ten_are_level():
    times = iter([100.0, 80, 60, 40, 20] + [10.0] * 40)
    found = warm_up(lambda: next(times))
    assert found.steady
    assert found.samples_ms[-10:] == (10.0,) * 10  # with 20 still among the ten the line falls by far more than 5 %
    assert len(found.samples_ms) == 15
    rising = iter(range(10, 1000, 10))
    ended = warm_up(lambda: float(next(rising)), most=30)
    assert (ended.steady, len(ended.samples_ms)) == (False, 30)


def test_memory_formats():
    assert memory_format(torch.zeros(1, 3, 4, 4)) == "contiguous"
    assert memory_format(torch.zeros(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)) == "channels_last"


LARGE = """
import sys, torch
from pathlib import Path
from bench.detectors import load_module
from bench.meters.latency import open_runtime
from bench.meters.memory import peak_memory
planted = load_module(Path(sys.argv[1]))

class Large(planted.Honest):
    def network(self, batch):
        torch.ones(60_000_000 // 4)
        return super().network(batch)

found = peak_memory(Large(), [torch.zeros(3, 64, 64)], open_runtime("cpu", "float32"))
print(found["peak_memory_mb"] - found["resting_memory_mb"])
"""


def test_peak_memory_sees_a_large_tensor():
    """In a process of its own, as the meter has it: one that has freed much before would be given that again."""
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", LARGE, str(PLANTED)], capture_output=True, text=True, check=True).stdout
    assert 55 <= float(said) < 200


# ---- RoI counts held equal


@pytest.fixture(scope="module")
def two_stage():
    return build(Subject("condensing.fpn-r50", "proxy"), "scenes-v1", 10)


def test_random_regions_are_inside_and_the_same_each_time():
    boxes = random_boxes(1000)
    assert torch.equal(boxes, random_boxes(1000))
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() > 0.029
    assert 0.15 < sides.median() < 0.2  # log-uniform from 0.03 to 1: the root of 0.03 in the middle


def test_a_detector_sees_as_many_rois_as_it_is_given(two_stage, image):
    runtime = open_runtime("cpu", "float32")
    assert most_rois(two_stage) == 100
    seen = []
    own = two_stage.propose
    two_stage.propose = lambda *given, **named: seen.append(1) or own(*given, **named)
    hold_rois(two_stage, 37)
    timed, _ = time_image(two_stage, image, runtime)
    assert timed.rois == 37
    assert seen == [1]  # its proposal network still did its work
    with running(runtime):
        raw = two_stage.network(two_stage.prepare([image]))
    size = torch.tensor(raw.sizes[0], dtype=torch.float32).flip(0).repeat(2)
    assert torch.allclose(raw.answers.rois[:, 1:], random_boxes(37) * size)
    del two_stage.propose


def test_more_rois_than_the_model_gives(two_stage):
    with pytest.raises(UserError, match=r"--rois 101: more than the model gives.*1 to 100"):
        hold_rois(two_stage, 101)
    with pytest.raises(UserError, match=r"--rois 5: this detector has no proposals"):
        hold_rois(planted.Honest(), 5)
    assert count_rois(object()) is None
