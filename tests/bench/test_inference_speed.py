"""Faster R-CNN R50-FPN on one image of 800 x 1216 against torchvision's own model with the same weights, interleaved in one run.

Ours is timed as it learns and fused, as it is deployed on a CPU. Like with like: the same weights, image, threads, inference mode; the C library
keeps freed memory for both. The whole detection is timed, from the image as given to its boxes. In float32 the answers must be the same.
Beside each time stands what the matrix products alone would take: where they pass a limit, no code on this processor keeps it.
"""

import statistics
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torchvision_pair import photograph, torchvision_pair

from bench import machine
from bench.cost import WHOLE
from bench.meters import METERS
from bench.meters.counted import count
from bench.types import detect
from implementations.layers.fused import FusedLinear, fused

ROUNDS, WARM = 15, 3
LIMITS = {"fused float32": 0.75, "fused bfloat16": 0.30}  # of torchvision's float32 time, on two cores


@pytest.fixture(scope="module")
def work():
    machine.keep_memory()
    ours, theirs = torchvision_pair()
    image = photograph(800, 1216)

    def run(detector, dtype):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return detect(detector, [image])[0]

    forms = {"plain float32": (ours, torch.float32), "plain bfloat16": (ours, torch.bfloat16)}
    forms |= {f"fused {str(dtype).removeprefix('torch.')}": (fused(ours, dtype), dtype) for dtype in (torch.float32, torch.bfloat16)}
    return {"torchvision float32": lambda: theirs([image])[0]} | {name: partial(run, *form) for name, form in forms.items()}


def interval(ours, theirs):
    picks = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    return np.percentile(np.median(np.array(ours)[picks], 1) / np.median(np.array(theirs)[picks], 1), [2.5, 97.5])


def gemm_rate(dtype):
    """Multiply-adds a second of a large matrix product, by the faster of torch's and oneDNN's: what the arithmetic could do at most."""
    side, rates = 2048, []
    left, right = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    layer = FusedLinear(torch.nn.Linear(side, side)).to(dtype)
    for product in (lambda: left @ right, lambda: layer(left)):
        for _ in range(8):
            began = time.perf_counter()
            product()
            rates.append(side**3 / (time.perf_counter() - began))
    return max(rates)


def multiply_adds():
    """Those of the whole detection, 1e9, with the RoIs that it has here."""
    ours, _ = torchvision_pair()
    counted = count(ours.to("meta").parts(800, 1216), replace(WHOLE, rois=ours.config.rpn.proposals[1]))
    return METERS["macs_g"](counted)


@pytest.mark.bench
def test_ours_detects_faster_than_torchvision(work, capsys):
    torch.set_num_threads(machine.cores())
    seconds = {name: [] for name in work}
    with torch.inference_mode():
        other = work["torchvision float32"]()
        for mine in (work["plain float32"](), work["fused float32"]()):
            torch.testing.assert_close(mine.scores, other["scores"], atol=1e-4, rtol=0)
            torch.testing.assert_close(mine.boxes, other["boxes"], atol=1e-2, rtol=0)
        for turn in range(ROUNDS + WARM):
            for name, call in work.items():
                began = time.perf_counter()
                call()
                seconds[name] += [time.perf_counter() - began] if turn >= WARM else []
        rates = {dtype: gemm_rate(dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)}
    base, whole = seconds.pop("torchvision float32"), multiply_adds()
    lines, missed = [f"torchvision float32 {statistics.median(base) * 1e3:.0f} ms"], []
    for name, taken in seconds.items():
        dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
        ratio, (low, high) = statistics.median(taken) / statistics.median(base), interval(taken, base)
        products = whole / rates[dtype] / statistics.median(base)
        limit = LIMITS.get(name)
        said = f"ratio {ratio:.3f} [{low:.3f}, {high:.3f}], asked {limit or 'any'}, products alone {products:.3f}"
        lines.append(f"{name} {statistics.median(taken) * 1e3:.0f} ms, {said}")
        missed += [name] if limit and ratio > limit and (dtype != torch.bfloat16 or machine.precision() == "bf16-mixed") else []
    lines += [f"{whole:.0f} GMAC; a matrix product does {rate:.0f} GMAC/s in {dtype}" for dtype, rate in rates.items()]
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert not missed
