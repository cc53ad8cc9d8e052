"""MimicDet's speed: its student against RetinaNet of the same backbone and size, and training with a teacher against training without, interleaved.

The first is at paper scale in float32: the same images, threads, batch and size rule, random weights for both. These favour RetinaNet, as none of its
scores passes its threshold while all of MimicDet's 1000 boxes are decoded and suppressed. The form that aligns at the kept positions alone is held
against RetinaNet with oneDNN's kernels.
"""

import statistics
import time

import pytest
import torch

from bench import machine
from bench.assemble import open_fabric
from bench.catalogue import find_paper
from bench.datasets import open_split
from bench.datasets.source import parse_data
from bench.plan import Choice, plan
from bench.scales import SCALES
from bench.spec import Request
from bench.training_time import Learner, in_turns
from bench.types import detect
from implementations.baselines.retinanet import retinanet
from implementations.layers.backbones import freeze
from implementations.layers.fused import available, fused
from implementations.mimicdet.deployment import kept

PAPER = find_paper("mimicdet")
ROUNDS = 7
LATENCY, TRAINING = 1.3, 2.2  # at most so many times


def pair():
    """The student and RetinaNet of the same backbone and size."""
    row = PAPER.row("deployed-r50-800")
    request = Request(row.setting, SCALES["paper"], 80)
    torch.manual_seed(0)
    return {"MimicDet": row.build(request, **row.arguments).eval(), "RetinaNet": retinanet(request).eval()}


def timed(run):
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@pytest.mark.bench
@pytest.mark.parametrize("form", ["as they learn", "deployed"])
def test_the_student_detects_nearly_as_fast_as_retinanet(form):
    torch.set_num_threads(machine.cores())
    scenes = open_split(parse_data("scenes-v1"), "test")
    image = torch.nn.functional.interpolate(scenes.image(0)[None], (600, 1000), mode="bilinear")[0]
    both = pair()
    if form == "deployed":
        if not available():
            pytest.skip("this build of torch has no oneDNN")
        both = {"MimicDet": kept(both["MimicDet"]), "RetinaNet": fused(both["RetinaNet"])}
    times = {name: [] for name in both}
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):
            for name, detector in both.items():
                seconds = timed(lambda detector=detector: detect(detector, [image]))
                times[name] += [seconds] if turn else []
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    print(medians, medians["MimicDet"] / medians["RetinaNet"])
    assert medians["MimicDet"] / medians["RetinaNet"] <= LATENCY


@pytest.mark.bench
def test_a_teacher_does_not_double_the_training_by_much():
    fabric = open_fabric(machine.precision(), 1)
    split = open_split(parse_data("scenes-v1"), "train")
    runs = {run.row: run for run in plan([PAPER], Choice("proxy", rows=("no-t-head", "mimicdet"), seeds=1)) if run.kind == "train"}
    found = {}
    for key in ("no-t-head", "mimicdet"):
        row = PAPER.row(key)
        torch.manual_seed(0)
        model = row.build(Request(row.setting, SCALES["proxy"], len(split.classes)), **row.arguments)
        freeze(model.backbone, 2)  # as a run has them
        found[key] = Learner(runs[key], model, split, SCALES["proxy"].schedule)
    medians = {key: statistics.median(steps) for key, steps in in_turns(fabric, found, ROUNDS).items()}
    print(medians, medians["mimicdet"] / medians["no-t-head"])
    assert medians["mimicdet"] / medians["no-t-head"] <= TRAINING
