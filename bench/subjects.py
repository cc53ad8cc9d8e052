"""What is timed and under which conditions, as values; a mistake in either is said before anything is measured. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench import adapters, machine, places
from bench.catalogue import find_paper
from bench.datasets import open_split, parse_data
from bench.datasets.source import SPLITS
from bench.digest import Place
from bench.orders import ID, choice_of, with_needs
from bench.plan import slug
from bench.spec import TIERS
from bench.types import UserError

if TYPE_CHECKING:
    from bench.plan import Run
    from bench.spec import Row
    from bench.types import Split

WEIGHTS, PREDICTIONS = "weights.safetensors", "predictions.parquet"  # what a run leaves in its folder
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16", "float16")
ALIKE = {"weights", "model", "pytorch_model", "checkpoint"}
FILE = re.compile(r"(?P<path>.+\.py):(?P<function>[A-Za-z_]\w*)")
FORMS = (
    "PAPER.ROW (as in condensing.fpn-r50), a run's id (condensing.fpn-r50.proxy.s0), FILE.py:FUNCTION, a function that makes a detector, "
    f"or {adapters.FORMS}"
)
# Forms that a detector is timed in, as in condensing.fpn-r50@fused, and what makes them: oneDNN's fused kernels (kept: MimicDet's,
# its S-head at the kept positions alone), torch.compile's, other runtimes.
DEPLOY: Mapping[str, Place] = MappingProxyType(
    {
        "fused": ("implementations.layers.fused", "fused"),
        "kept": ("implementations.mimicdet.deployment", "kept"),
        "compiled": ("implementations.layers.compiled", "compiled"),
        "onnx": ("implementations.adapters.onnx", "form"),
        "openvino": ("implementations.adapters.openvino", "form"),
    }
)


@dataclass(frozen=True)
class Subject:
    """What is timed, as the user names it (FORMS). A row is built at `tier` with random weights; a run brings its tier and weights.

    `form`: of DEPLOY; empty: the detector as it learns.
    """

    name: str
    tier: str = "paper"
    form: str = ""
    size: str = ""  # as after --size; empty: the detector's own
    weights: str = ""  # a file, for a detector of an adapter; empty: random, or those that its name brings
    classes: int = 0  # of a detector of an adapter; 0: its own
    score: float | None = None  # what a detector of an adapter drops; None: its own

    @property
    def kind(self) -> str:
        """One of "adapter", "file", "run", "row"."""
        if adapters.is_adapted(self.name):
            return "adapter"
        return "file" if FILE.fullmatch(self.name) else "run" if self.name.count(".") > 1 else "row"

    @property
    def foreign(self) -> bool:
        """Whether it is no row of a paper."""
        return self.kind in {"adapter", "file"}

    @property
    def label(self) -> str:
        """What tables and records call it; no path of a machine."""
        if self.foreign:
            return ".".join(self.place)
        return (self.name if self.kind == "run" else f"{self.name}.{self.tier}") + self.manner

    @property
    def told(self) -> str:
        """The name as a record may keep it: of a file of the user's without the folders that it lies in."""
        form = f"@{self.form}" if self.form else ""
        if not self.foreign:
            return self.name + form
        key, rest = adapters.parts_of(self.name) if self.kind == "adapter" else ("", self.name)
        short = rest.rsplit("/", 1)[-1] if not key or Path(rest.split(":")[0]).exists() else rest
        return f"{key}:{short}" if key else short + form

    @property
    def place(self) -> tuple[str, str]:
        """(paper, row) of its records: those of a foreign one are its adapter's key, or "file", and its name with what it was given.

        A deployed form, and an input of another size than the row's, is a row of its own, which no printed time is held against.
        """
        form = f"@{self.form}" if self.form else ""
        if self.kind == "adapter":
            key, rest = adapters.parts_of(self.name)
            return key, "-".join(filter(None, (_row_name(rest), _weights_name(self.weights), self.size)))
        if self.kind == "file":
            path, function = self.name.rsplit(":", 1)
            return "file", "-".join(filter(None, (slug(f"{Path(path).stem}-{function}"), self.size))) + form
        paper, row = self.name.split(".")[:2]
        return paper, row + self.manner

    @property
    def manner(self) -> str:
        """What stands behind the name of one of our own: "@fused", "@320x320", both or nothing."""
        return "".join(f"@{each}" for each in (self.form, self.size) if each)

    @property
    def row(self) -> str:
        """The row's key in records."""
        return self.place[1]


@dataclass(frozen=True)
class Conditions:
    """Under which conditions every compared subject is timed; batch is always 1."""

    data: str = "scenes-v1"  # as after --data
    images: int = 64  # the first so many of its test split
    device: str = "auto"  # of DEVICES; auto: the GPU where there is one
    threads: int = 1
    precision: str = "float32"  # of PRECISIONS; the lower ones by autocast
    rois: int = 0  # equal for all subjects; 0: each its own
    size: str = ""  # as after --size: drawn images are brought to it; images of the user's own stay as they are


def _row_name(name: str) -> str:
    """What an adapter builds as a part of an id: of a path its last two parts, without the others."""
    path = Path(name)
    told = f"{path.parent.name}-{path.stem}" if path.suffix and path.parent.name else path.name
    return slug(told.replace(":", "-"))


def _weights_name(path: str) -> str:
    """A file of weights as a part of an id: its stem, or its folder's name where every such file is called alike."""
    file = Path(path)
    return slug(file.parent.name if file.stem in ALIKE and file.parent.name else file.stem) if path else ""


def find_subject(name: str, tier: str, data: str = "") -> Subject:
    """The subject of that name, or of NAME@FORM; UserError if there is no such row, run, file or form."""
    if adapters.is_adapted(name):
        _no_form(name)
        adapters.known_name(name)
        return Subject(name, tier)
    name, at, form = name.partition("@")
    if at and form not in DEPLOY:
        raise UserError(f"{name}@{form}: there is no such form; allowed: {', '.join(DEPLOY)}, or the name alone")
    subject = Subject(name, tier, form)
    if subject.kind == "file":
        if not Path(name.rsplit(":", 1)[0]).is_file():
            raise UserError(f"{name}: there is no such file; allowed: {FORMS}")
        return subject
    if subject.kind == "run":
        if not (places.run_folder(run_of(subject, data).id) / WEIGHTS).exists():
            raise UserError(f"{name}: has no weights here; next: leandet run {name}, or time the row with random weights by its PAPER.ROW")
        return replace(subject, tier=name.split(".")[2])
    if tier not in TIERS:
        raise UserError(f"--tier {tier!r}: unknown; allowed: {', '.join(TIERS)}")
    row_of(subject)
    return subject


def _no_form(name: str) -> None:
    """UserError for a form asked of a detector that is not ours to change: what we know to deploy is our own layers."""
    plain, _, form = name.rpartition("@")
    if plain and form in DEPLOY:
        raise UserError(f"{name}: forms are for PAPER.ROW, a run's id and FILE.py:FUNCTION; give {plain}, or onnx:FILE if you have exported it")


def row_of(subject: Subject) -> Row:
    """The row of a subject that is no file; UserError where there is none to build."""
    key, _, wanted = subject.name.partition(".")
    if not wanted:
        raise UserError(f"{subject.name!r}: allowed: {FORMS}")
    rows = {row.key: row for row in find_paper(key).rows if row.build is not None}
    wanted = wanted.split(".")[0]
    if wanted not in rows:
        raise UserError(f"row {wanted!r}: {key} has no such row to build; allowed: {', '.join(rows)}")
    return rows[wanted]


def run_of(subject: Subject, data: str = "") -> Run:
    """The run whose weights a subject has; UserError where there is no such run."""
    found = ID.fullmatch(subject.name)
    if found is None or found["paper"] == "pretrain":
        raise UserError(f"{subject.name!r}: allowed: {FORMS}")
    own = data if found["data"] else "scenes-v1"  # an id that names no data is of the embedded ones
    return with_needs(subject.name, choice_of(found["tier"], own or "scenes-v1", "", 0, ""))[-1]


def check(conditions: Conditions) -> Split:
    """The split whose first images are timed; UserError for conditions that cannot be, as far as they show without the device."""
    if conditions.images < 1:
        raise UserError(f"--images {conditions.images}: allowed: 1 or more; 11 for a median with a bound, 64 for p90, 130 for p95, 662 for p99")
    if not 1 <= conditions.threads <= machine.cores():
        raise UserError(f"--threads {conditions.threads}: allowed: 1 to {machine.cores()}, the cores of this machine")
    if conditions.rois < 0:
        raise UserError(f"--rois {conditions.rois}: allowed: 1 or more, or leave it out for each detector's own")
    for option, given, allowed in (("device", conditions.device, DEVICES), ("precision", conditions.precision, PRECISIONS)):
        if given not in allowed:
            raise UserError(f"--{option} {given!r}: unknown; allowed: {', '.join(allowed)}")
    split = image_split(conditions.data, conditions.size)
    if conditions.images > len(split):
        raise UserError(f"--images {conditions.images}: {split.name} has {len(split)}; give --images {len(split)} or less, or other --data")
    return split


def image_split(data: str, size: str = "") -> Split:
    """The test split of the data, or where a COCO text names none its val or train split; `size`: what drawn images are brought to."""
    chosen = parse_data(data)
    named = [split for split in reversed(SPLITS) if chosen.kind not in {"coco", "joined"} or chosen.part(split)]
    opened, sides = open_split(chosen, named[0]), adapters.size_of(size)
    if sides is None or chosen.parts:
        return opened
    from bench.datasets.resized import Resized

    return Resized(opened, sides)
