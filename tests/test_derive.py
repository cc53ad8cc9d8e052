"""Derive steps: on which images a trained detector is measured, where the numbers go, and that the run after it finds them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from lightning_fabric import Fabric

from bench import places
from bench.catalogue import built
from bench.datasets import open_split, parse_data
from bench.derive import BATCH, DERIVED, flat, keep, measured
from bench.execute import Setup, execute
from bench.gather import Stored
from bench.plan import Choice, plan
from bench.publish import rescore
from bench.spec import Column, Derive, Effort, Table

SCENES = parse_data("scenes-v1")


def sums(_detector, batches) -> dict[str, float]:
    assert isinstance(batches, Iterator)
    seen = [[float(image.sum()) for image in batch] for batch in batches]
    return {"images": sum(map(len, seen)), "batches": len(seen), "distinct": len({value for batch in seen for value in batch})}


def derived(images, seed=0, **options):
    steps = [Derive("sums", sums, images=images, **options)]
    fabric = Fabric(accelerator="cpu", devices=1)
    return measured(steps, torch.nn.Identity(), fabric, opened=lambda name: open_split(SCENES, name), seed=seed)


def test_so_many_distinct_images_of_each_split_are_shown():
    found = derived(20)
    assert found == {"sums": {name: {"images": 20, "batches": -(-20 // BATCH), "distinct": 20} for name in ("train", "val")}}


def test_a_split_with_fewer_images_is_shown_whole():
    whole = len(open_split(SCENES, "val"))
    assert derived(10 * whole, splits=("val",))["sums"]["val"]["images"] == whole


def test_other_seeds_see_other_images():
    heard = []
    for seed in (0, 0, 1):
        steps = [Derive("first", lambda _, batches: {"first": float(next(batches)[0].sum())}, images=8, splits=("train",))]
        found = measured(steps, torch.nn.Identity(), Fabric(accelerator="cpu", devices=1), opened=lambda name: open_split(SCENES, name), seed=seed)
        heard.append(found["first"]["train"]["first"])
    assert heard[0] == heard[1] != heard[2]


def test_numbers_are_kept_beside_the_weights_and_in_the_record(tmp_path):
    found = {"scales": {"train": {"R31_h": 0.9}, "val": {"R31_h": 0.8}}}
    keep(found, tmp_path)
    assert json.loads((tmp_path / DERIVED).read_text()) == found
    assert flat(found) == {"R31_h_train": 0.9, "R31_h_val": 0.8}


def test_endings_tell_rows_of_one_run_apart():
    table = Table("T", ("a", "a"), (Column(""), Column("R31")), endings=("_h", "_w"))
    assert [[table.measure(row, column) for column in (0, 1)] for row in (0, 1)] == [["", "R31_h"], ["", "R31_w"]]
    assert Table("T", ("a",), (Column("ap"),)).measure(0, 0) == "ap"


@pytest.mark.slow
def test_two_phases_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    monkeypatch.setattr("bench.execute.effort_of", lambda run, row: Effort())  # one thread: others may be at work here
    papers = built()
    runs = plan([papers["pod"]], Choice("smoke", rows=("c4-r50-fd", "c4-r50-fd-wt"), seeds=1))
    records = {run.row: execute(run, Setup(papers)) for run in runs if run.kind != "plateau"}
    assert {record.status for record in records.values()} == {"ok"}
    kept = json.loads((places.run_folder("pod.c4-r50-gsl.smoke.s0") / DERIVED).read_text())["scales"]
    gsl = records["c4-r50-gsl"]
    assert gsl.values["R42_w_val"] == kept["val"]["R42_w"]
    assert gsl.samples["derived"]["R42_w_val"] == kept["val"]["R42_w"]
    assert rescore(Stored(gsl, places.run_folder(gsl.id) / "predictions.parquet")).values["R42_w_val"] == kept["val"]["R42_w"]
    for row in ("c4-r50-fd", "c4-r50-fd-wt"):
        assert "R31_h_train" not in records[row].values
        assert "R42" in json.dumps(records[row].context["model"])
