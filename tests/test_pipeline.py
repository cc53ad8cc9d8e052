"""The pipeline as a user runs it: in a clone, by DVC and without it, edited, killed, failing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.catalogue import built
from bench.pipeline import PLAN, pipeline_texts
from bench.plan import Choice, everything, plan, quick
from bench.records import read_record

HERE = Path(__file__).parents[1]
COPIED = ("bench", "implementations", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "pyproject.toml")
PRETRAIN = "pretrain.R50.smoke.s0"
ELSEWHERE = ("bench/metrics/__init__.py", "bench/report/__init__.py", "implementations/condensing/model.py")
DVC = [sys.executable, "-m", "dvc"]


def test_the_committed_stages_are_those_of_the_plan():
    committed = {str(path.relative_to(HERE)): path.read_text() for path in (HERE / "dvc.yaml", *HERE.glob("pipeline/*/dvc.yaml"))}
    assert committed == pipeline_texts(Choice("proxy")), "run `leandet plan --write` and commit dvc.yaml and pipeline/"


def test_a_stage_list_is_short_enough_for_dvc():
    texts = pipeline_texts(Choice("proxy"))
    runs = {name: [line for line in text.splitlines() if ": {id: " in line] for name, text in texts.items()}
    assert sum(map(len, runs.values())) == len(everything(built().values(), Choice("proxy")))
    assert max(map(len, runs.values())) + len(("plan", "costs", "quick", "tables")) < 100


def test_quick_stands_in_one_file_so_that_it_leaves_one_lock():
    """What `quick` needs is at hand in dvc.yaml, or git would show a lock file a paper after it."""
    held = pipeline_texts(Choice("proxy"))["dvc.yaml"]
    assert [run.id for run in quick(built().values()) if f"{run.id}: {{id: " not in held] == []


def test_dvc_tells_nobody():
    text = (HERE / ".dvc" / "config").read_text()
    assert "analytics = false" in text
    assert "check_update = false" in text


class Clone:
    """A clone of the working tree as it stands, with its own commit, and the commands of a user in it."""

    def __init__(self, folder: Path, rows: str) -> None:
        self.folder = folder / "clone"
        self.folder.mkdir()
        for name in COPIED:
            source, target = HERE / name, self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__")) if source.is_dir() else shutil.copy(source, target)
        command = folder / "bin" / "leandet"  # the clone's own code, not the installed one's
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m bench.cli "$@"\n')
        command.chmod(0o755)
        path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder), "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
        self.environment.pop("LEANDET_HOME", None)
        self.call("leandet", "plan", "--write", "--tier", "smoke", "--rows", rows)
        self.call("git", "init", "-q", ".")
        self.commit()

    def call(self, *words: str, fails: bool = False) -> str:
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(self) -> None:
        self.call("git", "add", "-A")
        self.call("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "All")

    def repro(self, *targets: str, fails: bool = False) -> list[str]:
        """The stages that DVC ran."""
        said = self.call(*DVC, "repro", *targets, fails=fails)
        return [line.split("'")[1].partition("@")[2] or line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]

    def status(self) -> list[str]:
        return [line[3:] for line in self.call("git", "status", "--porcelain").splitlines()]

    def edit(self, name: str, more: str) -> None:
        path = self.folder / name
        path.write_text(path.read_text() + more)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone in which DVC has pretrained the backbone."""
    made = Clone(tmp_path_factory.mktemp("pipeline"), "rfcn,svd")
    assert made.repro(f"run0@{PRETRAIN}") == ["plan", PRETRAIN]
    return made


def test_after_repro_git_status_shows_at_most_the_lock_file(clone):
    assert set(clone.status()) <= {"dvc.lock"}


def test_leandet_finds_what_dvc_did(clone):
    record = clone.folder / "runs" / PRETRAIN / "record.json"
    before = record.stat().st_mtime_ns
    clone.call("leandet", "run", PRETRAIN)
    assert record.stat().st_mtime_ns == before


def test_nothing_to_do_takes_five_seconds_at_most(clone):
    began = os.times()
    assert clone.repro(f"run0@{PRETRAIN}") == []
    ended = os.times()
    assert (
        ended.children_user - began.children_user + ended.children_system - began.children_system < 5
    )  # of CPU, so that a busy machine does not decide


def test_an_edit_elsewhere_runs_only_the_plan(clone):
    texts = {name: (clone.folder / name).read_text() for name in ELSEWHERE}
    for name in ELSEWHERE:
        clone.edit(name, "\nEDITED = True\n")
    try:
        assert clone.repro(f"run0@{PRETRAIN}") == ["plan"]
    finally:
        for name, text in texts.items():
            (clone.folder / name).write_text(text)


def test_a_failing_stage_leaves_committed_files_and_what_stood(clone):
    runs = {path: path.read_bytes() for path in (clone.folder / "runs" / PRETRAIN).iterdir()}
    text = (clone.folder / "bench/train.py").read_text()
    clone.edit("bench/train.py", "\nraise RuntimeError('broken on purpose')\n")
    try:
        clone.repro(f"run0@{PRETRAIN}", fails=True)
        assert set(clone.status()) <= {"dvc.lock", "bench/train.py"}
        assert {path: path.read_bytes() for path in (clone.folder / "runs" / PRETRAIN).iterdir()} == runs
    finally:
        (clone.folder / "bench/train.py").write_text(text)


def test_killed_it_leaves_its_checkpoint_and_ends_with_the_same_weights(clone, tmp_path):
    """SIGKILL while DVC runs the stage; `leandet run` goes on from the checkpoint, to the weights of the run never killed; DVC finds that done."""
    other = Clone(tmp_path, "rfcn,svd")
    folder = other.folder / "runs" / PRETRAIN
    child = subprocess.Popen(
        [*DVC, "repro", f"run0@{PRETRAIN}"],
        cwd=other.folder,
        env=other.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.safetensors").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert set(other.status()) <= {"dvc.lock"}
    assert (folder / "checkpoint.safetensors").exists()
    assert not (folder / "record.json").exists()
    other.call("leandet", "run", PRETRAIN, "--quiet")
    record = (folder / "record.json").read_bytes()
    assert (folder / "weights.safetensors").read_bytes() == (clone.folder / "runs" / PRETRAIN / "weights.safetensors").read_bytes()
    assert other.repro(f"run0@{PRETRAIN}") == [PRETRAIN]
    assert (folder / "record.json").read_bytes() == record
    assert set(other.status()) <= {"dvc.lock"}


@pytest.mark.slow
def test_everything_at_the_smoke_tier(tmp_path):
    """Plain `dvc repro`; then an edit of one method re-runs its own runs, an edit of a metric only the tables, and `quick` has nothing to do."""
    made = Clone(tmp_path, "fpn-r50,k1-l1,svd")
    runs = {run.id for run in plan_of(made)}
    ran = made.repro()
    assert set(ran) == {"plan", "costs", "quick", "tables"} | runs
    assert set(made.status()) <= {"dvc.lock"}
    assert (made.folder / "results/local/cells.csv").exists()
    assert made.repro() == []
    made.edit("implementations/condensing/model.py", "\nEDITED = True\n")
    assert made.repro() == ["plan"]  # a name that no row uses
    made.edit("implementations/condensing/model.py", "\nprint('edited')\n")
    own = {run.id for run in plan_of(made) if run.row == "k1-l1"}
    assert {name for name in made.repro() if name in runs} == own
    made.edit("bench/metrics/__init__.py", "\nprint('edited', end='')\n")
    assert set(made.repro()) == {"plan", "quick", "tables"}
    assert all(read_record(made.folder / "runs" / name / "record.json").status == "ok" for name in runs)
    assert (made.folder / PLAN).exists()


def plan_of(made: Clone):
    return plan(built().values(), Choice("smoke", rows=("fpn-r50", "k1-l1", "svd")))
