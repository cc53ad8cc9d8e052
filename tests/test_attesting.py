"""Which records are replayed, and what must be learnt before."""

from __future__ import annotations

import pytest

from bench.attesting import _begins, _inputs
from bench.catalogue import built
from bench.plan import Choice, everything


def test_a_replay_starts_from_what_its_run_started_from_on_whatever_scenes_it_learnt():
    runs = {run.id: run for run in everything(built().values(), Choice("proxy"))}
    wanted = {
        "pretrain.R101.proxy.s0": [],
        "light_head.body-b2.proxy.s0": ["pretrain.R101.proxy.s0"],
        "light_head.align.proxy.scenes-v1-crowded.s0": ["pretrain.R101.proxy.s0", "light_head.body-b2.proxy.s0"],
        # the run that a plateau proof continues is not needed: its record is
        "light_head.align.proxy.s0.plateau": ["pretrain.R101.proxy.s0", "light_head.body-b2.proxy.s0"],
        "compression.both-30.proxy.s0": ["pretrain.R50.proxy.s0", "compression.body.proxy.s0", "compression.dense.proxy.s0"],
    }
    assert {name: [each.id for each in _inputs(runs[name], runs)] for name in wanted} == wanted


@pytest.mark.parametrize(("name", "begins"), [("compression.body.proxy.s0", True), ("combinations.condensed-pruned-tuned.proxy.s0", False)])
def test_one_of_a_paper_is_replayed_only_where_nothing_else_must_be_learnt(monkeypatch, tmp_path, name, begins):
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    runs = {run.id: run for run in everything(built().values(), Choice("proxy"))}
    assert _begins(runs[name], runs) == begins
