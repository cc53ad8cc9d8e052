"""The contract of a dataset: ours hold it, each planted fault is called by its rule, and the command takes what a package adds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from commands import called
from packaged import install

from bench import data_contract
from bench.data_contract import RULES, examine
from bench.datasets import open_split, parse_data

SCENES = parse_data("scenes-v1")


class Wrapped:
    """A split of ours of three images, with something changed."""

    def __init__(self, **changed):
        self._split, self._changed = open_split(SCENES, "test"), changed
        self.name, self.classes = "wrapped", changed.get("classes", self._split.classes)
        self.digest = changed.get("digest", "d")

    def __len__(self):
        return 3

    def image(self, index):
        return self._changed.get("image", lambda image: image)(self._split.image(index))

    def target(self, index):
        return self._changed.get("target", lambda target: target)(self._split.target(index))

    def image_id(self, index):
        return self._changed.get("image_id", index)

    def image_name(self, index):
        return str(index)

    def ground_truth(self):
        truth = self._split.ground_truth()
        kept = truth.image < 3
        columns = {name: getattr(truth, name)[kept] for name in ("image", "boxes", "labels", "crowd", "difficult", "area")}
        return replace(truth, image_ids=truth.image_ids[:3], **columns)


def broken(monkeypatch, **changed):
    monkeypatch.setattr(data_contract, "open_split", lambda data, name: Wrapped(**changed))
    return {each.rule.partition(": ")[2] or each.rule for each in examine(SCENES) if each.state == "broken"}


def test_a_faultless_one_holds_it(monkeypatch):
    assert broken(monkeypatch) == set()


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("classes and images are named", {"image_id": 0}),
        ("classes and images are named", {"classes": ("a", "a")}),
        ("a digest that stays", {"digest": ""}),
        ("images are float32 in 0..1", {"image": lambda image: image * 255}),
        ("images are float32 in 0..1", {"image": lambda image: image[:1]}),
        ("boxes inside the image", {"target": lambda target: replace(target, boxes=target.boxes + 1000)}),
        ("boxes inside the image", {"target": lambda target: replace(target, boxes=target.boxes[:, [2, 3, 0, 1]])}),
        ("labels 0..C-1", {"target": lambda target: replace(target, labels=target.labels + 1000)}),
        ("ground truth as the targets", {"target": lambda target: replace(target, boxes=target.boxes * 0.9)}),
    ],
)
def test_a_planted_fault_is_called_by_its_rule(monkeypatch, rule, changed):
    assert rule in broken(monkeypatch, **changed)


def test_a_reader_that_raises_is_a_finding(monkeypatch):
    def moon(image):
        raise OSError("pixels are on the moon")

    assert {"images are float32 in 0..1", "boxes inside the image"} <= broken(monkeypatch, image=moon)


def test_every_rule_is_looked_at(monkeypatch):
    monkeypatch.setattr(data_contract, "open_split", lambda data, name: Wrapped())
    assert len(examine(SCENES)) == 3 * len(RULES) + 1


def test_what_a_package_adds_is_checked_by_its_name(monkeypatch, capsys, tmp_path):
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(data_contract, "SHOWN", 2)
    code, out, _ = called(monkeypatch, capsys, "check", "mine=/data/here")
    assert (code, out.count("ok ")) == (0, 3 * len(RULES) + 1)
    assert called(monkeypatch, capsys, "check", "middle", "--classes", "1")[1].startswith("ok")
    code, _, err = called(monkeypatch, capsys, "check", "mine")
    assert (code, "mine=TEXT" in err, len(err.strip().splitlines())) == (2, True, 1)
    code, _, err = called(monkeypatch, capsys, "check", "test=/nope.json")
    assert (code, "/nope.json: there is no such file" in err, len(err.strip().splitlines())) == (2, True, 1)


def test_labels_of_no_box_are_fine(monkeypatch):
    empty = {"target": lambda target: replace(target, boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))}
    assert broken(monkeypatch, **empty) == {"ground truth as the targets"}
