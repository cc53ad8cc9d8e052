"""A file for compressed detectors: zeros left out, 8-bit numbers as such, then a standard compressor; it loads back bit for bit.

Layout of version 1, little endian. Preamble: 8 bytes magic, 32 bytes SHA-256 of all that follows, u16 version, u8 compressor (a place in
COMPRESSORS), u8 zero, u64 length of the body before compression. Then the compressed body: u32 length of a JSON header, the header, and the numbers
of its entries in order. An entry has name, shape, kind ("int8" with scales, or a dtype of torch), layout ("dense", "bitmap", "index") and the
count of numbers stored; its numbers are the places (none; a bit each; gaps as bytes, 255 meaning 255 further on), then the values, then for int8
the scales.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from bench.types import UserError
from implementations.compression import packing
from implementations.compression.quantisation import Int8, compact_state
from implementations.compression.widths import fit, misfit

MAGIC = b"LEANDET\x00"
VERSION = 1
PREAMBLE = struct.Struct("<HBBQ")
DIGEST = 32
LARGEST_BODY = 2**31  # bytes before compression, and of all tensors together: above, a header asks for more memory than any detector here has
LARGEST_HEADER = 2**24
COMPRESSORS = ("zstd", "lzma")

State = Mapping[str, Tensor | Int8]


class Damaged(Exception):  # noqa: N818 - a state of a file; becomes a UserError that names it
    """What is wrong with the bytes."""


# ---- bytes


def encode(state: State, compressor: str = "zstd") -> bytes:
    """The whole file; UserError for a compressor that there is not."""
    if compressor not in COMPRESSORS:
        raise UserError(f"compressor {compressor!r}: unknown; allowed: {', '.join(COMPRESSORS)}; give one of these")
    entries, parts = [], []
    for name, tensor in state.items():
        entry, data = packing.pack(tensor)
        entries.append({"name": name, **entry})
        parts.append(data)
    header = json.dumps(entries, separators=(",", ":")).encode()
    body = b"".join((struct.pack("<I", len(header)), header, *parts))
    signed = PREAMBLE.pack(VERSION, COMPRESSORS.index(compressor), 0, len(body)) + _COMPRESS[compressor](body)
    return MAGIC + hashlib.sha256(signed).digest() + signed


def decode(data: bytes) -> dict[str, Tensor | Int8]:
    """What `encode` was given; Damaged for anything else, before memory is taken for what a header claims beyond LARGEST_BODY."""
    start = len(MAGIC) + DIGEST
    if data[: len(MAGIC)] != MAGIC:
        raise Damaged("it does not begin as a compressed detector does")
    if len(data) < start + PREAMBLE.size:
        raise Damaged("it ends within its preamble")
    if hashlib.sha256(data[start:]).digest() != data[len(MAGIC) : start]:
        raise Damaged("its SHA-256 does not fit: it is cut or changed")
    version, compressor, reserved, length = PREAMBLE.unpack_from(data, start)
    if version != VERSION:
        raise Damaged(f"it has version {version}, and this code reads {VERSION}")
    if compressor >= len(COMPRESSORS) or reserved:
        raise Damaged(f"it names compressor {compressor}, and there are {len(COMPRESSORS)}")
    if length > LARGEST_BODY:
        raise Damaged(f"it claims {length} bytes, above {LARGEST_BODY}")
    body = _expand(COMPRESSORS[compressor], data[start + PREAMBLE.size :], length)
    return _unpack(body)


def _unpack(body: bytes) -> dict[str, Tensor | Int8]:
    size = struct.unpack_from("<I", body)[0] if len(body) >= 4 else LARGEST_HEADER + 1
    if size > min(LARGEST_HEADER, len(body) - 4):
        raise Damaged("its header is longer than the file")
    entries = [_entry(item) for item in _header(body[4 : 4 + size])]
    if len({entry.name for entry in entries}) != len(entries):
        raise Damaged("two tensors share a name")
    if sum(entry.spec.bytes for entry in entries) > LARGEST_BODY:
        raise Damaged(f"its tensors claim more than {LARGEST_BODY} bytes")
    found, rest = {}, memoryview(body)[4 + size :]
    for entry in entries:
        try:
            found[entry.name], used = packing.unpack(entry.spec, rest)
        except ValueError as error:
            raise Damaged(f"tensor {entry.name[:80]!r}: {error}") from error
        rest = rest[used:]
    if len(rest):
        raise Damaged(f"{len(rest)} bytes follow its last tensor")
    return found


@dataclass(frozen=True)
class _Entry:
    name: str
    spec: packing.Spec


def _header(text: bytes) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its header is no JSON ({type(error).__name__})") from error
    if not isinstance(found, list):
        raise Damaged("its header is no list")
    return found


def _entry(item: Any) -> _Entry:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise Damaged("an entry of its header has no name")
    try:
        return _Entry(item["name"], packing.spec_of({key: value for key, value in item.items() if key != "name"}))
    except ValueError as error:
        raise Damaged(f"tensor {item['name'][:80]!r}: {error}") from error


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: pa.Codec("zstd", compression_level=6).compress(body, asbytes=True),
    "lzma": lambda body: lzma.compress(body, preset=6),
}


def _expand(compressor: str, data: bytes, length: int) -> bytes:
    """The body, never more than `length` bytes of it."""
    try:
        if compressor == "zstd":
            body = bytes(pa.Codec("zstd").decompress(data, length, asbytes=True)) if length else b""
        else:
            reader = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=2**28)
            body = reader.decompress(data, max_length=length)
            if not reader.eof and len(body) == length:
                body += reader.decompress(b"", max_length=1)
    except (OSError, ValueError, EOFError, lzma.LZMAError, MemoryError, pa.ArrowException) as error:
        raise Damaged(f"its {compressor} stream cannot be read") from error
    if len(body) != length:
        raise Damaged(f"it holds {len(body)} bytes and claims {length}")
    return body


# ---- files


def write_compressed(path: Path, state: State, *, compressor: str = "zstd") -> int:
    """Write the file, whole and read back equal in every bit, or not at all; its length in bytes.

    UserError for a state that no file can hold, and for a place where none can be written.
    """
    storable(path, state)
    data = encode(state, compressor)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        _read_back(partial, state)
        partial.replace(path)
    except Damaged as error:
        raise UserError(f"{path}: what was written does not read back ({error}), so it was not kept; store a smaller detector") from error
    finally:
        partial.unlink(missing_ok=True)
    return len(data)


def storable(path: Path, state: State) -> None:
    """UserError, before any byte is written, for a place that is none, kinds of numbers that the file does not know, and more than it may hold."""
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        why = "is a folder" if path.is_dir() else "its folder may not be written" if path.absolute().parent.is_dir() else "its folder is not there"
        raise UserError(f"{path}: {why}; give a file in a folder that is there and may be written")
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.dtype not in packing.KINDS.values():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {name} holds {kind}, which the file does not know; allowed: {', '.join(packing.KINDS)}; convert it")
    claimed = sum(_claim(tensor) for tensor in state.values())
    if claimed > LARGEST_BODY:
        raise UserError(f"{path}: its tensors take {claimed} bytes with their places; allowed: {LARGEST_BODY}; store a smaller detector")


def _claim(tensor: Tensor | Int8) -> int:
    """What a reader sets aside for a tensor, as `packing.Spec.bytes` has it."""
    values = tensor.values if isinstance(tensor, Int8) else tensor
    return values.numel() * (values.element_size() + 1)


def _read_back(path: Path, wanted: State) -> None:
    """Damaged where the file does not hold this state by name and in every bit."""
    found = decode(path.read_bytes())
    other = next((name for name in (*wanted, *found) if name not in found or name not in wanted or not _same_bits(found[name], wanted[name])), None)
    if other is not None:
        raise Damaged(f"{other} is not what it was")


def _same_bits(one: Tensor | Int8, other: Tensor | Int8) -> bool:
    if isinstance(one, Int8) and isinstance(other, Int8):
        return equal_bits(one.values, other.values) and equal_bits(one.scales, other.scales)
    return isinstance(one, Tensor) and isinstance(other, Tensor) and equal_bits(one, other)


def read_compressed(path: Path) -> dict[str, Tensor | Int8]:
    """The tensors of a file; UserError, one line, for a file that is missing, cut, changed, of another version or oversized."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a file that `leandet compress` made") from error
    except Damaged as error:
        raise UserError(f"{path}: {error}; give a file as `leandet compress` made it, or write it again") from error


def save_detector(detector: nn.Module, path: Path, *, compressor: str = "zstd") -> int:
    """Store a detector's state, weights on an 8-bit grid as integers; the length of the file in bytes."""
    return write_compressed(path, compact_state(detector), compressor=compressor)


def load_detector(detector: nn.Module, path: Path) -> None:
    """Fill a detector that is built alike, or wider than the file's; UserError names the first tensor that does not fit."""
    stored = {name: value.dequantised() if isinstance(value, Int8) else value for name, value in read_compressed(path).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    if not misfit(detector, shapes):
        fit(detector, shapes)
    own = detector.state_dict()
    for name in sorted(own.keys() | stored.keys()):
        if name not in own or name not in stored or own[name].shape != stored[name].shape:
            what = "is missing" if name not in stored else "has no place in it" if name not in own else f"has shape {tuple(stored[name].shape)}"
            raise UserError(f"{path}: {name} {what}; give the file of a detector that is built as this {type(detector).__name__} is")
    detector.load_state_dict(stored)


def stored_bytes(detector: nn.Module, *, compressor: str = "zstd") -> int:
    """How long the file of this detector is."""
    return len(encode(compact_state(detector), compressor))


def equal_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same in kind, shape and every bit."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(packing.as_bytes(one), packing.as_bytes(other))
