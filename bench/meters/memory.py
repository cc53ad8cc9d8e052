"""Peak memory while a detector runs, in a process that does nothing else."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from bench.meters.latency import Runtime, running
from bench.types import Detector, detect

STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(detector: Detector, images: Iterable[Tensor], runtime: Runtime) -> dict[str, float]:
    """Megabytes (1e6): `resting` before the first image, weights included, and `peak` meanwhile.

    On a CPU of the whole process, libraries too; on a GPU of tensors alone, as torch's allocator counts them.
    """
    gpu = runtime.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(runtime.device)
    else:
        _forget_peak()
    resting = torch.cuda.memory_allocated(runtime.device) if gpu else _resident("VmRSS")
    with running(runtime):
        for image in images:
            detect(detector, [image.to(runtime.device)])
    peak = torch.cuda.max_memory_allocated(runtime.device) if gpu else _resident("VmHWM")
    return {"resting_memory_mb": resting / 1e6, "peak_memory_mb": peak / 1e6}


def _forget_peak() -> None:
    """Linux: let the peak begin at what is resident now; elsewhere, and where that is forbidden, it includes what building took."""
    try:
        REFS.write_text("5")
    except OSError:
        return


def _resident(key: str) -> int:
    """Bytes that the system says are resident (VmRSS), or were at most (VmHWM)."""
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return int(line.split()[1]) * 1024
