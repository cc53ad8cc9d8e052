"""Several runs at once: what is told of them, and that they do what one after another would."""

from dataclasses import replace

import pytest

from bench import campaign, execute, places
from bench.catalogue import built
from bench.orders import ordered, with_needs
from bench.plan import Choice, effort_of, quick, schedule_of
from bench.spec import Effort


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "runs", lambda: tmp_path)
    (tmp_path / ".logs").mkdir()
    return tmp_path / ".logs"


def test_quick_names_what_the_quick_reproduction_needs():
    assert ordered("quick", Choice("proxy")) == quick(built().values())


def test_what_is_told_of_two_runs_by_hand(logs, monkeypatch):
    """Of 100 + 100 + 200 images the first run's and half of the second's are seen after 30 s: 250 more take 50 s."""
    run = quick(built().values(), "smoke")[1]
    runs = [replace(run, id=name) for name in ("a", "b", "c")]
    monkeypatch.setattr(campaign, "images_of", lambda each: {"a": 100, "b": 100, "c": 200}[each.id])
    clock = iter((1000.0, 1030.0))
    monkeypatch.setattr(campaign.time, "monotonic", lambda: next(clock))
    (logs / "b.txt").write_text(
        "leandet: run 2 of 2: b, training: 8 of 100 images\nleandet: run 2 of 2: b, training: 50 of 100 images, 5/s, 10 s left\n"
    )
    said = []
    campaign._together(runs, lambda text, share: said.append((text, share)))(["b", "c"], ["b", "c"])
    told = "1 of 3 runs done, all runs about 50 s; b, training: 50 of 100 images, 5/s, 10 s left; c, starting"
    assert said == [(told, 150 / 400)]


def test_the_time_left_is_no_shorter_than_that_of_the_slowest_run(logs, monkeypatch):
    """By 40 s half of all images are seen, which leaves 40 s; but c has seen 10 of its 100 in the last 10 s, and needs 90 more."""
    run = quick(built().values(), "smoke")[1]
    runs = [replace(run, id=name) for name in ("a", "c")]
    monkeypatch.setattr(campaign, "images_of", lambda each: 100)
    clock = iter((1000.0, 1030.0, 1040.0))
    monkeypatch.setattr(campaign.time, "monotonic", lambda: next(clock))
    said = []
    tell = campaign._together(runs, lambda text, share: said.append((text, share)))
    for seen in (0, 10):
        (logs / "c.txt").write_text(f"leandet: run 2 of 2: c, training: {seen} of 100 images\n")
        tell(["c"], ["c"])
    assert [text.partition(", all runs about ")[2].partition(";")[0] for text, _ in said] == ["30 s", "2 min"]


def test_no_time_is_told_from_the_first_images_and_none_that_passed_before_them_counts(logs, monkeypatch):
    """600 s of pretraining, then 40 of 1,000 images in 20 s: 960 more take 480 s, not four hours."""
    run = quick(built().values(), "smoke")[1]
    monkeypatch.setattr(campaign, "images_of", lambda _: 1000)
    clock = iter((1000.0, 1600.0, 1604.0, 1620.0))
    monkeypatch.setattr(campaign.time, "monotonic", lambda: next(clock))
    said = []
    tell = campaign._together([replace(run, id="c")], lambda text, share: said.append(text))
    for words in ("drawing objects", "training: 8 of 1000 images", "training: 40 of 1000 images"):
        (logs / "c.txt").write_text(f"leandet: run 1 of 1: c, {words}\n")
        tell(["c"], ["c"])
    assert [text.partition(", all runs about ")[2].partition(";")[0] for text in said] == ["", "", "8 min"]


def test_a_run_of_two_threads_starts_alone_and_others_fill_what_is_left():
    runs = {run.row: run for run in ordered("quick", Choice("proxy"))}
    papers = built()
    threads = {key: effort_of(runs[key], papers["condensing"].row(key)).threads for key in ("body-r50", "fpn-r50", "k16-l5", "k1-l1")}
    assert threads == {"body-r50": 2, "fpn-r50": 2, "k16-l5": 1, "k1-l1": 1}
    fits = {
        (key, beside): campaign._fits(runs[key], [runs[other].id for other in beside], tuple(runs.values()), 2)
        for key in ("body-r50", "k16-l5")
        for beside in ((), ("k1-l1",), ("fpn-r50",))
    }
    assert fits == {
        ("body-r50", ()): True,
        ("body-r50", ("k1-l1",)): False,
        ("body-r50", ("fpn-r50",)): False,
        ("k16-l5", ()): True,
        ("k16-l5", ("k1-l1",)): True,
        ("k16-l5", ("fpn-r50",)): False,
    }
    assert not campaign._fits(runs["k16-l5"], ["a", runs["k1-l1"].id, runs["k16-l5"].id], tuple(runs.values()), 2)
    assert campaign._fits(runs["body-r50"], [], tuple(runs.values()), 1), "what takes more threads than there are jobs starts alone all the same"


def test_the_longest_starts_first_and_what_needs_both_cores_is_not_overtaken():
    runs = {run.row: run for run in ordered("quick", Choice("proxy"))}
    body, baseline, sixteen, one = (runs[key] for key in ("body-r50", "fpn-r50", "k16-l5", "k1-l1"))
    everything = tuple(runs.values())
    assert campaign._next([one, sixteen, baseline], [body.id], everything, 2) == [], "the body is not there yet"
    assert campaign._next([baseline, sixteen, one], [], everything, 2) == [baseline.id]
    assert campaign._next([sixteen, one], [baseline.id], everything, 2) == []
    assert campaign._next([sixteen, one], [], everything, 2) == [sixteen.id, one.id]
    assert campaign._next([baseline, one], [sixteen.id], everything, 2) == [], "it waits for both cores, and no other goes before it"
    assert campaign._next([one, baseline], [sixteen.id], everything, 2) == [one.id]


def test_what_most_rests_on_starts_before_what_is_longer(monkeypatch):
    """a (10 images) holds up b and c (30 each, one after another): 70 in a row, before d with 50."""
    run = quick(built().values(), "smoke")[1]
    needs = {"a": (), "b": ("a",), "c": ("b",), "d": ()}
    runs = [replace(run, id=name, needs=found) for name, found in needs.items()]
    monkeypatch.setattr(campaign, "images_of", lambda each: {"a": 10, "b": 30, "c": 30, "d": 50}[each.id])
    assert campaign._paths(runs) == {"a": 70, "b": 60, "c": 30, "d": 50}
    assert campaign._next(runs, [], runs, 4)[0] == "a"


def test_a_gpu_takes_a_process_a_run(monkeypatch):
    runs = {run.row: run for run in ordered("quick", Choice("proxy"))}
    monkeypatch.setattr(campaign.machine, "describe", lambda: {"gpus": ["H200"]})
    assert campaign._fits(runs["body-r50"], [runs["k1-l1"].id], tuple(runs.values()), 2)


def test_an_effort_counts_only_where_the_embedded_data_is_learnt():
    row = built()["condensing"].row("k1-l1")
    lengths = {}
    for tier in ("smoke", "proxy", "real", "paper"):
        run = replace(quick(built().values(), "smoke")[-1], tier=tier, kind="train")
        plain = replace(row, effort=Effort())
        lengths[tier] = schedule_of(run, row).images / schedule_of(run, plain).images
    assert lengths == {"smoke": 2.5, "proxy": 8 / 3, "real": 1, "paper": 1}, "whole epochs: 15,000 images are 16,000"


def test_a_proof_that_nobody_plans_is_asked_for_in_the_process_of_the_run_that_it_goes_on_from():
    """Else the run would not keep what its proof needs; of a headline row it is kept anyhow, and other runs need not wait for the proof."""
    runs = with_needs("pod.fpn-r50.proxy.s0.plateau", Choice())
    told = {run.id: campaign.asked_for(run, runs) for run in runs}
    assert told.pop("pod.fpn-r50.proxy.s0") == "pod.fpn-r50.proxy.s0.plateau"
    assert all(name == asked for name, asked in told.items())
    planned = with_needs("condensing.k16-l5.proxy.s0.plateau", Choice())
    assert [campaign.asked_for(run, planned) for run in planned] == [run.id for run in planned]


def test_runs_in_this_process_keep_what_a_proof_among_them_needs(logs, monkeypatch):
    done = []
    monkeypatch.setattr(execute, "execute", lambda run, setup: done.append((run.id, setup.proven)))
    campaign.here(with_needs("pod.fpn-r50.proxy.s0.plateau", Choice()), Choice(), quiet=True)
    assert done[-2][0] == "pod.fpn-r50.proxy.s0"
    assert {proven for _, proven in done} == {frozenset({"pod.fpn-r50.proxy.s0"})}
