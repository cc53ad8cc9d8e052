"""Is this machine ready: versions, room, data, and what training will run on; each check one line with the remedy where there is one."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from bench import machine, places
from bench.types import UserError

ROOM_GB = 5  # runs, DVC's cache and drawings of everything
MEMORY_GB = 4


@dataclass(frozen=True)
class Check:
    """One finding; `remedy` is empty where all is well."""

    what: str
    found: str
    remedy: str = ""


def checks() -> Iterator[Check]:
    """Every check, the quick ones first."""
    version = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check("python", version, "" if fits else "leandet needs Python 3.11 to 3.13: make the environment with one of these")
    cores, memory = machine.cores(), machine.memory_gb()
    yield Check("cores", f"{cores}, {machine.describe()['cpu']}")
    yield Check("memory", f"{memory} GB", "" if memory >= MEMORY_GB else f"runs want {MEMORY_GB} GB: close other programs")
    free = shutil.disk_usage(places.home()).free / 1e9
    yield Check("disk", f"{free:.0f} GB free", "" if free >= ROOM_GB else f"free {ROOM_GB} GB, or point LEANDET_HOME at a larger disk")
    git = machine.git("rev-parse", "--short", "HEAD")
    yield Check("git", git or "none here", "" if git else "install git and work in a clone: records name the commit that made them")
    dvc = machine.installed("dvc")
    yield Check("dvc", dvc, "pip install dvc: `dvc repro` needs it (`leandet run` does not)" if dvc == "missing" else "")
    yield from _torch()
    yield Check("data", "scenes-v1 (drawn on the fly, nothing to download); any other by --data, VOC and COCO by `leandet download`")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+", maxsplit=1)[0].split(".")[:3] if part.isdigit())


def _torch() -> Iterator[Check]:
    ours, theirs = machine.installed("torch"), machine.installed("torchvision")
    if "missing" in (ours, theirs):
        yield Check("torch", f"{ours}, torchvision {theirs}", "pip install torch torchvision, both from the same registry")
        return
    said = next((need for need in metadata.requires("torchvision") or () if need.startswith("torch") and "extra" not in need), "")
    bounds = re.findall(r"(==|>=)\s*([\d.]+)", said)
    wrong = [limit for relation, limit in bounds if (_numbers(ours) != _numbers(limit) if relation == "==" else _numbers(ours) < _numbers(limit))]
    remedy = f"this torchvision wants {said}: pip install torch=={wrong[0]} torchvision=={theirs}" if wrong else ""
    if ("+cpu" in ours) != ("+cpu" in theirs):
        remedy = (
            "a CPU-only torch beside the registry's torchvision fails at import: pip install --force-reinstall torch torchvision, both from one index"
        )
    yield Check("torch", f"{ours}, torchvision {theirs}", remedy)
    loads = _imports(ours)
    yield loads
    if not loads.remedy:
        yield from _gpu()


def _gpu() -> Iterator[Check]:
    """On a machine with a GPU, what can tell whether it was throttled or shared while something was timed."""
    import torch

    if torch.cuda.is_available():
        reader = machine.installed("nvidia-ml-py")
        yield Check("gpu's clocks", reader, "pip install nvidia-ml-py: without it a timing calls them unknown" if reader == "missing" else "")


def _imports(ours: str) -> Check:
    try:
        import torch
        import torchvision.ops  # noqa: F401 - whether it loads is the question
    except (ImportError, RuntimeError, OSError) as error:
        alone = "a CPU-only torch beside the registry's torchvision fails at import: " if "+cpu" in ours or "nms" in str(error) else ""
        return Check("torchvision", f"does not load ({error})", f"{alone}pip install --force-reinstall torch torchvision, both from the same index")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU"
    return Check("training", f"{device}, {_precision()}")


def _precision() -> str:
    if machine.precision() != "32-true":
        return "bfloat16 (the hardware has it, a probe found it faster)"
    return "float32 (no faster bfloat16 here)"


def diagnose() -> tuple[list[str], list[str]]:
    """(lines to show, lines of what is wrong)."""
    found = list(checks())
    shown = [f"{'ok ' if not check.remedy else '!! '} {check.what:12} {check.found}" for check in found]
    return shown, [f"{check.what}: {check.found}: {check.remedy}" for check in found if check.remedy]


def require(problems: list[str]) -> None:
    """UserError with the first problem, if there is one."""
    if problems:
        raise UserError(f"doctor: {problems[0]}" + (f" (and {len(problems) - 1} more above)" if len(problems) > 1 else ""))
