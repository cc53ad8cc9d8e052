"""How large a module is when it is stored: the rules that papers' "MB" follow, by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from math import ceil
from typing import IO, cast

import torch
from torch import Tensor, nn

from bench.meters.conventions import is_batch_norm
from bench.meters.params import count_params
from bench.types import UserError

MIB = 2**20


class _Length:
    """A file that keeps only its length."""

    def __init__(self) -> None:
        self.length = 0

    def write(self, data: bytes | memoryview) -> int:
        size = memoryview(data).nbytes
        self.length += size
        return size

    def flush(self) -> None:
        """Nothing is held back."""


def stored_state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """What a checkpoint of the modules holds, by name. Every batch norm is stored with its count of batches, as nn.BatchNorm2d stores itself."""
    state: dict[str, Tensor] = {}
    for prefix, outer in modules.items():
        state |= {f"{prefix}.{name}": tensor for name, tensor in outer.state_dict().items()}
        norms = (name for name, inner in outer.named_modules() if is_batch_norm(inner))
        for counter in (".".join(filter(None, (prefix, name, "num_batches_tracked"))) for name in norms):
            state.setdefault(counter, torch.empty((), dtype=torch.long, device="meta"))
    return state


def file_bytes(state: Mapping[str, Tensor]) -> int:
    """The exact length of the state saved by torch.save in the format of torch before 1.6, which mmdet v1 wrote.

    Tensors on meta are given memory that is never touched, so a head of 160 MB costs a few milliseconds. The format names each storage by its
    address, so the length may differ by some bytes from one process to the next.
    """
    length = _Length()
    real = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu") for name, tensor in state.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)  # torch calls its own storages deprecated
        torch.save(real, cast("IO[bytes]", length), _use_new_zipfile_serialization=False)
    return length.length


def mib_ceil(modules: Mapping[str, nn.Module]) -> float:
    """Bytes of the saved file / 2^20, rounded up: what a file manager shows."""
    return float(ceil(file_bytes(stored_state(modules)) / MIB))


def mb(modules: Mapping[str, nn.Module]) -> float:
    """Parameters x 4 bytes / 10^6: arithmetic, no file."""
    return count_params(*modules.values()) * 4 / 1e6


SizeRule = Callable[[Mapping[str, nn.Module]], float]
SIZES: dict[str, SizeRule] = {"mib_ceil": mib_ceil, "mb": mb}


def size_rule(name: str) -> SizeRule:
    """The rule of that name; UserError lists the names there are."""
    if name not in SIZES:
        raise UserError(f"size convention {name!r} is not known; there are {', '.join(sorted(SIZES))} (bench/meters/bytes.py)")
    return SIZES[name]
