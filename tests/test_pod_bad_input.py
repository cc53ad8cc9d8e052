"""What POD cannot do is said at the command line: one line that names the block and the next step, exit code 2; rows that can be run are."""

from __future__ import annotations

import json
import sys

import pytest
from safetensors.torch import load_file, save_file

from bench import execute, places
from bench.assemble import build_detector
from bench.catalogue import find_paper
from bench.cli import main
from bench.orders import choice_of, with_needs
from bench.records import Record, read_record, write_record
from bench.scales import SCALES
from implementations.pod.model import blocks_of

PAPER = find_paper("pod")
CLASSES = 10  # of the embedded data
GSL, FD, WT, BASE = (f"pod.c4-r50{end}.smoke.s0" for end in ("-gsl", "-fd", "-fd-wt", ""))


def leandet(monkeypatch, capsys, *words):
    """Exit code and the lines on standard error that are no progress."""
    monkeypatch.setattr(sys, "argv", ["leandet", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("leandet: ") and ": run " not in line[:12]]
    return int(ended.value.code or 0), [line for line in said if not line.startswith("leandet: run ")]


def detector_of(row):
    return build_detector(PAPER.row(row), SCALES["smoke"], CLASSES, seed=0)


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """What FD starts from as ended runs with untrained weights: pretrained backbone, body and GSL, whose averages a test may spoil."""
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    for run in with_needs(FD, choice_of("smoke", "", "", 1, ""))[:-1]:
        folder = places.run_folder(run.id)
        folder.mkdir(parents=True)
        record = Record(run.id, run.kind, run.paper, run.row, run.tier, run.seed, "ok", "", run.digest, {}, context={"data": "scenes-v1"})
        write_record(record, folder / "record.json")
        detector = detector_of(run.row) if run.kind != "pretrain" else detector_of("body-c4-r50").backbone
        save_file({name: tensor.contiguous() for name, tensor in detector.state_dict().items()}, folder / "weights.safetensors")
    keep(dict.fromkeys(blocks_of(detector_of("c4-r50-gsl")), (1.4, 1.2)))
    return tmp_path


def keep(scales):
    means = {f"{name}_{direction}": value for name, pair in scales.items() for direction, value in zip("hw", pair, strict=True)}
    (places.run_folder(GSL) / "derived.json").write_text(json.dumps({"scales": {"train": means}}))


SPOILT = {
    "not finite": (float("nan"), 1.2),
    "negative": (-0.3, 1.2),
    "zero": (1.4, 0.0),
}


@pytest.mark.parametrize("scales", SPOILT.values(), ids=SPOILT)
def test_scales_that_are_not_finite_and_positive_name_their_block(ended, scales, monkeypatch, capsys):
    keep(dict.fromkeys(blocks_of(detector_of("c4-r50-gsl")), (1.4, 1.2)) | {"R42": scales})
    code, said = leandet(monkeypatch, capsys, "run", FD)
    assert (code, len(said)) == (2, 1)
    assert f"R42: scales ({scales[0]:g}, {scales[1]:g}); allowed: finite and positive; train the row that learns them again" in said[0]
    record = read_record(places.run_folder(FD) / "record.json")
    assert record.status == "failed", "what GSL learnt is a result, and the row's cells say it"
    assert "R42: scales" in record.reason


@pytest.mark.parametrize("text", [None, "{", "{}", '{"scales": {"train": [1]}}'], ids=["missing", "cut", "empty", "of another kind"])
def test_averages_that_cannot_be_read_name_their_file(ended, text, monkeypatch, capsys):
    path = places.run_folder(GSL) / "derived.json"
    path.write_text(text) if text is not None else path.unlink()
    code, said = leandet(monkeypatch, capsys, "run", FD)
    assert (code, len(said)) == (2, 1)
    assert f"{GSL}/derived.json: no averaged scales in it" in said[0]
    assert "run the GSL row that stands beside it again" in said[0]


def test_a_transfer_from_another_net_names_the_block(ended, monkeypatch, capsys):
    path = places.run_folder(GSL) / "weights.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if not name.startswith("backbone.layer3.1.")}, path)
    code, said = leandet(monkeypatch, capsys, "run", WT)
    assert (code, len(said)) == (2, 1)
    assert "R42 (conv1.weight) does not match this row's net; allowed are the weights of its GSL row at the same tier: run that row first" in said[0]


def test_rows_that_can_run_do(ended, monkeypatch, capsys):
    """FD and FD-WT need the spoilt averages, the baseline does not: it is run although it may stand behind them."""
    keep(dict.fromkeys(blocks_of(detector_of("c4-r50-gsl")), (-1.0, 1.2)))
    begun = []

    def stand_in(run, setup):
        begun.append(run.id)
        return execute.prepared(run, setup, CLASSES)  # all that a run does before its first step

    monkeypatch.setattr(execute, "execute", stand_in)
    code, said = leandet(monkeypatch, capsys, "run", "pod", "--tier", "smoke", "--rows", "c4-r50-fd,c4-r50-fd-wt,c4-r50", "--seeds", "1")
    assert {BASE, FD, WT} <= set(begun)
    assert (code, len(said)) == (2, 1)
    assert said[0].count("R31: scales (-1, 1.2)") == 1, "the same reason is said once"
    assert not {f"{FD}.plateau", f"{WT}.plateau"} & set(begun), "what needs a run that could not be done is not begun"
    assert f"{BASE}.plateau" in begun


@pytest.mark.parametrize(("row", "source"), [(WT, GSL), (BASE, "pod.body-c4-r50.smoke.s0")], ids=["of GSL", "of the body"])
def test_weights_that_cannot_be_read_name_their_file(ended, row, source, monkeypatch, capsys):
    path = places.run_folder(source) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    code, said = leandet(monkeypatch, capsys, "run", row)
    assert (code, len(said)) == (2, 1)
    assert f"{source}/weights.safetensors: cannot be read (SafetensorError); run the row that this one starts from again" in said[0]
