"""A split moved to another device is the same split there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.catalogue import built
from bench.datasets import open_split
from bench.datasets.source import Data
from bench.devices import on_device
from bench.execute import Setup, opening
from bench.plan import Choice, plan


def test_on_the_cpu_nothing_is_wrapped():
    split = open_split(Data("scenes", "scenes-v1"), "val")
    assert on_device(split, torch.device("cpu")) is split


def test_elsewhere_images_and_targets_are_there_and_all_else_is_the_same():
    split = open_split(Data("scenes", "scenes-v1"), "val")
    moved = on_device(split, torch.device("meta"))  # a device that every machine has
    assert (moved.name, moved.digest, moved.classes, len(moved)) == (split.name, split.digest, split.classes, len(split))
    assert (moved.image_id(3), moved.image_name(3)) == (split.image_id(3), split.image_name(3))
    assert (moved.image(3).device.type, moved.image(3).shape) == ("meta", split.image(3).shape)
    target, here = moved.target(3), split.target(3)
    assert {target.boxes.device.type, target.labels.device.type, target.crowd.device.type, target.difficult.device.type} == {"meta"}
    assert (target.boxes.shape, target.seed) == (here.boxes.shape, here.seed)
    assert (moved.ground_truth().boxes == split.ground_truth().boxes).all()


@pytest.mark.parametrize("kind", ["pretrain", "train"])
def test_a_model_is_on_the_device_before_it_learns(kind):
    """What a checkpoint keeps of an optimizer goes to where the parameters are: those that moved later would leave it behind."""
    run = next(run for run in plan(built().values(), Choice("smoke", rows=("fpn-r50",), seeds=1)) if run.kind == kind and run.row != "body-r50")
    free = replace(run, needs=())  # the weights that it starts from are not what is asked
    model, split = opening(free, Setup(built()), torch.device("meta"))
    assert {one.device.type for one in (*model.parameters(), *model.buffers())} == {"meta"}
    assert split.image(0).device.type == "meta"
