"""Checkpoints of other libraries, read without running anything that they hold.

A .pth as torch.save leaves it may hold a training's history beside its tensors: it becomes `Inert`, so that mmengine, say, need not be
here. A .pkl as detectron2 publishes it holds arrays of numpy.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bench.types import UserError

HISTORY = ("detectron2", "fvcore", "mmcv", "mmdet", "mmengine", "numpy", "omegaconf", "torch", "yacs")  # packages whose values stand beside weights
BESIDE = (  # and of Python itself
    "argparse.Namespace",
    "builtins.getattr",  # how a method is named: HistoryBuffer.mean
    "builtins.slice",
    "collections.defaultdict",
    "collections.deque",
    "datetime.datetime",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
)
NEXT = "give its tensors alone, as torch.save(model.state_dict(), FILE) leaves them"


class Inert:
    """What stands for a value that is no tensor and no plain container: it takes anything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Self:  # noqa: D102 - as the class
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        """Nothing of it is kept."""


def load_torch(path: Path) -> Any:
    """What torch.save left, by torch's own reader of weights; UserError names the first thing in it that could run something."""
    try:
        unknown = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except ValueError:  # of torch before 1.6, which the reader of weights takes too; a program of TorchScript, which it does not
        unknown = []
    strange = [name for name in unknown if name not in BESIDE and name.partition(".")[0] not in HISTORY]
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in unknown if name not in strange]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|[Uu]nsupported (?:class|global)) ([\w.]+)", str(error))
        found = strange[0] if strange else named[1] if named else ""
        if not found:
            raise
        raise UserError(f"{path}: holds {found}, which is no part of a checkpoint, and nothing of it was run; {NEXT}") from error


class _Arrays(pickle.Unpickler):
    """Reads arrays of numpy in plain containers, and nothing that could run."""

    refused = ""  # what ended the reading
    ALLOWED: Mapping[tuple[str, str], Callable[..., Any] | type] = {
        **{(f"numpy.{core}.multiarray", "_reconstruct"): np._core.multiarray._reconstruct for core in ("core", "_core")},  # noqa: SLF001 - pickles name it
        **{(f"numpy.{core}.multiarray", "scalar"): np._core.multiarray.scalar for core in ("core", "_core")},  # noqa: SLF001 - as above
        **{(f"numpy.{core}.numeric", "_frombuffer"): np._core.numeric._frombuffer for core in ("core", "_core")},  # noqa: SLF001 - as above
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1") if encoding == "latin1" else _refuse(f"text as {encoding}"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """One of ALLOWED; anything else ends the reading."""
        if (module, name) not in self.ALLOWED:
            self.refused = f"{module}.{name}"
            _refuse(self.refused)
        return self.ALLOWED[module, name]


def _refuse(what: str) -> None:
    raise pickle.UnpicklingError(f"{what} is not allowed")


def load_arrays(path: Path) -> Any:
    """What a .pkl holds; UserError names the first thing in it that is no array, number, text or container of these."""
    with path.open("rb") as stream:
        reader = _Arrays(stream, encoding="latin1")
        try:
            return reader.load()
        except pickle.UnpicklingError as error:
            if not reader.refused:
                raise
            told = f"{path}: holds {reader.refused}, which is neither an array of numpy nor a plain container, and nothing of it was run"
            raise UserError(f"{told}; give the .pkl as it was published") from error


def tensors_of(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """What of a state is a tensor, or an array of numbers made one, by name."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            yield str(name), value
        elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
            yield str(name), torch.from_numpy(np.array(value))


def read_state(path: Path, *, give: str = "a state dict as .safetensors or .pth") -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth, .pt, .bin or .pkl by its library's names; UserError, which says what to give, where it holds none."""
    try:
        found = _read(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); give a file that exists") from error
    except Exception as error:  # damaged files raise a dozen kinds
        raise UserError(f"{path}: holds no plain tensors ({type(error).__name__}); give {give}") from error
    inner = next((found[key] for key in ("model", "state_dict") if isinstance(found, dict) and isinstance(found.get(key), dict)), found)
    tensors = dict(tensors_of(inner)) if isinstance(inner, dict) else {}
    if not tensors:
        raise UserError(f"{path}: holds no tensors; give {give}")
    return tensors


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return load_arrays(path) if path.suffix == ".pkl" else load_torch(path)
