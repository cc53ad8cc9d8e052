"""One tensor as bytes: its numbers that are not zero and where they stand, as a bitmap or as gaps, whichever is shorter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from implementations.compression.quantisation import Int8

Layout = Literal["dense", "bitmap", "index"]
LAYOUTS: tuple[Layout, ...] = ("dense", "bitmap", "index")
KINDS = {
    str(kind).removeprefix("torch."): kind
    for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool)
}
INT8 = "int8"  # with scales
FAR = 255  # a gap byte that means: 255 further on, and no number here
PATTERNS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SIDES = 8  # dimensions at most
PIECE = 2**16  # bytes of places that are read at a time
LONGEST = 2**40  # numbers in one tensor that a header may claim; what it may take in memory is the file's to say


@dataclass(frozen=True)
class Spec:
    """What a header says of a tensor."""

    shape: tuple[int, ...]
    kind: str
    layout: Layout
    stored: int  # numbers that are written out
    gaps: int  # bytes of gaps, of the index layout

    @property
    def numel(self) -> int:
        """Numbers of the tensor."""
        return prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of one number."""
        return 1 if self.kind == INT8 else KINDS[self.kind].itemsize

    @property
    def bytes(self) -> int:
        """What the tensor takes in memory, places included."""
        return self.numel * (self.width + 1)


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor in the order of its indices, (N,) uint8."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def pack(tensor: Tensor | Int8) -> tuple[dict[str, Any], bytes]:
    """The header entry of a tensor, and its numbers. A number counts as zero only if all its bits are: minus zero is kept."""
    values = tensor.values if isinstance(tensor, Int8) else tensor
    kind = INT8 if isinstance(tensor, Int8) else str(tensor.dtype).removeprefix("torch.")
    assert kind in KINDS or isinstance(tensor, Int8), f"no kind for {kind}"
    numbers = as_bytes(values).numpy().view(PATTERNS[values.element_size()])
    places = np.flatnonzero(numbers)
    where = {"dense": b"", "bitmap": np.packbits(numbers != 0).tobytes(), "index": gap_bytes(places)}
    kept = {"dense": numbers, "bitmap": numbers[places], "index": numbers[places]}
    layout = min(LAYOUTS, key=lambda each: len(where[each]) + kept[each].nbytes)
    scales = as_bytes(tensor.scales).numpy().tobytes() if isinstance(tensor, Int8) else b""
    entry = {"shape": list(values.shape), "kind": kind, "layout": layout, "stored": len(kept[layout])}
    if layout == "index":
        entry["gaps"] = len(where["index"])
    return entry, where[layout] + kept[layout].tobytes() + scales


def gap_bytes(places: np.ndarray) -> bytes:
    """How many zeros stand before each number, as bytes; FAR as often as it takes."""
    gaps = np.diff(places, prepend=-1) - 1
    far = gaps // FAR
    out = np.full(int(far.sum()) + len(gaps), FAR, np.uint8)
    out[np.cumsum(far + 1) - 1] = gaps % FAR
    return out.tobytes()


def spec_of(entry: Mapping[str, Any]) -> Spec:
    """A header entry, checked; ValueError says what is wrong."""
    shape, kind, layout = (entry.get(key) for key in ("shape", "kind", "layout"))
    if not isinstance(shape, list) or len(shape) > SIDES or not all(_count(side) for side in shape) or prod(shape) > LONGEST:
        raise ValueError("its shape is none")
    if kind != INT8 and (not isinstance(kind, str) or kind not in KINDS):
        raise ValueError("its kind of numbers is unknown")
    if layout not in LAYOUTS:
        raise ValueError("its layout is unknown")
    stored, gaps = entry.get("stored"), entry.get("gaps", 0)
    known = {"shape", "kind", "layout", "stored", "gaps"}
    if not _count(stored) or not _count(gaps) or stored > prod(shape) or (layout != "index" and gaps) or set(entry) - known:
        raise ValueError("its counts fit no tensor")
    if gaps > stored + prod(shape) // FAR:  # a number ends each gap, and a further byte stands for 255 places of the tensor
        raise ValueError("its counts fit no tensor")
    spec = Spec(tuple(shape), str(kind), layout, int(stored), int(gaps))
    if (layout == "dense" and spec.stored != spec.numel) or (kind == INT8 and not shape):
        raise ValueError("its counts fit no tensor")
    return spec


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LONGEST


def unpack(spec: Spec, data: memoryview) -> tuple[Tensor | Int8, int]:
    """The tensor at the start of `data`, and how many bytes it took; ValueError where they do not fit its spec."""
    lengths = {"dense": 0, "bitmap": -(-spec.numel // 8), "index": spec.gaps}
    start, end = lengths[spec.layout], lengths[spec.layout] + spec.stored * spec.width
    units = spec.shape[0] if spec.kind == INT8 else 0
    if end + 4 * units > len(data):
        raise ValueError("the file ends within it")
    values = np.frombuffer(data[start:end], PATTERNS[spec.width])
    numbers = values.copy() if spec.layout == "dense" else np.zeros(spec.numel, PATTERNS[spec.width])
    if spec.layout != "dense":
        _fill(numbers, values, spec, np.frombuffer(data[:start], np.uint8))
    kind = torch.int8 if spec.kind == INT8 else KINDS[spec.kind]
    if kind is torch.bool and bool((numbers > 1).any()):
        raise ValueError("it holds a truth value that is neither")
    found = torch.from_numpy(numbers.view(np.uint8)).view(kind).reshape(spec.shape)
    if spec.kind != INT8:
        return found, end
    scales = torch.from_numpy(np.frombuffer(data[end : end + 4 * units], np.float32).copy())
    if not bool((scales > 0).all()) or not bool(scales.isfinite().all()):
        raise ValueError("a scale is not above zero")
    return Int8(found, scales), end + 4 * units


def _fill(numbers: np.ndarray, values: np.ndarray, spec: Spec, where: np.ndarray) -> None:
    used = 0
    for places in _places(spec, where):
        if used + len(places) > len(values):
            raise ValueError("it has other numbers than places")
        numbers[places] = values[used : used + len(places)]
        used += len(places)
    if used != len(values):
        raise ValueError("it has other numbers than places")


def _places(spec: Spec, where: np.ndarray) -> Iterator[np.ndarray]:
    """Where the numbers stand, by PIECE bytes: all of them at once would take 24 bytes for each that a file claims."""
    before = -1  # the last place that the gaps so far lead to
    for first in range(0, len(where), PIECE):
        piece = where[first : first + PIECE]
        if spec.layout == "bitmap":
            places = np.flatnonzero(np.unpackbits(piece)) + 8 * first
        else:
            along = before + np.cumsum(np.where(piece == FAR, FAR, piece.astype(np.int64) + 1))
            places, before = along[piece != FAR], int(along[-1])
        if len(places) and places[-1] >= spec.numel:
            raise ValueError("its bitmap is longer than it" if spec.layout == "bitmap" else "its gaps lead beyond it")
        yield places
