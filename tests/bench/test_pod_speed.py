"""What learning scales costs: a training step and its memory against the baseline's, and the averages of 500 images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

HERE = Path(__file__).parents[2]
STEPS = 5
SCRIPT = """
import json, resource, sys, time
from dataclasses import replace
import torch
torch.set_num_threads(int(sys.argv[2]))
from bench.assemble import build_detector
from bench.catalogue import find_paper
from bench.datasets import open_split, parse_data
from bench.scales import SCALES
from implementations.layers.backbones import freeze
from implementations.pod.averages import scale_averages

row, split = find_paper("pod").row(sys.argv[1]), open_split(parse_data("scenes-v1"), "train")
detector = build_detector(row, SCALES["proxy"], len(split.classes), seed=0).train()
freeze(detector.backbone, 2)
with torch.no_grad():
    for name, tensor in detector.named_parameters():
        if name.endswith("predictor.linear.bias"):
            tensor.fill_(1.4)
images, targets = [split.image(i) for i in range(8)], [replace(split.target(i), seed=i) for i in range(8)]
optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], lr=1e-4, fused=True)
clock = time.process_time if sys.argv[2] == "1" else time.perf_counter  # of two threads one waits for the other
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, seconds = peak(), []
for _ in range(int(sys.argv[3]) + 1):
    began = clock()
    with torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[4] == "bfloat16"):
        loss = sum(detector(images, targets).values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    seconds.append(clock() - began)
found = {"seconds": seconds[1:], "memory_mb": peak(), "before_mb": before}
if "gsl" in sys.argv[1]:
    began = time.process_time()
    scale_averages(detector.eval(), [images] * 4)
    found["average_500_s"] = (time.process_time() - began) * 500 / 32
print(json.dumps(found))
"""


def measured(key, precision, threads=1):
    """Time of each step, of one thread the processor's, so that other programs count for little; and the peak of a process of its own."""
    command = [sys.executable, "-c", SCRIPT, key, str(threads), str(STEPS), precision]
    said = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])


@pytest.mark.bench
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("base", ["c4", "fpn", "retina"])
def test_learning_scales_costs_at_most_twice_the_step_and_one_and_a_half_times_the_memory(base, precision, threads):
    plain, gsl = (measured(f"{base}-r50{end}", precision, threads) for end in ("", "-gsl"))
    slower = median(gsl["seconds"]) / median(plain["seconds"])
    larger = gsl["memory_mb"] / plain["memory_mb"]
    own = (gsl["memory_mb"] - gsl["before_mb"]) / (plain["memory_mb"] - plain["before_mb"])
    said = f"{slower:.2f} times the step, {larger:.2f} times the memory of the process, {own:.2f} of what the step itself adds"
    print(f"{base} {precision}, threads {threads}: {said}; 500 images' averages {gsl['average_500_s']:.1f} s")
    print(plain, gsl)
    assert slower <= 2.0
    assert larger <= 1.5
    assert gsl["average_500_s"] < 60
