"""`leandet equivalence`: residuals by hand, and our detectors beside torchvision's with the same weights."""

from __future__ import annotations

import pytest
import torch
from commands import called, empty_home

from bench.types import Detections
from implementations.adapters.equivalence import PX, SCORE, compared


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    return empty_home(tmp_path / "home", monkeypatch)


def found(boxes, scores, labels):
    return Detections(torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(labels))


def test_residuals_by_hand():
    ours = found([[0, 0, 10, 10], [0, 0, 20, 20]], [0.5, 0.4], [1, 2])
    moved = found([[0, 0, 20, 20.05], [0, 0, 10, 10.02]], [0.4002, 0.4], [2, 1])
    residual = compared("x", (1, 1), ours, moved)
    assert (residual.px, residual.unpaired) == (pytest.approx(0.05, abs=1e-4), 0)
    assert residual.score == pytest.approx(0.1, abs=1e-4)
    assert not residual.same
    assert compared("x", (1, 1), ours, ours).same
    other = compared("x", (1, 1), ours, found([[0, 0, 10, 10]], [0.5], [3]))
    assert other.unpaired == 3  # two of ours, and a count that differs by one
    assert not compared("x", (1, 1), found([], [], []), found([], [], [])).same  # nothing found shows nothing


@pytest.mark.slow
def test_ours_and_torchvisions_are_the_same_at_a_small_size(monkeypatch, capsys):
    code, out, err = called(monkeypatch, capsys, "equivalence", "--size", "160x224")
    assert code == 0, out + err
    rows = [line.split() for line in out.splitlines()[1:-1]]
    assert [row[0] for row in rows] == ["fasterrcnn_resnet50_fpn"] * 2 + ["retinanet_resnet50_fpn"] * 2
    assert all(row[-1] == "same" and float(row[-3]) < SCORE and float(row[-2]) < PX and int(row[2]) >= 20 for row in rows), out


@pytest.mark.slow
def test_ours_and_torchvisions_are_the_same_at_full_size(monkeypatch, capsys):
    code, out, err = called(monkeypatch, capsys, "equivalence")
    assert code == 0, out + err
