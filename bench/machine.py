"""What ran it: the machine, the versions, the state of the source. Imports torch only to ask it, inside functions."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import places

PACKAGES = ("torch", "torchvision", "torch-pruning", "lightning-fabric", "numpy", "hotcoco", "leandet")
ARITHMETIC = ("torch", "torchvision", "numpy")  # of them, whose version may decide how a number is rounded
BF16_FLAGS = {"amx_bf16", "avx512_bf16"}  # without either a CPU emulates bfloat16, slower than float32
BF16_GAIN = 1.2  # times as fast, so that one noisy measurement does not decide


@functools.cache
def describe() -> dict[str, Any]:
    """The machine in words and numbers that identify it to a reader; no host name and no path."""
    cpu, gpus = _cpu(), _gpus()
    name = re.sub(r"[^a-z0-9]+", "-", f"{'-'.join(gpus) or cpu}-x{len(gpus) or os.cpu_count() or 1}".lower()).strip("-")
    return {"name": name, "cpu": cpu, "cores": cores(), "memory_gb": memory_gb(), "gpus": gpus, "system": f"{platform.system()} {platform.machine()}"}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> int:
    """Physical memory, rounded to whole GB; 0 where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError, AttributeError):
        return 0


def _cpuinfo(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    found = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
    return found.group(1) if found else ""


def _cpu() -> str:
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return re.sub(r"\((R|TM)\)|CPU|Processor|@", " ", name).replace("  ", " ").strip()


def _gpus() -> list[str]:
    """Names of the GPUs that torch may use: none where CUDA_VISIBLE_DEVICES is empty, so that what the CPU did bears the CPU's name."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - a fixed command
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()] if listed.returncode == 0 else []


def versions() -> dict[str, str]:
    """Python's version and those of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: installed(name) for name in PACKAGES}


def installed(package: str) -> str:
    """A package's version; "missing" where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def alike(context: Mapping[str, Any]) -> bool:
    """Whether this processor and these libraries made the record of that context, so that a replay must be bit-equal; never of a GPU's record."""
    if not str(context.get("device", "cpu")).startswith("cpu"):
        return False  # sums are taken in any order there
    then, now = context.get("versions", {}), versions()
    return all(then.get(name) == now[name] for name in ARITHMETIC) and context.get("machine", {}).get("cpu", "") == describe()["cpu"]


def git(*arguments: str) -> str | None:
    """What git says about the checkout; None where there is no git or no checkout."""
    try:
        said = subprocess.run(["git", *arguments], cwd=places.SOURCE, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603, S607
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() if said.returncode == 0 else None


@functools.cache
def source_state() -> dict[str, Any]:
    """The commit, and whether the code that runs differs from it."""
    return {"commit": git("rev-parse", "HEAD") or "", "dirty": bool(git("status", "--porcelain", "--", "bench", "implementations"))}


@functools.cache
def precision() -> str:
    """Fabric's name of the precision to train in: bfloat16 where the hardware has it and a probe finds it faster, else float32."""
    import torch

    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if BF16_FLAGS & set(_cpuinfo("flags").split()) and bf16_gain() > BF16_GAIN else "32-true"


def cpu_flags() -> set[str]:
    """What the processor says it can; empty where the system does not tell."""
    return set(_cpuinfo("flags").split())


@functools.cache
def bf16_gain() -> float:
    """How many times as fast a convolution runs forward and backward in bfloat16 as in float32, on one thread of the CPU.

    Counted in the thread's own processor time: what else the machine is doing may not decide in which precision a run learns.
    """
    import time

    import torch

    layer, pixels = torch.nn.Conv2d(64, 64, 3, padding=1), torch.rand(8, 64, 32, 32)

    def seconds(enabled: bool) -> float:
        began = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = layer(pixels).sum()
        torch.autograd.grad(loss, layer.weight)
        return time.thread_time() - began

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for enabled in (False, True):  # the first pass of each also chooses its kernels
        seconds(enabled)
    plain, halved = (min(seconds(enabled) for _ in range(5)) for enabled in (False, True))
    torch.set_num_threads(threads)
    return plain / halved


def keep_memory() -> None:
    """Let the C library keep freed memory for the next tensor: on Linux every step would else fault the same pages in again."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        for option, value in ((-3, 1 << 30), (-1, (1 << 31) - 1)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of mallopt(3)
            getattr(library, "mallopt", lambda *_: 0)(option, value)
