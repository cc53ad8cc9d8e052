"""The watch: who else was at work, and whether the hardware held back; what cannot be read is unknown."""

from __future__ import annotations

import os
import sys
import types
from dataclasses import replace

import pytest

from bench import watching
from bench.watching import Seen, Watch


def test_what_cannot_be_read_is_unknown_and_never_ok(monkeypatch, tmp_path):
    monkeypatch.setattr(watching, "THROTTLES", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # no such package
    watch = Watch([], gpu="GPU-1", load_before=0.0)
    watch.begin()
    seen = watch.end()
    assert (seen.throttled, seen.foreign_gpu_processes) == ("unknown", "unknown")
    assert set(seen.unread()) >= {"throttled", "foreign_gpu_processes"}


def test_a_cpu_that_was_throttled_is_marked(monkeypatch, tmp_path):
    monkeypatch.setattr(watching, "THROTTLES", tmp_path)
    count = tmp_path / "cpu0" / "thermal_throttle" / "core_throttle_count"
    count.parent.mkdir(parents=True)
    said = []
    for after in ("3", "4"):
        count.write_text("3")
        watch = Watch([], load_before=0.0)
        watch.begin()
        count.write_text(after)
        said.append(watch.end().throttled)
    assert said == ["no", "CPU thermal"]


def nvml(reasons, pids):
    """pynvml, as far as the watch asks it."""
    found = types.ModuleType("pynvml")
    found.nvmlInit = lambda: None
    found.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    found.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: reasons
    found.nvmlDeviceGetComputeRunningProcesses = lambda handle: [types.SimpleNamespace(pid=pid) for pid in pids]
    found.nvmlClocksThrottleReasonGpuIdle, found.nvmlClocksThrottleReasonSwPowerCap = 1, 4
    found.nvmlClocksThrottleReasonHwSlowdown, found.nvmlClocksThrottleReasonAll = 8, 13
    return found


@pytest.mark.parametrize(
    ("reasons", "pids", "throttled", "foreign"),
    [
        (1, (os.getpid(),), "no", 0),
        (12, (os.getpid(), 1), "HwSlowdown, SwPowerCap", 1),
        (64, (1, 2), "bit 6", "unknown"),  # ours is not among them: its numbers are of another system
    ],
)
def test_a_gpu_tells_of_throttling_and_of_others(monkeypatch, reasons, pids, throttled, foreign):
    monkeypatch.setitem(sys.modules, "pynvml", nvml(reasons, pids))
    watch = Watch([], gpu="GPU-1", load_before=0.0)
    watch.begin()
    seen = watch.end()
    assert (seen.throttled, seen.foreign_gpu_processes) == (throttled, foreign)


def test_noise_is_told_by_the_stated_limits():
    quiet = Seen(0.4, 0.1, 0.0, "no", "none here")
    assert quiet.noise() == quiet.unread() == ()
    noisy = Seen(2.0, 0.7, 0.05, "SwPowerCap", 2)
    assert [reason.split()[0] for reason in noisy.noise()] == ["load", "others", "5", "throttled:", "2"]
    assert replace(quiet, load_before="unknown").unread() == ("load_before",)


def test_a_watch_too_short_for_the_systems_clock_tells_nothing_of_others(monkeypatch):
    clocks = iter([10.0, 10.4])
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(clocks))
    watch = Watch([], load_before=0.0)
    watch.begin()
    seen = watch.end()
    assert (seen.foreign_cores, seen.stolen_share) == ("unknown", "unknown")


def test_others_work_is_seen_and_our_own_is_not(monkeypatch):
    """Two cores for two seconds: 3 busy in all, 2 of them ours."""
    clocks = iter([10.0, 12.0])
    busy = iter([100.0, 103.0])
    own = iter([50.0, 52.0])
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(clocks))
    monkeypatch.setattr(watching.psutil, "cpu_times", lambda: types.SimpleNamespace(user=next(busy), system=0.0, steal=0.0))
    monkeypatch.setattr(watching, "_own_seconds", lambda pids: next(own))
    watch = Watch([], load_before=0.0)
    watch.begin()
    assert watch.end().foreign_cores == pytest.approx((3 - 2) / 2)


@pytest.mark.parametrize(("busy", "waits"), [(0.0, 2), (60.0, 0)])
def test_decaying_load_is_waited_for_and_a_busy_machine_is_not(monkeypatch, busy, waits):
    loads, slept = [0.9, 0.7, 0.3], []
    monkeypatch.setattr(watching, "load_average", lambda: loads.pop(0))
    monkeypatch.setattr(watching.psutil, "cpu_percent", lambda interval: busy)
    monkeypatch.setattr(watching.time, "sleep", slept.append)
    watching.settle(lambda said: None)
    assert len(slept) == waits
