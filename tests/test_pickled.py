"""Checkpoints that pickle holds: what frameworks leave is read, a training's history beside it is inert, and what could run is refused unrun."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch

from bench.types import UserError
from implementations.layers.pickled import Inert, load_torch, read_state

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.steps": torch.tensor(3)}

HISTORY = """
import numpy as np
class Buffer:
    def __init__(self):
        self._log_history, self._max_length = np.array([1.0, 2.0]), 7
        self._statistics_methods = {"mean": Buffer.mean}
    def mean(self):
        return 0
"""


class Harmful:
    """What calls something when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A module named as mmengine's own, gone again before anything is read."""
    monkeypatch.delitem(sys.modules, "mmengine", raising=False)
    (tmp_path / "lib" / "mmengine").mkdir(parents=True)
    (tmp_path / "lib" / "mmengine" / "__init__.py").write_text(HISTORY)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    import mmengine

    yield mmengine.Buffer()
    sys.modules.pop("mmengine", None)


def same(found, wanted):
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_runners_file_is_read_where_its_framework_is_not(history, tmp_path, monkeypatch):
    hub = {"log_scalars": OrderedDict(loss=history), "log_info": OrderedDict(lr=np.float64(0.1), where=np.int64(3)), "args": argparse.Namespace(a=1)}
    torch.save({"meta": {"epoch": 1}, "state_dict": STATE, "message_hub": hub, "optimizer": {"state": {}}}, tmp_path / "epoch_1.pth")
    monkeypatch.delitem(sys.modules, "mmengine")
    (tmp_path / "lib" / "mmengine" / "__init__.py").write_text("raise RuntimeError('nothing of it may be imported')")
    with pytest.raises(pickle.UnpicklingError):  # torch's own reader has no place for it
        torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    same(read_state(tmp_path / "epoch_1.pth"), STATE)
    assert "mmengine" not in sys.modules
    assert isinstance(load_torch(tmp_path / "epoch_1.pth")["message_hub"]["log_scalars"]["loss"], Inert)
    with pytest.raises(pickle.UnpicklingError):  # and what was let through is not let through for good
        torch.load(tmp_path / "epoch_1.pth", weights_only=True)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_zoos_pickle_of_arrays_is_read(tmp_path, protocol):
    arrays = {"a.weight": STATE["a.weight"].numpy(), "a.steps": np.int64(3)}
    for place, model in enumerate((arrays, OrderedDict(arrays))):
        path = tmp_path / f"{place}.pkl"
        path.write_bytes(pickle.dumps({"model": model, "__author__": "Detectron2 Model Zoo"}, protocol=protocol))
        same(read_state(path), STATE)


@pytest.mark.parametrize(
    ("call", "named"),
    [((os.system, "touch {}"), "posix.system"), ((subprocess.getoutput, "touch {}"), "getoutput"), ((eval, "open('{}', 'w')"), "eval")],
)
@pytest.mark.parametrize("suffix", ["pth", "legacy.pth", "pkl"])
def test_what_would_run_is_refused_in_one_line_and_does_not(tmp_path, call, named, suffix):
    mark, path = tmp_path / "ran", tmp_path / f"bad.{suffix}"
    content = {"state_dict": STATE, "meta": Harmful(call[0], call[1].format(mark))}
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(content["meta"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=suffix == "pth")
    with pytest.raises(UserError, match=named) as error:
        read_state(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert not mark.exists()


def test_a_package_whose_values_are_let_through_runs_nothing_either(tmp_path):
    mark = tmp_path / "ran.npy"
    torch.save({"state_dict": STATE, "meta": Harmful(np.save, str(mark), np.zeros(1))}, tmp_path / "bad.pth")
    same(read_state(tmp_path / "bad.pth"), STATE)
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": {"a": np.zeros(1)}, "more": Harmful(np.save, str(mark), np.zeros(1))}))
    with pytest.raises(UserError, match=r"holds numpy\.save"):
        read_state(tmp_path / "bad.pkl")
    assert not mark.exists()


def test_getattr_reaches_nothing(tmp_path):
    """A method can be named by it in a history; a chain of names to what runs ends in nothing."""
    stolen = b"\x80\x02c__builtin__\ngetattr\ncnumpy\nos\nU\x06system\x86R."
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1)}, path)
    import zipfile

    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, stolen if name.endswith("data.pkl") else content)
    assert isinstance(load_torch(path), Inert)
    with pytest.raises(UserError, match="holds no tensors"):
        read_state(path)
