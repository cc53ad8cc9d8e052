"""Faster R-CNN R50-FPN on int8 kernels against its float32 self on one image of 800 x 1216, interleaved in one run on the CPU.

Like with like: the same detector, image, threads, proposals, inference mode. Where int8 takes more than is allowed, the profile says what takes it.
"""

import copy
import statistics
import time

import numpy as np
import pytest
import torch
from torchvision_pair import photograph

from bench import machine
from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import detect
from implementations.compression.eight_bits import EightBits
from implementations.compression.model import Compression, build_dense, compress

ROUNDS, WARM = 15, 3
ALLOWED = 0.5  # of the float32 time
SIZE = (800, 1216)
MOST = 12  # operators of a profile


def pair(size):
    """The detector with random weights, and the same on int8 kernels, calibrated on the image that is timed."""
    machine.keep_memory()
    torch.manual_seed(0)
    dense = build_dense(Request(Setting("voc", 20, *size, "R50"), SCALES["paper"], 20)).eval()
    int8, image = compress(copy.deepcopy(dense), Compression(precision="int8")), photograph(*size)
    int8.compression = EightBits(int8.compression)  # as its row is deployed: the ranges of a layer's uses joined
    int8.compression.calibrate(int8, [image])
    return {"float32": dense, "int8": int8}, image


def timed(detectors, image, rounds):
    """Seconds of each detector, in turns."""
    seconds = {name: [] for name in detectors}
    with torch.inference_mode():
        for turn in range(rounds + WARM):
            for name, detector in detectors.items():
                began = time.perf_counter()
                detect(detector, [image])
                seconds[name] += [time.perf_counter() - began] if turn >= WARM else []
    return seconds


def profiled(detector, image):
    """The operators that take most of a detection, a line each."""
    from torch.profiler import ProfilerActivity, profile

    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen:
        detect(detector, [image])
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    return [
        f"  {row.key} x {row.count}: {row.self_cpu_time_total / 1e3:.1f} ms, {100 * row.self_cpu_time_total / whole:.0f} %" for row in rows[:MOST]
    ]


def interval(ours, theirs):
    picks = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    return np.percentile(np.median(np.array(ours)[picks], 1) / np.median(np.array(theirs)[picks], 1), [2.5, 97.5])


@pytest.mark.bench
def test_int8_takes_at_most_half_of_float32(capsys):
    torch.set_num_threads(machine.cores())
    detectors, image = pair(SIZE)
    seconds = timed(detectors, image, ROUNDS)
    ratio = statistics.median(seconds["int8"]) / statistics.median(seconds["float32"])
    low, high = interval(seconds["int8"], seconds["float32"])
    said = [f"float32 {statistics.median(seconds['float32']) * 1e3:.0f} ms, int8 {statistics.median(seconds['int8']) * 1e3:.0f} ms"]
    said += [f"ratio {ratio:.3f} [{low:.3f}, {high:.3f}], allowed {ALLOWED}"]
    for name, detector in detectors.items() if ratio > ALLOWED else ():
        said += [f"{name}:", *profiled(detector, image)]
    with capsys.disabled():
        print("\n" + "\n".join(said))
    assert ratio <= ALLOWED
