"""Who else was at work while we measured, and whether the hardware held back: what it cannot read it calls unknown, never ok. No torch."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

LOAD = 0.5  # load average of the last minute before we began, from which on a row is noisy
FOREIGN_CORES = 0.2  # cores busy with others' work meanwhile; a quiet system's own services take a twentieth
STOLEN = 0.02  # share of the processors' time that a hypervisor gave to others
SHORTEST_S = 0.5  # the system counts processor time in hundredths of a second: of less than this it tells nothing
SPREAD = 0.10  # quartile range over median of one image's warm-up samples
UNKNOWN = "unknown"
THROTTLES = Path("/sys/devices/system/cpu")
HARMLESS = ("None", "GpuIdle", "ApplicationsClocksSetting", "DisplayClockSetting")  # clocks that were asked for
PREFIXES = ("nvmlClocksThrottleReason", "nvmlClocksEventReason")


@dataclass(frozen=True)
class Seen:
    """What a watch saw. A number or a text; "unknown" where the system does not tell."""

    load_before: float | str  # of the last minute, before our processes began
    foreign_cores: float | str  # mean over the measurement
    stolen_share: float | str
    throttled: str  # "no", reasons joined by commas, or unknown
    foreign_gpu_processes: int | str  # "none here" without a GPU

    def noise(self) -> tuple[str, ...]:
        """Why a row measured meanwhile is noisy, in words; empty where nothing speaks against it."""
        said = []
        if _over(self.load_before, LOAD):
            said.append(f"load {self.load_before:.1f} before it began")
        if _over(self.foreign_cores, FOREIGN_CORES):
            said.append(f"others kept {self.foreign_cores:.1f} cores busy")
        if _over(self.stolen_share, STOLEN):
            said.append(f"{100 * float(self.stolen_share):.0f} % of the time went to other machines")
        if self.throttled not in {"no", UNKNOWN}:
            said.append(f"throttled: {self.throttled}")
        if isinstance(self.foreign_gpu_processes, int) and self.foreign_gpu_processes:
            said.append(f"{self.foreign_gpu_processes} foreign processes on the GPU")
        return tuple(said)

    def unread(self) -> tuple[str, ...]:
        """What could not be read, by the names of the fields."""
        return tuple(name for name, value in vars(self).items() if value == UNKNOWN)


def _over(value: float | str, limit: float) -> bool:
    return not isinstance(value, str) and value > limit


def settle(show: Callable[[str], None], patience_s: float = 150.0) -> None:
    """Wait, where nothing else is at work, until the load of what ran before has decayed; a busy machine is not waited for."""
    until = time.monotonic() + patience_s
    while _over(load := load_average(), LOAD) and time.monotonic() < until:
        if psutil.cpu_percent(1.0) / 100 * (psutil.cpu_count() or 1) > FOREIGN_CORES:
            return
        show(f"waiting for the load of {load} to decay below {LOAD}")
        time.sleep(4.0)


def load_average() -> float | str:
    """Of the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return UNKNOWN


@dataclass
class Watch:
    """Watches from `begin` to `end`; `look` in between notices what comes and goes. `gpu`: the UUID of the one that measures, empty for none."""

    pids: Sequence[int]  # our own processes beside this one
    gpu: str = ""
    load_before: float | str = field(default_factory=load_average)
    _began: tuple[float, Any, float] | None = None
    _reasons: set[str] = field(default_factory=set)
    _foreign: set[int | str] = field(default_factory=set)
    _throttles: int | None = None

    def begin(self) -> None:
        """From here on counts."""
        self._began = (time.monotonic(), psutil.cpu_times(), _own_seconds(self.pids))
        self._throttles = _cpu_throttles()
        self.look()

    def look(self) -> None:
        """Read what may be over at the end: the GPU's throttle reasons and its processes."""
        if self.gpu:
            reasons, foreign = _gpu(self.gpu, {*self.pids, os.getpid()})
            self._reasons |= reasons
            self._foreign.add(foreign)

    def end(self) -> Seen:
        """What was seen; our processes must still be there."""
        assert self._began is not None, "a watch ends after it began"
        self.look()
        began, before, own = self._began
        elapsed, after = time.monotonic() - began, psutil.cpu_times()
        if elapsed < SHORTEST_S:
            return Seen(self.load_before, UNKNOWN, UNKNOWN, self._throttled(), self._others())
        foreign = (_busy(after) - _busy(before) - (_own_seconds(self.pids) - own)) / elapsed
        stolen = (getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)) / (elapsed * (psutil.cpu_count() or 1))
        return Seen(self.load_before, round(max(0.0, foreign), 3), round(stolen, 4), self._throttled(), self._others())

    def _throttled(self) -> str:
        found = set(self._reasons)
        now = _cpu_throttles()
        if not self.gpu:
            found |= {UNKNOWN} if now is None or self._throttles is None else {"CPU thermal"} if now > self._throttles else set()
        known = sorted(found - {UNKNOWN})
        return ", ".join(known) if known else UNKNOWN if found else "no"

    def _others(self) -> int | str:
        if not self.gpu:
            return "none here"
        counts = [count for count in self._foreign if isinstance(count, int)]
        return UNKNOWN if len(counts) < len(self._foreign) else max(counts)


def _busy(times: Any) -> float:
    """Seconds that the processors worked, of all of them together; what a hypervisor took and waiting is not work."""
    return float(times.user + times.system + getattr(times, "nice", 0) + getattr(times, "irq", 0) + getattr(times, "softirq", 0))


def _own_seconds(pids: Iterable[int]) -> float:
    """CPU seconds of this process, of its children that have ended, and of the living ones."""
    own = psutil.Process().cpu_times()
    total = own.user + own.system + getattr(own, "children_user", 0.0) + getattr(own, "children_system", 0.0)
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:  # it has ended: its time is among the children's
            continue
        total += times.user + times.system
    return float(total)


def _cpu_throttles() -> int | None:
    """How often the processors were throttled since the machine started; None where that cannot be read."""
    files = sorted(THROTTLES.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
    try:
        return sum(int(path.read_text()) for path in files) if files else None
    except (OSError, ValueError):
        return None


def _gpu(uuid: str, ours: set[int]) -> tuple[set[str], int | str]:
    """(throttle reasons of now, foreign processes on it), each unknown where NVML does not tell."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception:  # noqa: BLE001 - no package, no driver, no permission: all the same to us
        return {UNKNOWN}, UNKNOWN
    return _reasons(nvml, handle), _foreign(nvml, handle, ours)


def _reasons(nvml: Any, handle: Any) -> set[str]:
    try:
        bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    except Exception:  # noqa: BLE001 - NVML's errors are of its own kind
        return {UNKNOWN}
    names = {getattr(nvml, name): name.removeprefix(prefix) for prefix in PREFIXES for name in dir(nvml) if name.startswith(prefix)}
    known = {bit: name for bit, name in names.items() if isinstance(bit, int) and bit and bit & (bit - 1) == 0}  # not masks like ...All
    found = {known.get(1 << place, f"bit {place}") for place in range(bits.bit_length()) if bits >> place & 1}
    return found - set(HARMLESS)


def _foreign(nvml: Any, handle: Any, ours: set[int]) -> int | str:
    """Processes that compute on the GPU and are not ours; unknown where ours is not among them: in a container NVML counts otherwise."""
    try:
        there = {int(process.pid) for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except Exception:  # noqa: BLE001 - NVML's errors are of its own kind
        return UNKNOWN
    return len(there - ours) if there & ours else UNKNOWN
