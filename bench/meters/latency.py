"""The latency meter: one image at a time through prepare, network and finish, each timed apart, every one synchronised with the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, linear_regression
from typing import Any

import torch
from torch import Tensor

from bench import machine
from bench.meters.rois import count_rois
from bench.types import Detections, Detector, UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU_FLAGS = {"bfloat16": machine.BF16_FLAGS, "float16": {"avx512_fp16", "amx_fp16"}}  # without one a CPU emulates it: not the precision's own speed
LAST = 10  # warm-up samples whose slope is looked at
SLOPE = 0.05  # of their mean, from the first of them to the last, on the fitted line
MOST, MOST_S = 60, 180.0  # warm-up ends there though it is not steady, and the row says so


@dataclass(frozen=True)
class Runtime:
    """Where and in which precision a detector runs; below float32 by autocast, as accuracy is measured."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Timed:
    """One image's times and counts."""

    prepare_ms: float  # resize, normalise, pad; on a GPU the way there too
    network_ms: float
    finish_ms: float
    rois: int | None  # that the second stage saw; None for a detector that tells of none
    detections: int

    @property
    def whole_ms(self) -> float:
        """From the image to its detections."""
        return self.prepare_ms + self.network_ms + self.finish_ms


@dataclass(frozen=True)
class WarmUp:
    """Whole times of one image again and again, and whether they became steady."""

    samples_ms: tuple[float, ...]
    steady: bool


def open_runtime(device: str, precision: str) -> Runtime:
    """The runtime that the words of the command line mean; UserError for a GPU or a precision that is not there."""
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UserError("--device cuda: torch finds no GPU here; allowed: cpu, or auto; see `leandet doctor`")
    chosen = torch.device("cuda" if there and device != "cpu" else "cpu")
    lacking = (
        precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False) if chosen.type == "cuda" else _emulated(precision)
    )
    if lacking:
        raise UserError(
            f"--precision {precision}: this {chosen.type} has no arithmetic for it and would emulate it; allowed here: {_allowed(chosen)}"
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    return Runtime(chosen, DTYPES[precision])


def _emulated(precision: str) -> bool:
    return precision in CPU_FLAGS and not CPU_FLAGS[precision] & machine.cpu_flags()


def _allowed(device: torch.device) -> str:
    return ", ".join(name for name in DTYPES if device.type == "cuda" or not _emulated(name))


@contextmanager
def running(runtime: Runtime) -> Iterator[None]:
    """Without gradients, in the runtime's precision."""
    lower = runtime.dtype != torch.float32
    with torch.inference_mode(), torch.autocast(runtime.device.type, runtime.dtype if lower else None, enabled=lower):
        yield


def synchronise(runtime: Runtime) -> None:
    """Wait until the device has done all it was told."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)


def time_image(detector: Detector, image: Tensor, runtime: Runtime) -> tuple[Timed, Detections]:
    """Detect on one image (3, H, W), batch 1: its times, and what was found, so that it can be held against accuracy's."""
    with running(runtime):
        synchronise(runtime)
        began = time.perf_counter()
        batch = detector.prepare([image.to(runtime.device)])
        synchronise(runtime)
        prepared = time.perf_counter()
        raw = detector.network(batch)
        synchronise(runtime)
        told = time.perf_counter()
        found = detector.finish(raw)
        synchronise(runtime)
        ended = time.perf_counter()
    spans = (1e3 * (prepared - began), 1e3 * (told - prepared), 1e3 * (ended - told))
    return Timed(*spans, count_rois(raw), len(found[0].scores)), found[0]


def slope(samples: Sequence[float]) -> float:
    """By how much of their mean the samples rise or fall on the fitted line, from the first to the last."""
    fitted = linear_regression(range(len(samples)), samples).slope
    return abs(fitted) * (len(samples) - 1) / fmean(samples)


def warm_up(once: Callable[[], float], *, most: int = MOST) -> WarmUp:
    """Call `once`, which gives a time in ms, until the last ten are steady, or until there is no more patience."""
    samples: list[float] = []
    began = time.monotonic()
    while len(samples) < most and time.monotonic() - began < MOST_S:
        samples.append(once())
        if len(samples) >= LAST and slope(samples[-LAST:]) < SLOPE:
            return WarmUp(tuple(samples), steady=True)
    return WarmUp(tuple(samples), steady=False)


def memory_format(tensor: Tensor) -> str:
    """The order in which a (B, C, H, W) tensor lies in memory."""
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return "channels_last" if last else "contiguous"


def formats(detector: Any, batch: Any) -> dict[str, str]:
    """The memory format of the pixels that the network is given, and of its first convolution's weights."""
    pixels = getattr(batch, "pixels", None)
    modules = detector.modules() if isinstance(detector, torch.nn.Module) else ()
    first = next((module.weight for module in modules if isinstance(module, torch.nn.Conv2d)), None)
    return {name: memory_format(tensor) if isinstance(tensor, Tensor) else "unknown" for name, tensor in (("pixels", pixels), ("weights", first))}
