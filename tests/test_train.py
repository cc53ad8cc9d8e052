"""The loop: its schedule by hand, and on the real smoke-size detector: repeatable, resumable after kill -9, equal over two processes."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from bench.datasets import open_split
from bench.datasets.source import parse_data
from bench.scales import SCALES
from bench.schedule import order, rate_at
from bench.spec import Request, Schedule, Setting
from bench.train import CHECKPOINT, CONSTANT, Job, TrainingError, train

SCHEDULE = Schedule(images=48, decay_images=32, epoch_images=16, warmup_images=16, batch=8, rate=0.5)
SETTING = Setting(data="voc07+12", classes=20, min_px=600, max_px=1000, backbone="R50")


def detector(seed=0):
    from implementations.baselines.faster_rcnn import faster_rcnn_fpn

    torch.manual_seed(seed)
    return faster_rcnn_fpn(Request(setting=SETTING, scale=SCALES["smoke"], classes=10))


def run(folder, **changes):
    torch.set_num_threads(1)
    schedule = replace(SCALES["smoke"].schedule, images=32, decay_images=16, epoch_images=16)
    model = detector()
    job = Job(**{"folder": folder, "schedule": schedule, "seed": 3, **changes})
    progress = train(Fabric(accelerator="cpu"), model, open_split(parse_data("scenes-v1"), "train"), job)
    return model.state_dict(), progress


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_rate_warms_up_stays_and_falls():
    rates = [rate_at(SCHEDULE, images) for images in range(0, 80, 8)]
    assert rates == [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.375, 0.25, 0.125]


def test_steps_drop_by_ten():
    steps = replace(SCHEDULE, decay="steps", drops=(0.5, 0.75), warmup_images=0)
    assert [rate_at(steps, images) for images in (0, 39, 40, 60)] == pytest.approx([0.5, 0.5, 0.05, 0.005])


def test_each_pass_shows_each_image_once_in_another_order():
    stream = order(10, 7, 0, 30)
    assert [sorted(stream[start : start + 10]) for start in (0, 10, 20)] == [list(range(10))] * 3
    assert stream[:10] != stream[10:20]
    assert order(10, 7, 13, 5) == stream[13:18]


def test_same_seed_same_weights_bit_for_bit(tmp_path):
    first, _ = run(tmp_path / "a")
    second, _ = run(tmp_path / "b")
    other, _ = run(tmp_path / "c", seed=4)
    assert equal(first, second)
    assert not equal(first, other)


def test_it_trains_in_bfloat16_too(tmp_path):
    """Fabric looks into what the model is called with, and refuses frozen dataclasses; the weights stay float32."""
    torch.set_num_threads(1)
    model = detector()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    job = Job(tmp_path, SCALES["smoke"].schedule, 3, stop_after=8)
    fabric = Fabric(accelerator="cpu", precision="bf16-mixed")
    progress = train(fabric, model, open_split(parse_data("scenes-v1"), "train"), job)
    assert all(math.isfinite(loss) for loss in progress.losses)
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())
    assert not equal(before, model.state_dict())


def test_a_plateau_proof_continues_from_the_constant_rate(tmp_path):
    run(tmp_path / "main")
    longer = replace(SCALES["smoke"].schedule, images=48, decay_images=16, epoch_images=16)
    _, progress = run(tmp_path / "proof", schedule=longer, start=tmp_path / "main" / CONSTANT)
    assert [entry["images"] for entry in progress.curve] == [16, 32, 48, 64]
    whole, _ = run(tmp_path / "whole", schedule=longer)
    assert equal(load_file(tmp_path / "proof" / CHECKPOINT), load_file(tmp_path / "whole" / CHECKPOINT))
    assert whole


KILLED = """
import sys, pathlib, torch
sys.path.insert(0, sys.argv[2])
import test_train
test_train.run(pathlib.Path(sys.argv[1]))
"""


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path):
    whole, _ = run(tmp_path / "whole")
    broken = tmp_path / "broken"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(broken), str(Path(__file__).parent)])
    while not (broken / CHECKPOINT).exists() and child.poll() is None:
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -9, "it ended before it was killed"
    resumed, progress = run(broken)
    assert progress.images == 48
    assert equal(whole, resumed)


TWO = """
import json, os, sys, torch
sys.path.insert(0, sys.argv[2])
import test_train
from lightning_fabric import Fabric
from bench.datasets import open_split
from bench.datasets.source import parse_data
from bench.train import _load, order
torch.set_num_threads(1)
fabric = Fabric(accelerator="cpu", devices=int(sys.argv[3]), strategy="ddp" if sys.argv[3] == "2" else "auto")
fabric.launch()
model = fabric.setup_module(test_train.detector())
split = open_split(parse_data("scenes-v1"), "train")
positions = list(range(8))[fabric.global_rank::fabric.world_size]
indices = order(len(split), 3, 0, 8)[fabric.global_rank::fabric.world_size]
losses = model(*_load(split, indices, positions, 3))
total = sum(losses.values())
fabric.backward(total)
mean = fabric.all_reduce(total.detach(), reduce_op="mean")
if fabric.is_global_zero:
    gradients = {name: p.grad.flatten().tolist()[:50] for name, p in model.module.named_parameters() if p.grad is not None}
    open(sys.argv[1], "w").write(json.dumps({"loss": float(mean), "gradients": gradients}))
"""


def test_two_processes_train_as_one_does(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    answers = []
    for devices in ("1", "2"):
        out = tmp_path / f"{devices}.json"
        command = [sys.executable, str(tmp_path / "two.py"), str(out), str(Path(__file__).parent), devices]
        subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"})
        answers.append(json.loads(out.read_text()))
    one, two = answers
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, values in one["gradients"].items():
        assert two["gradients"][name] == pytest.approx(values, abs=1e-4), name


class _Diverging(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.steps = 0

    def forward(self, images, targets):
        self.steps += 1
        return {"loss": self.weight * (math.inf if self.steps == 2 else 1.0)}


def test_a_loss_that_is_not_finite_names_the_images(tmp_path):
    split = open_split(parse_data("scenes-v1"), "train")
    names = [split.image_name(index) for index in order(len(split), 0, 8, 8)]
    with pytest.raises(TrainingError) as caught:
        train(Fabric(accelerator="cpu"), _Diverging(), split, Job(tmp_path, SCHEDULE, seed=0))
    assert all(name in str(caught.value) for name in names)
