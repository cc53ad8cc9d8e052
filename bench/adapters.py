"""Detectors of other frameworks and of other people's packages, by name: ADAPTER:NAME, as in torchvision:fasterrcnn_resnet50_fpn_v2. No torch.

An adapter is one value, `Adapter`. Ours stand in `implementations/adapters`; anybody's package adds one through the entry point group
`leandet.adapters`, a single detector through `leandet.detectors` (a function that makes it), a dataset through `leandet.datasets`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.machine import installed
from bench.types import Unavailable, UserError

BUILT_IN = ("torchvision", "mmdet", "detectron2", "transformers", "onnx", "openvino", "python")
FOLDER = "implementations.adapters"  # found by name: bench imports no implementation
GROUP, DETECTORS, DATASETS = "leandet.adapters", "leandet.detectors", "leandet.datasets"  # entry points
NAME = re.compile(r"(?P<key>[a-z][a-z0-9_-]*):(?P<rest>.+)")
FORMS = "ADAPTER:NAME (as in torchvision:fasterrcnn_resnet50_fpn_v2; `leandet list --adapters`)"


@dataclass(frozen=True)
class Wanted:
    """What is asked of an adapter."""

    name: str  # what stands behind the colon
    classes: int | None = None  # of the data, background not counted; None: the model's own
    size: tuple[int, int] | None = None  # px: shorter side and longest longer side, or height and width of a fixed input; None: the model's own
    weights: Path | None = None  # a file with its state; None: random, or those that the name brings
    score: float | None = None  # detections below it are dropped; None: the framework's own


@dataclass(frozen=True)
class Adapter:
    """One framework's detectors behind bench.types.Detector.

    `build` imports the framework, and all that is its own ends there: label maps, box order, resizing, colour order, the place of background.
    What it returns may say more of itself: `weights_from` ("random", or whose they are), `framework_params()` (as the framework counts them),
    `parts(height, width)` (for its cost), `propose` (for equal numbers of RoIs), `weights_hash()` if it is no nn.Module.
    """

    key: str  # what stands before the colon
    title: str  # in words, for a reader
    example: str  # a name that it builds, or its form
    needs: tuple[str, ...]  # packages that must be there, by the name they are imported by
    install: str  # what to type where they are not
    names: Callable[[], tuple[str, ...]]  # those that it can build; empty where any path or module goes
    build: Callable[[Wanted], Any]  # a Detector; UserError or Unavailable, in one line, for what it cannot
    bounds: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # package -> (from this version, below that one) where not every one will do

    def missing(self) -> tuple[str, ...]:
        """The packages that it needs and that are not here."""
        return tuple(package for package in self.needs if not _there(package))

    def unfit(self) -> str:
        """What keeps it from being used here, in words: packages that are not there, or of a version that it is not written for; empty: nothing."""
        missing = self.missing()
        if missing:
            return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        given = {package: _version(package) for package in self.bounds}
        wrong = [package for package, (least, below) in self.bounds.items() if not _number(least) <= _number(given[package]) < _number(below)]
        return "; ".join(f"{each} {given[each]} is installed; allowed: from {self.bounds[each][0]} to below {self.bounds[each][1]}" for each in wrong)


def _version(package: str) -> str:
    """That of what brings a package, which may be called otherwise: onnxruntime comes with onnxruntime-gpu too."""
    version = installed(package)
    return version if version != "missing" else installed(next(iter(metadata.packages_distributions().get(package, ())), package))


def _number(version: str) -> tuple[int, ...]:
    """(5, 20) of "5.20.1.dev0": what decides whether a version fits; nothing of a text without numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


# ---- found by name


def entry_points(group: str) -> dict[str, metadata.EntryPoint]:
    """What installed packages add to a group, by name."""
    return {point.name: point for point in metadata.entry_points(group=group)}


def load_point(point: metadata.EntryPoint) -> Any:
    """What an entry point names; UserError where its package cannot be imported."""
    try:
        return point.load()
    except Exception as error:
        raise UserError(
            f"{point.value}: added by an installed package as {point.name}, cannot be imported ({_said(error)}); mend that package"
        ) from error


def adapter_keys() -> tuple[str, ...]:
    """Every adapter's key: ours, then those that packages add."""
    return (*BUILT_IN, *(name for name in sorted(entry_points(GROUP)) if name not in BUILT_IN))


def find_adapter(key: str) -> Adapter:
    """The adapter of that key; UserError with the nearest one where there is none."""
    if key in BUILT_IN:
        adapter: Any = importlib.import_module(f"{FOLDER}.{key}").ADAPTER
    else:
        added = entry_points(GROUP)
        if key not in added:
            raise UserError(f"adapter {key!r}: there is none of that name{nearest(key, adapter_keys())}; allowed: {', '.join(adapter_keys())}")
        adapter = load_point(added[key])
    if not isinstance(adapter, Adapter):
        raise UserError(f"adapter {key!r}: its entry point gives a {type(adapter).__name__}; allowed: a bench.adapters.Adapter")
    return adapter


def is_adapted(name: str) -> bool:
    """Whether a name is of the form ADAPTER:NAME."""
    return NAME.fullmatch(name) is not None


def parts_of(name: str) -> tuple[str, str]:
    """(adapter's key, what it builds)."""
    found = NAME.fullmatch(name)
    if found is None:
        raise UserError(f"{name!r}: allowed: {FORMS}")
    return found["key"], found["rest"]


def nearest(name: str, names: Iterable[str]) -> str:
    """What a name that does not exist may have meant, as the rest of a sentence; empty where nothing is near."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def ready_adapter(name: str) -> Adapter:
    """The adapter of a name, its framework installed; UserError says what to type where it is not."""
    adapter = find_adapter(parts_of(name)[0])
    unfit = adapter.unfit()
    if unfit:
        raise UserError(f"{name}: {unfit}; next: {adapter.install}")
    return adapter


def known_name(name: str) -> Adapter:
    """The ready adapter of a name that it can build; UserError with the nearest ones where it cannot."""
    adapter, (_, rest) = ready_adapter(name), parts_of(name)
    names = adapter.names()
    if names and rest not in names:
        listed = ", ".join(names[:15]) + (f" and {len(names) - 15} more" if len(names) > 15 else "")
        raise UserError(f"{name}: {adapter.key} has no {rest!r}{nearest(rest, names)}; allowed: {listed}")
    return adapter


def build_adapted(name: str, **wanted: Any) -> Any:
    """The detector of that name; `wanted` are fields of Wanted. UserError, in one line, for all that can go wrong with it."""
    adapter, (_, rest) = known_name(name), parts_of(name)
    try:
        detector = adapter.build(Wanted(rest, **wanted))
    except UserError:
        raise
    except Unavailable as reason:
        raise UserError(f"{name}: {reason}") from reason
    except Exception as error:
        raise UserError(f"{name}: its builder raised {_said(error)}; mend the builder, or what it was given") from error
    lacking = [phase for phase in ("prepare", "network", "finish") if not callable(getattr(detector, phase, None))]
    if lacking:
        kind = type(detector).__name__
        raise UserError(
            f"{name}: gives a {kind} without {', '.join(lacking)}; allowed: a bench.types.Detector, which has prepare, network and finish"
        )
    return detector


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


# ---- texts of the command line


def size_of(text: str) -> tuple[int, int] | None:
    """(800, 1333) from "800x1333"; None from nothing. UserError names what is allowed."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(32 <= side <= 8192 for side in sides):
        raise UserError(f"--size {text!r}: allowed: HEIGHTxWIDTH in pixels, each from 32 to 8192, as in 800x1333")
    return sides


# ---- what a detector of an adapter rests on


def framework_versions(adapter: Adapter) -> dict[str, str]:
    """The version of each package that the adapter rests on."""
    return {package: installed(package) for package in adapter.needs}


def source_of(name: str) -> str:
    """SHA-256 of what stands behind a name and may change under it: a file, a folder's files, somebody's package; empty where a version says it."""
    files = _files_of(*parts_of(name))
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return total.hexdigest() if files else ""


def _files_of(key: str, rest: str) -> list[Path]:
    path = Path(rest)
    if key not in {"torchvision", "python"} and path.exists():
        return [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    module = rest.rpartition(":")[0] if key == "python" else ""
    point = entry_points(DETECTORS).get(rest) if key == "python" else entry_points(GROUP).get(key) if key not in BUILT_IN else None
    top = (point.module if point else module).partition(".")[0]
    spec = importlib.util.find_spec(top) if top else None
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    return sorted(file for folder in folders for file in folder.rglob("*.py")) or ([Path(spec.origin)] if spec.origin else [])
