"""Files of detectors: a finished run compressed, a compressed file as plain weights, a published checkpoint under our names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from bench import places
from bench.datasets import open_split, parse_data
from bench.detectors import build
from bench.execute import RECORD, calibrate
from bench.measuring import writable
from bench.meters.compressed import ROIS, arithmetic_mb, compressed_cost
from bench.records import read_record, write_atomically
from bench.subjects import find_subject, run_of
from bench.types import Unavailable, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.types import Split

ARTEFACTS, ADOPTED = "implementations.compression.artefacts", "implementations.compression.adopted"  # found by name: bench imports no implementation
PLAIN = ".safetensors"
SOURCES = f"a run's id, as in compression.dense.proxy.s0, a {PLAIN} that `leandet adopt` made, or PAPER.ROW at the paper's scale"
MEASURES = f"leandet measure python:{ADOPTED}:faster_rcnn --weights"


@dataclass(frozen=True)
class Sizes:
    """What a compressed detector takes."""

    arithmetic_mb: float  # parameters that are not zero x bits
    stored_mb: float  # of the file
    macs_g: float
    effective_macs_g: float  # without the products by zeros
    kernels: str  # what runs, in words
    random: bool  # whether the weights are those of a row that nobody trained, at the paper's scale

    @property
    def told(self) -> tuple[str, ...]:
        """In lines."""
        ratio = f", {self.stored_mb / self.arithmetic_mb:.3f} of that" if self.arithmetic_mb else ""
        note = ("weights: random, at the paper's scale; learnt ones take other bytes, as a compressor finds other patterns in them",)
        return (
            *(note if self.random else ()),
            f"arithmetic size {self.arithmetic_mb:.4f} MB (parameters that are not zero x bits)",
            f"true size {self.stored_mb:.4f} MB{ratio}; read back equal bit for bit",
            f"multiply-adds {self.macs_g:.4f} G dense, {self.effective_macs_g:.4f} G without zeros (one image, {ROIS} RoIs); kernels: {self.kernels}",
        )


def compress_file(name: str, out: str, wish: Mapping[str, Any], data: str) -> Sizes:
    """Store a finished run's detector (or a file that `adopt_file` wrote, or a row at the paper's scale), compressed as `wish` says (artefacts.Wish).

    UserError, in one line, before anything is written, for whatever cannot be.
    """
    writable("FILE", out)
    artefacts: Any = importlib.import_module(ARTEFACTS)
    plan = artefacts.plan_of(artefacts.Wish(**wish))
    plain, row = name.endswith(PLAIN), name.count(".") == 1
    detector, learning = _adopted(name, data, plan.precision) if plain else _of_row(name, plan.precision) if row else _of_run(name, data)
    try:
        artefacts.compressed(detector, plan)
    except Unavailable as reason:
        raise UserError(f"{name}: {reason}") from reason
    if plan.precision == "int8" and learning is not None:
        _calibrate(name, detector, learning)
    cost, done = compressed_cost(detector), detector.compression
    length = artefacts.store(detector, Path(out))
    return Sizes(
        arithmetic_mb(detector, done.bits[0]), length / 1e6, cost.dense.macs / 1e9, cost.effective.macs / 1e9, done.kernels, row and not plain
    )


def _calibrate(name: str, detector: Any, learning: Split) -> None:
    """Show the images to a detector; UserError for one whose parts ask each other for what an int8 kernel has not, as only running it shows."""
    try:
        calibrate(detector, learning)
    except UserError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(f"{name}: this {type(detector).__name__} does not run on int8 kernels ({told}); next: --precision 'int8 weights'") from error


def _of_run(name: str, data: str) -> tuple[Any, Split]:
    """A finished run's detector with its weights, and its training images."""
    subject = find_subject(name, "proxy", data)
    if subject.kind != "run" or subject.form:
        raise UserError(f"{name}: allowed: {SOURCES}")
    run = run_of(subject, data)
    record = places.run_folder(run.id) / RECORD
    if not record.exists() or read_record(record).status != "ok":
        raise UserError(f"{name}: is not finished here; next: leandet run {name}")
    learning = open_split(run.data, "train")
    return build(subject, data, len(learning.classes)), learning


def _of_row(name: str, precision: str) -> tuple[Any, None]:
    """A row's detector at the paper's scale with random weights: what its file takes, as far as that is a matter of shapes and zeros."""
    subject = find_subject(name, "paper")
    if subject.kind != "row" or subject.form:
        raise UserError(f"{name}: allowed: {SOURCES}")
    if precision == "int8":
        raise UserError(f"--precision int8: {name} has learnt from no images that it could be calibrated on; next: --precision 'int8 weights'")
    try:
        return build(subject, "", 0), None
    except Unavailable as reason:
        raise UserError(f"{name}: {reason}") from reason


def _adopted(name: str, data: str, precision: str) -> tuple[Any, Split | None]:
    if precision == "int8" and not data:
        raise UserError(f"--precision int8: no images to calibrate {name} on; give those it learnt from, as in --data train=A.json")
    learning = open_split(parse_data(data), "train") if data else None
    return importlib.import_module(ADOPTED).faster_rcnn(Path(name)), learning


def expand_file(name: str, out: str) -> int:
    """Write a compressed file's tensors as safetensors, 8-bit numbers as the float32 they stand for; how many. UserError for a damaged file."""
    _plain("OUT", name, out)
    state: dict[str, Tensor] = importlib.import_module(ARTEFACTS).expanded(Path(name))
    write_atomically(Path(out), save(state))
    return len(state)


@dataclass(frozen=True)
class Adoption:
    """Which checkpoint is taken, and what of it."""

    library: str
    classes: int = 0  # that it must have; 0: as many as it has
    eps: float = 1e-5  # of its norms
    backbone: bool = False  # that alone, as --init takes it


def adopt_file(asked: Adoption, name: str, out: str) -> str:
    """Write a published checkpoint as safetensors under our names; a line that says what next. UserError for a tensor without a place."""
    _plain("OUT", name, out)
    adopted: Any = importlib.import_module(ADOPTED)
    detector = adopted.adopt(asked.library, Path(name), classes=asked.classes, eps=asked.eps)
    state = adopted.backbone_state(detector) if asked.backbone else detector.state_dict()
    write_atomically(Path(out), save({key: tensor.contiguous() for key, tensor in state.items()}))
    used = f"leandet run PAPER --tier paper --data ... --init {out}" if asked.backbone else f"{MEASURES} {out}, or leandet compress {out} FILE"
    return f"{out}: {len(state)} tensors of {detector.config.regions[0].classes} classes; next: {used}"


def _plain(option: str, given: str, out: str) -> None:
    """UserError for a file that plain weights cannot or should not be written to."""
    if not out.endswith(PLAIN):
        raise UserError(f"{option} {out}: allowed: a name that ends in {PLAIN}, which it will be; give one")
    if Path(out).resolve() == Path(given).resolve():
        raise UserError(f"{option} {out}: is the file that is read; give another name")
    writable(option, out)
