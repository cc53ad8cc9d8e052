"""Publishing: what stands moves into results/records, the committed tables are rendered anew and byte for byte again; a dirty tree is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import audit, cli, places
from bench.catalogue import built
from bench.gather import read_stored
from bench.metrics import score_all
from bench.metrics.store import write_predictions
from bench.plan import Choice, Run, plan
from bench.publish import committed, committed_standing, local, publish, rescore
from bench.records import Record, read_record, write_record
from bench.report import render
from bench.types import Predictions, UserError

HERE = Path(__file__).parents[1]


def a_run() -> Run:
    return next(run for run in plan(built().values(), Choice("proxy", rows=("fpn-r50",), seeds=1)) if run.row == "fpn-r50")


def measured(run: Run, **changes) -> Record:
    """A record as a run leaves it, on the scenes themselves: the truth found with falling scores."""
    from bench.datasets import open_split

    split = open_split(run.data, "test")
    truth = split.ground_truth()
    found = Predictions(truth.image, truth.boxes.astype(np.float32), np.linspace(1, 0.5, len(truth.image), dtype=np.float32), truth.labels)
    kept = write_predictions(places.run_folder(run.id) / "predictions.parquet", found)
    context = {"data": "scenes-v1", "data_digest": split.digest, "machine": {"name": "hand-x1"}, "commit": "c" * 40}
    values = score_all(kept, truth)
    record = Record(run.id, "train", run.paper, run.row, run.tier, run.seed, "ok", "", run.digest, values, context=context)
    write_record(replace(record, **changes), places.run_folder(run.id) / "record.json")
    return read_record(places.run_folder(run.id) / "record.json")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    monkeypatch.setattr("bench.machine.git", lambda *words: "")
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_stands_is_committed_and_its_tables_come_again_byte_for_byte(home, tmp_path):
    run = a_run()
    record = measured(run)
    publish()
    target = home / "results/records/hand-x1" / f"{run.id}.json"
    assert read_record(target) == record
    assert target.with_suffix(".parquet").read_bytes() == (places.run_folder(run.id) / "predictions.parquet").read_bytes()
    again = tmp_path / "again"
    render(committed_standing(), again, audit=audit.rows())
    made = files(again)
    assert {name: data for name, data in files(home / "results").items() if not name.startswith("records/")} == made
    assert run.id.rpartition(".")[0].encode() in made["leaderboard.csv"]


def test_a_record_of_weights_trained_elsewhere_is_put_beside_theirs(home):
    run = a_run()
    measured(run, context={"machine": {"name": "laptop"}, "trained_on": "gpu-x1"})
    publish()
    assert [path.parent.name for path in (home / "results/records").rglob(f"{run.id}.json")] == ["gpu-x1"]


def test_what_other_code_made_stays_here(home):
    run = a_run()
    measured(run, digest="of older code")
    moved = publish()
    assert committed() == ()
    assert len(local()) == 1
    assert moved.refused == (
        f"publish: {run.id} is stale, made by other code; not published; next: leandet run {run.id}, or leandet attest {run.id}",
    )


def test_stale_records_are_a_line_each_and_exit_code_two_while_what_stands_is_published(home, monkeypatch, capsys):
    run, body = plan(built().values(), Choice("proxy", rows=("fpn-r50",), seeds=2))[-2:]
    measured(run)
    measured(body, digest="of older code")
    cost = Record("condensing.svd.cost", "cost", "condensing", "svd", "", 0, "ok", "", "of older code", {"params_m": 1.0})
    write_record(cost, places.costs() / f"{cost.id}.json")
    monkeypatch.setattr(sys, "argv", ["leandet", "publish"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    lines = said.err.strip().splitlines()
    assert [line.split()[1] for line in lines] == [body.id, cost.id]
    assert all("stale" in line for line in lines)
    assert lines[1].endswith("next: leandet cost condensing")
    assert [each.record.id for each in committed()] == [run.id]


def test_the_command_refuses_a_dirty_tree_in_a_line_with_exit_code_two(home, monkeypatch, capsys):
    monkeypatch.setattr("bench.machine.git", lambda *words: " M bench/train.py\n M bench/cli.py" if words[0] == "status" else "")
    monkeypatch.setattr(sys, "argv", ["leandet", "publish"])
    measured(a_run())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err == ("leandet: publish: the tree is dirty (M bench/train.py, 2 in all); commit or drop these changes, or add --allow-dirty\n")
    assert not (home / "results").exists()


def test_a_run_that_was_cut_off_stays_here(home):
    run = a_run()
    measured(run)
    (places.run_folder(run.id) / "record.json").unlink()
    (places.run_folder(run.id) / ".record.json.123.part").write_text('{"id": "hal')
    publish()
    assert committed() == ()


def test_a_smoke_run_is_no_evidence(home):
    run = a_run()
    measured(run, tier="smoke")
    assert local() == ()


def test_a_dirty_tree_is_refused_unless_allowed(home, monkeypatch):
    monkeypatch.setattr("bench.machine.git", lambda *words: " M bench/train.py" if words[0] == "status" else "")
    measured(a_run())
    with pytest.raises(UserError, match=r"dirty.*bench/train\.py.*--allow-dirty"):
        publish()
    assert committed() == ()
    publish(allow_dirty=True)
    assert len(committed()) == 1


def test_numbers_come_again_from_stored_predictions(home):
    run = a_run()
    record = measured(run)
    broken = replace(record, values={"ap": 1.0})
    write_record(broken, places.run_folder(run.id) / "record.json")
    (stored,) = read_stored(places.runs())
    assert rescore(stored) == record


def test_a_new_metric_needs_no_run(home):
    """A record of another metric's numbers is shown with those of the metric as it is now."""
    run = a_run()
    record = measured(run)
    write_record(replace(record, values={"ap": 1.0}, context=dict(record.context) | {"metrics": "older"}), places.run_folder(run.id) / "record.json")
    (found,) = local()
    assert found.record.values == record.values
    publish()
    assert committed()[0].record.values == record.values


def test_the_whole_by_its_commands(tmp_path):
    """`leandet publish` and `leandet tables --committed` in a clone: costs alone, no training."""
    clone = tmp_path / "clone"
    for name in ("bench", "implementations"):
        shutil.copytree(HERE / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".gitignore"):
        shutil.copy(HERE / name, clone / name)
    environment = {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    environment.pop("LEANDET_HOME", None)

    def call(*words: str) -> str:
        return subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True, check=True).stdout

    call("git", "init", "-q", ".")
    call("git", "add", "-A")
    call("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "All")
    leandet = (sys.executable, "-m", "bench.cli")
    call(*leandet, "cost", "--quiet")
    call(*leandet, "publish")
    call(*leandet, "tables", "--committed", "--quiet", "--out", str(tmp_path / "again"))
    made = files(tmp_path / "again")
    assert {name: data for name, data in files(clone / "results").items() if not name.startswith("records/")} == made
    cells = json.loads(call(*leandet, "cells", "--committed", "--json"))
    assert sum(cell["outcome"] == "reproduced" for cell in cells) > 0
