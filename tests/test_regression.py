"""The regression gate: what it calls and what it lets pass, on made-up times and once on two real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from bench import places, regression
from bench.regression import PLANT, SLOWED, Absent, Verdict, baseline_file, beside, compare, interleaved, judge, merge_base, store, stored
from bench.subjects import Conditions, Subject
from bench.types import UserError


def times(seed, factor=1.0, rounds=120):
    """Two series of a detector on a busy machine: both see the same slow drift, each has noise of its own, one in twenty is late."""
    rng = np.random.default_rng(seed)
    drift = 1 + 0.05 * np.sin(np.arange(rounds) / 9)
    noise = rng.lognormal(0, 0.04, (2, rounds)) * np.where(rng.random((2, rounds)) < 0.05, 1.5, 1.0)
    ours, base = 30 * drift * noise
    return (factor * ours).tolist(), base.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_slow_down_is_called(seed):
    verdict = judge("planted", *times(seed, 1.10))
    assert verdict.regression, verdict.line()
    assert "REGRESSION" in verdict.line()


@pytest.mark.parametrize("seed", range(10))
def test_ten_runs_of_nothing_changed_are_let_pass(seed):
    verdict = judge("same", *times(seed))
    assert not verdict.regression, verdict.line()


def test_a_sure_but_small_slow_down_is_let_pass():
    verdict = judge("small", *times(0, 1.03, rounds=2000))
    assert verdict.p < 0.002
    assert not verdict.regression


def test_a_large_but_unsure_slow_down_is_let_pass():
    verdict = judge("few", [11.0, 12.0, 13.0], [10.0, 10.1, 10.2])
    assert verdict.ratio > 1.05
    assert verdict.p == pytest.approx(2 / 20)  # the most that three against three can tell
    assert not verdict.regression


def test_a_speed_up_is_no_regression():
    verdict = judge("faster", *times(0, 0.8))
    assert verdict.p < 0.002
    assert not verdict.regression


PLANTED = Path(__file__).with_name("planted.py")


def test_two_checkouts_take_turns(monkeypatch):
    conditions = Conditions(images=4, threads=1, device="cpu")
    ours, base = interleaved(Subject(f"{PLANTED}:honest"), conditions, (places.SOURCE, places.SOURCE), launches=1)
    assert len(ours) == len(base) == 4
    assert min(*ours, *base) > 0


def test_the_plant_fits_the_meter():
    source = (places.SOURCE / "bench" / "meters" / "latency.py").read_text()
    assert source.count(SLOWED) == 1
    compile(source.replace(SLOWED, PLANT), "latency.py", "exec")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with a commit on main and one on a branch."""

    def git(*words):
        said = subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return said.stdout.strip()

    git("init", "-q", "-b", "main")
    for number in (1, 2):
        (tmp_path / "bench").mkdir(exist_ok=True)
        (tmp_path / "bench" / "one.py").write_text(f"x = {number}\n")
        git("add", "-A")
        git("commit", "-q", "-m", str(number))
    monkeypatch.setattr(places, "SOURCE", tmp_path)
    return tmp_path, git


def test_the_merge_base(clone):
    folder, git = clone
    first, second = git("rev-parse", "HEAD~1"), git("rev-parse", "HEAD")
    assert merge_base() == first  # on main, clean
    (folder / "bench" / "one.py").write_text("x = 3\n")
    assert merge_base() == second  # on main, changed
    git("checkout", "-q", "-b", "branch")
    git("commit", "-qam", "3")
    assert merge_base() == second


def test_a_checkout_comes_and_goes(clone):
    _, git = clone
    with regression.checkout(git("rev-parse", "HEAD~1")) as tree:
        assert (tree / "bench" / "one.py").read_text() == "x = 1\n"
    assert not tree.exists()
    assert len(git("worktree", "list").splitlines()) == 1
    with pytest.raises(UserError, match="needs a clone"), regression.checkout("nowhere"):
        pass


def test_a_base_without_the_meter_is_said(clone):
    said = []
    assert regression.compare(said.append)
    assert "has no latency meter" in said[-1]


def test_baselines_are_stored_by_machine_kind_and_decide_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    verdict = Verdict("row", 30.0, 29.0, 30 / 29, 0.5)
    assert stored() == {}
    assert "no baseline" in beside(verdict, stored())
    assert store([verdict]) == baseline_file()
    assert json.loads(baseline_file().read_text())["workloads"]["row"]["whole_ms"] == 30.0
    assert "stored baseline 30.00 ms" in beside(Verdict("row", 60.0, 59.0, 60 / 59, 0.5), stored())
    assert "now 2.000 of it" in beside(Verdict("row", 60.0, 59.0, 60 / 59, 0.5), stored())
    baseline_file().write_text("[]")
    with pytest.raises(UserError, match="--store"):
        stored()


def test_what_the_base_has_not_is_not_compared_and_what_this_checkout_cannot_build_fails(monkeypatch, tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "timing_process.py").touch()
    monkeypatch.setattr(regression, "merge_base", lambda: "c" * 40)
    monkeypatch.setattr(regression, "checkout", lambda commit: nullcontext(tmp_path))
    said = []

    def absent(*given):
        raise Absent("no such row")

    monkeypatch.setattr(regression, "interleaved", absent)
    assert compare(said.append)
    assert any("NOT COMPARED, the merge base cannot build it" in line for line in said)

    def broken(*given):
        raise UserError("no such row")

    monkeypatch.setattr(regression, "interleaved", broken)
    with pytest.raises(UserError):
        compare(said.append)


def test_the_exit_code_is_the_verdict(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.regression"])
    for good, code in ((True, 0), (False, 1)):
        monkeypatch.setattr(regression, "compare", lambda say, keep, good=good: good)
        assert regression.main() == code

    def mistaken(say, keep):
        raise UserError("no history")

    monkeypatch.setattr(regression, "compare", mistaken)
    assert regression.main() == 2
    assert capsys.readouterr().err == "leandet: no history\n"
