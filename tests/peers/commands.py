"""What leandet's commands do with a detector of a framework, as its test module asks for them: the same for each framework."""

from __future__ import annotations

import csv
import math
import os
import sys
from pathlib import Path

import pytest
from coco_files import write

from bench import cli
from bench.gather import read_stored


def called(monkeypatch, capsys, *words):
    """(exit code, what it said, what it said of errors) of leandet with those words, in this process."""
    monkeypatch.setattr(sys, "argv", ["leandet", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def called_in(monkeypatch, capsys, home, *words):
    """The same with the runs of a folder."""
    monkeypatch.setenv("LEANDET_HOME", str(home))
    return called(monkeypatch, capsys, *words)


def empty_home(home, monkeypatch):
    """A folder without runs as their home, a screen that cuts nothing off, and these modules for the processes that leandet starts."""
    monkeypatch.setenv("LEANDET_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("COLUMNS", "250")
    return home


def trained(monkeypatch, capsys, tmp_path, name):
    """The stored run of `leandet run NAME --tier smoke` on three small pictures of two classes, and what it printed."""
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "250")
    file = write(tmp_path / "data", "all", [1, 2, 3], [(1, 7), (2, 3), (3, 7)])
    data = ",".join(f"{split}={file}" for split in ("train", "val", "test"))
    code, out, err = called(monkeypatch, capsys, "run", name, "--tier", "smoke", "--data", data, "--seeds", "1")
    assert code == 0, out + err
    (stored,) = [
        each for each in read_stored(tmp_path / "home" / "runs") if each.record.paper == name.partition(":")[0] and each.record.kind != "cost"
    ]
    return stored, out


def learns(stored):
    """Trained to the end in leandet's own loop, scored, and its predictions kept."""
    assert stored.record.status == "ok"
    assert len(stored.record.samples["losses"]) == 12
    assert all(math.isfinite(loss) for loss in stored.record.samples["losses"])
    assert 0 <= stored.record.values["ap"] <= 100
    assert stored.predictions is not None


def measured(monkeypatch, capsys, tmp_path, name):
    """The row of `leandet measure NAME` at a small size, which leandet says fits its schema."""
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "250")
    path = tmp_path / "rows.csv"
    words = ("--size", "96x128", "--quick", "--device", "cpu", "--threads", "1", "--csv", str(path))
    code, out, err = called(monkeypatch, capsys, "measure", name, *words)
    assert code == 0, out + err
    code, out, err = called(monkeypatch, capsys, "leaderboard", "validate", str(path))
    assert (code, out) == (0, f"{path}: 1 rows fit the schema\n") or (code, out) == (0, f"{path}: 1 row fits the schema\n"), out + err
    with path.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    return row
