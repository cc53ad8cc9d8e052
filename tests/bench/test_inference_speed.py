"""Faster R-CNN R50-FPN on one image of 800 x 1216 against torchvision's own model with the same weights, interleaved in one run.

Like with like: the same weights, image, threads, inference mode; the C library keeps freed memory for both. The whole detection is timed, from the
image as given to its boxes. In float32 the answers must be the same; in bfloat16 it is said how far they are apart.
"""

import statistics
import time

import numpy as np
import pytest
import torch
from torchvision_pair import photograph, torchvision_pair

from bench import machine
from bench.types import detect

ROUNDS, WARM = 15, 3
LIMITS = {"ours float32": 0.75, "ours bfloat16": 0.30}  # of torchvision's float32 time, on two cores


@pytest.fixture(scope="module")
def work():
    machine.keep_memory()
    ours, theirs = torchvision_pair()
    image = photograph(800, 1216)

    def bfloat16():
        with torch.autocast("cpu", torch.bfloat16):
            return detect(ours, [image])[0]

    return {"torchvision float32": lambda: theirs([image])[0], "ours float32": lambda: detect(ours, [image])[0], "ours bfloat16": bfloat16}


def interval(ours, theirs):
    picks = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    return np.percentile(np.median(np.array(ours)[picks], 1) / np.median(np.array(theirs)[picks], 1), [2.5, 97.5])


def gemm_rate(dtype):
    """Multiply-adds a second of a large matrix product: what the arithmetic could do at most."""
    side, seconds = 2048, []
    left, right = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    for _ in range(8):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return side**3 / min(seconds)


@pytest.mark.bench
def test_ours_detects_faster_than_torchvision(work, capsys):
    torch.set_num_threads(machine.cores())
    seconds = {name: [] for name in work}
    with torch.inference_mode():
        mine, other = work["ours float32"](), work["torchvision float32"]()
        torch.testing.assert_close(mine.scores, other["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(mine.boxes, other["boxes"], atol=1e-2, rtol=0)
        for turn in range(ROUNDS + WARM):
            for name, call in work.items():
                began = time.perf_counter()
                call()
                seconds[name] += [time.perf_counter() - began] if turn >= WARM else []
        rates = {dtype: gemm_rate(dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)}
    base = seconds.pop("torchvision float32")
    lines, missed = [f"torchvision float32 {statistics.median(base) * 1e3:.0f} ms"], []
    for name, taken in seconds.items():
        ratio, (low, high) = statistics.median(taken) / statistics.median(base), interval(taken, base)
        lines.append(f"{name} {statistics.median(taken) * 1e3:.0f} ms, ratio {ratio:.3f} [{low:.3f}, {high:.3f}], allowed {LIMITS[name]}")
        missed += [name] if ratio > LIMITS[name] and (name != "ours bfloat16" or machine.precision() == "bf16-mixed") else []
    rate = ", ".join(f"{str(dtype).removeprefix('torch.')} {found:.0f} GMAC/s" for dtype, found in rates.items())
    with capsys.disabled():
        print("\n" + "\n".join([*lines, f"matrix products: {rate}"]))
    assert not missed
