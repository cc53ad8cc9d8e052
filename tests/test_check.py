"""`leandet check` through the command line: rule by rule, what is broken and what mends it; and which adapters there are."""

from __future__ import annotations

import pytest
from coco_files import write
from commands import called, empty_home

from bench.adapters import BUILT_IN


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    return empty_home(tmp_path / "home", monkeypatch)


def test_check_says_rule_by_rule(monkeypatch, capsys):
    code, out, err = called(monkeypatch, capsys, "check", "python:faulty:Good", "--classes", "3")
    assert code == 0, out + err
    assert "ok        boxes inside the image" in out
    assert "ok        losses reach every trainable parameter" in out


def test_check_says_what_is_broken_and_what_mends_it(monkeypatch, capsys):
    code, out, err = called(monkeypatch, capsys, "check", "python:faulty:Dry", "--classes", "3")
    assert code == 2
    assert "broken    losses reach every trainable parameter: 2 of 4 have no gradient, as unused.weight; to mend: use every trainable" in out
    assert err.strip().splitlines() == ["leandet: python:faulty:Dry: breaks 1 of 17 rules of the contract, listed above with what mends them"]


@pytest.mark.parametrize("name", ["condensing.fpn-r50", "condensing.fpn-r50@fused"])
def test_check_of_a_papers_row(monkeypatch, capsys, name):
    code, out, err = called(monkeypatch, capsys, "check", name)
    assert code == 0, out + err
    assert "broken" not in out
    assert ("inference only: none of its parameters is trainable" in out) == ("@" in name)


def test_adapters_are_listed(monkeypatch, capsys):
    code, out, _ = called(monkeypatch, capsys, "list", "--adapters")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()][: len(BUILT_IN)] == list(BUILT_IN)
    assert {"torchvision", "transformers", "mmdet", "detectron2", "onnx", "openvino", "python"} == set(BUILT_IN)


def test_a_json_behind_an_adapters_name_is_no_dataset(monkeypatch, capsys):
    code, out, err = called(monkeypatch, capsys, "check", "onnx:folder/config.json")
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert "dataset" not in err
    assert "no such file" in err


def test_a_coco_file_is_checked_by_its_path(monkeypatch, capsys, tmp_path):
    file = write(tmp_path, "all", [1, 2], [(1, 7), (2, 3)])
    for name in (file, f"coco:{file}"):
        code, out, err = called(monkeypatch, capsys, "check", name)
        assert code == 0, out + err
        assert "ok        test: boxes inside the image" in out
    code, out, err = called(monkeypatch, capsys, "check", tmp_path / "none.json")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "none.json" in err
