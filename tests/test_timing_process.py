"""What the measuring process answers, asked in this process: a finished run with its own weights, at the smoke tier."""

from __future__ import annotations

import sys
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bench import places
from bench.assemble import build_detector
from bench.catalogue import find_paper
from bench.detectors import weights_file, weights_hash
from bench.meters.latency import time_image
from bench.metrics.store import write_predictions
from bench.records import read_record
from bench.scales import SCALES
from bench.subjects import PREDICTIONS, WEIGHTS, Conditions, Subject, find_subject
from bench.timing_process import audits, facts, image_list, macs, measure, memory, open_detector, warm
from bench.types import Predictions

RUN = "condensing.fpn-r50.smoke.s0"
CONDITIONS = Conditions(images=3, threads=1, device="cpu")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A run that has left its weights, and nothing of what it started from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANDET_HOME", str(tmp_path_factory.mktemp("home")))
        detector = build_detector(find_paper("condensing").row("fpn-r50"), SCALES["smoke"], 10, seed=5)
        folder = places.run_folder(RUN)
        folder.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in detector.state_dict().items()}, folder / WEIGHTS)
        subject = find_subject(RUN, "paper")
        assert subject == Subject(RUN, "smoke")
        found = open_detector(subject, CONDITIONS)
        assert weights_hash(found.detector) == weights_hash(detector)
        yield found


def found_on(opened, place):
    return time_image(opened.detector, opened.image(place), opened.runtime)[1]


def predictions(opened, shift=0.0):
    found = [found_on(opened, place) for place in range(3)]
    image = np.repeat([opened.split.image_id(place) for place in range(3)], [len(one.scores) for one in found])
    boxes = torch.cat([one.boxes for one in found]).numpy() + np.float32(shift)
    return Predictions(image, boxes, torch.cat([one.scores for one in found]).numpy(), torch.cat([one.labels for one in found]).numpy())


def test_it_tells_what_it_is(opened):
    told = facts(opened)
    assert (told["device"], told["gpu"], told["threads"], told["torch"]) == ("cpu", "", torch.get_num_threads(), torch.__version__)
    assert len(told["weights"]) == 64
    assert told["weights_file"] == sha256((places.run_folder(RUN) / WEIGHTS).read_bytes()).hexdigest()  # as the run's own record has it
    assert weights_file(Subject("condensing.fpn-r50", "smoke"), "scenes-v1") == ""


def test_the_list_is_named_by_its_images(opened):
    assert image_list(opened) == image_list(opened)
    assert image_list(opened) != image_list(replace(opened, conditions=replace(CONDITIONS, images=2)))


def test_it_warms_up_and_measures(opened):
    warmed = warm(opened, quick=True)
    assert len(warmed["samples_ms"]) == 1
    assert warmed["formats"]["pixels"] == "channels_last"
    assert len(warmed["input"]) == 2
    said = measure(opened, place=1)
    assert said["image"] == opened.split.image_name(1)
    assert (said["height"], said["width"]) == tuple(opened.image(1).shape[-2:])
    assert 0 < said["rois"] <= 16
    assert memory(opened)["peak_memory_mb"] > 0


def test_a_run_is_held_against_its_stored_predictions(opened):
    path = places.run_folder(RUN) / PREDICTIONS
    own = [finding for finding in audits(opened)["findings"] if "stored" in finding["said"]]
    assert own == []  # there are none
    write_predictions(path, predictions(opened))
    assert not [finding for finding in audits(opened)["findings"] if "stored" in finding["said"]]
    write_predictions(path, predictions(opened, shift=3.0))
    assert [finding["audit"] for finding in audits(opened)["findings"] if "stored" in finding["said"]] == ["accuracy"]


def test_multiply_adds_are_counted_for_so_many_rois(opened):
    """Last, as the detector is spent by it."""
    few, many = macs(opened, size=(64, 64), rois=10), macs(opened, size=(64, 64), rois=20)
    assert many["macs_g"] - few["macs_g"] == pytest.approx(10 * few["macs_per_roi_g"])
    assert few["macs_g"] == pytest.approx(few["macs_fixed_g"] + 10 * few["macs_per_roi_g"])


@pytest.mark.slow
def test_a_form_that_a_detector_cannot_have_is_its_own_failure_and_the_others_are_timed(monkeypatch, capsys, tmp_path):
    """Through the command: the first is timed, its record and the other's refusal are kept, and the end is one line and exit code 2."""
    from bench.cli import main

    pytest.importorskip("onnx", reason="needs the group `deploy`: pip install onnx onnxruntime openvino")
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    words = "leandet time pod.c4-r50 pod.c4-r50-gsl@onnx --tier smoke --quick --images 1 --rois 4 --threads 1 --device cpu"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as ended:
        main()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("leandet: pod.c4-r50-gsl.smoke@onnx: onnxruntime: ")]
    assert ended.value.code == 2
    assert [line.endswith("which a graph of region features cannot know; export FD") for line in said] == [True]
    records = {record.row: record for record in map(read_record, (tmp_path / "runs" / "latency").rglob("*.json"))}
    assert {row: record.status for row, record in records.items()} == {"c4-r50": "ok", "c4-r50-gsl@onnx": "failed"}
    assert "export FD" in records["c4-r50-gsl@onnx"].reason
    assert "whole_ms" in records["c4-r50"].values
