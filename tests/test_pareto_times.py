"""Which latencies are of a field's runs, and what their sessions say of pairs: on records made by hand, with times whose ratios are known."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from stored_runs import write_runs
from torch import nn

from bench import pareto_points, places
from bench.datasets import open_split, parse_data
from bench.detectors import weights_hash
from bench.gather import Stored, read_stored
from bench.pareto import HEAD, cells
from bench.pareto_times import times_of
from bench.records import Record
from bench.subjects import WEIGHTS

SESSION = ("condensing.fpn-r50.proxy.s0", "compression.dense.proxy.s0", "compression.int8.proxy.s0")  # the dense row is not the first


def run(row, seed=0, paper="compression", weights="new", **context):
    context = {"data": "scenes-v1", "machine": {"name": "cluster"}} | context
    samples = {"weights": f"{row} {weights}"} if weights else {}
    name = f"{paper}.{row}.proxy.s{seed}"
    return Record(name, "train", paper, row, "proxy", seed, "ok", "", "now", {"ap": 50.0}, samples=samples, context=context)


INT8 = {"trained_on": "cluster", "machine": {"name": "desk"}, "speedup_realised": "not timed", "kernels": "int8 kernels"}
RUNS = (run("fpn-r50", paper="condensing"), run("dense"), run("int8", **INT8))


@pytest.fixture
def timed(tmp_path):
    """A latency of a run, timed on a desk: a median over so many rounds of so many ms, in a session of so many detectors."""

    def made(ran, ms, rounds=20, turns=SESSION, machine="desk", **more):
        context = {
            "machine": {"name": machine}, "data": "scenes-v1", "image_list": "list", "batch": 1, "weights": f"tensors of {ran.id}",
            "weights_file": ran.samples.get("weights", ""), "weights_from": ran.id, "trained": True, "device": "cpu", "precision": "float32",
            "threads": 1, "rois_given": 0, "quick": False, "turns": list(turns), "against": ["first", "w"], "samples": rounds, "quiet": "ok",
            "seen": {"foreign_cores": 0.0},
        }  # fmt: skip
        record = {name: more.pop(name) for name in ("row", "status", "tier") if name in more}
        found = context | more
        name = f"{ran.id}.latency.{hashlib.sha256(repr(found).encode()).hexdigest()[:12]}"
        made = Record(name, "latency", ran.paper, ran.row, "proxy", ran.seed, "ok", "", "meter", {"whole_ms": ms}, context=found)
        path = tmp_path / f"{name}.parquet"
        warm = {"phase": ["warm"] * 3, "round": [0, 1, 2], "whole_ms": [1000.0] * 3}
        shown = {"phase": ["measured"] * rounds, "round": list(range(rounds)), "whole_ms": [ms] * rounds}
        pq.write_table(pa.table({key: warm[key] + shown[key] for key in warm}), path)
        return Stored(replace(made, **record), path)

    return made


def ms_of(times, row):
    found = times.turn(row)
    return None if found is None else found.record.values["whole_ms"]


# ---- which latencies count


def test_a_run_is_timed_where_it_is_timed_whatever_trained_it(timed):
    times = times_of(RUNS, [timed(each, ms) for each, ms in zip(RUNS, (10.0, 20.0, 8.0), strict=True)])
    assert times.clock == "desk, cpu, 1 thread"
    assert [ms_of(times, row) for row in ("condensing.fpn-r50", "compression.dense", "compression.int8")] == [10.0, 20.0, 8.0]
    (ours,) = times.of_pair("compression.int8", "compression.dense")
    assert (ours.ratio.value, ours.ratio.low, ours.ratio.high, ours.rounds) == (0.4, 0.4, 0.4, 20)
    (theirs,) = times.of_pair("compression.dense", "compression.int8")
    assert theirs.ratio.value == pytest.approx(2.5)
    assert theirs.ids == ours.ids[::-1]


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "bfloat16"},
        {"rois_given": 300},
        {"batch": 2},
        {"quick": True},
        {"trained": False},
        {"data": "coco:aquarium"},
        {"weights_file": "dense old"},
        {"weights_file": "", "weights": "tensors that lie nowhere here"},
        {"weights_from": "compression.dense.proxy.s1"},
        {"weights_from": "random"},
        {"row": "dense@fused"},
        {"row": "dense@320x320"},
        {"tier": "paper"},
        {"status": "failed"},
    ],
)
def test_a_latency_of_anything_else_is_no_time_of_the_row(timed, other):
    assert ms_of(times_of(RUNS, [timed(RUNS[1], 20.0)]), "compression.dense") == 20.0
    assert times_of(RUNS, [timed(RUNS[1], 20.0, **other)]).turns == ()


def test_latencies_of_weights_that_a_run_had_before_are_named(timed):
    old, new = timed(RUNS[1], 30.0, weights_file="dense old"), timed(RUNS[1], 20.0)
    times = times_of(RUNS, [old, new])
    assert ms_of(times, "compression.dense") == 20.0
    assert times.overtaken == (old.record.id,)


def test_a_run_that_names_no_weights_is_known_by_its_id(timed):
    nameless = run("dense", weights="")
    assert ms_of(times_of([nameless], [timed(nameless, 20.0)]), "compression.dense") == 20.0
    assert ms_of(times_of([nameless], [timed(nameless, 20.0, weights_from="compression.dense.proxy.s7")]), "compression.dense") is None


def test_a_latency_that_names_only_tensors_is_known_by_the_file_that_has_them(timed, tmp_path, monkeypatch):
    """The file lies in the run's folder; its own hash is the record's, and that of its tensors the latency's."""
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    net, path = nn.Linear(2, 3), places.run_folder(RUNS[1].id) / WEIGHTS
    path.parent.mkdir(parents=True)
    save_file(net.state_dict(), path)
    ran = replace(RUNS[1], samples={"weights": hashlib.sha256(path.read_bytes()).hexdigest()})
    older = {"weights_file": "", "weights": weights_hash(net)}
    assert ms_of(times_of([ran], [timed(ran, 20.0, **older)]), "compression.dense") == 20.0
    assert times_of([ran], [timed(ran, 20.0, **older | {"weights": "others"})]).turns == ()
    assert times_of([RUNS[1]], [timed(RUNS[1], 20.0, **older)]).turns == ()  # the file is not the one that the record names


# ---- one clock


def test_milliseconds_are_of_the_clock_that_timed_the_most_rows(timed):
    slow = [timed(each, 100.0, machine="laptop") for each in RUNS[:2]]
    times = times_of(RUNS, [*slow, *(timed(each, 10.0) for each in RUNS)])
    assert {ms_of(times, row) for row in ("condensing.fpn-r50", "compression.dense", "compression.int8")} == {10.0}
    assert {pair.clock for pair in times.ratios().values()} == {"desk, cpu, 1 thread"}
    two = times_of(RUNS, [*slow, timed(RUNS[2], 10.0)])
    assert (two.clock, ms_of(two, "compression.int8")) == ("laptop, cpu, 1 thread", None)


def test_threads_and_device_are_part_of_the_clock(timed):
    found = [timed(RUNS[0], 10.0), timed(RUNS[1], 20.0), timed(RUNS[2], 1.0, device="cuda"), timed(RUNS[2], 5.0, threads=2)]
    times = times_of(RUNS, found)
    assert times.clock == "desk, cpu, 1 thread"
    assert ms_of(times, "compression.int8") is None


# ---- sessions


def test_every_session_of_a_row_gives_its_pairs(timed):
    """The dense row is timed beside two others, each in a session of its own: neither takes the other's pair."""
    base, dense, int8 = RUNS
    first, second = (base.id, dense.id), (dense.id, int8.id)
    found = [timed(base, 10.0, turns=first), timed(dense, 20.0, turns=first), timed(dense, 22.0, turns=second), timed(int8, 11.0, turns=second)]
    times = times_of(RUNS, found)
    assert {pair: each.ratio.value for pair, each in times.ratios().items()} == {
        ("compression.dense", "condensing.fpn-r50"): 2.0,
        ("compression.dense", "compression.int8"): 2.0,
    }


def test_a_quiet_session_is_before_a_noisy_one_and_many_rounds_before_few(timed):
    _, dense, int8 = RUNS

    def sessions(*wanted):
        """A session each of (times of int8, rounds, quiet); the dense row takes 20 ms."""
        out = []
        for ms, rounds, quiet in wanted:
            more = {"rounds": rounds, "image_list": f"{rounds} images", "turns": SESSION[1:]}
            out += [timed(dense, 20.0, **more), timed(int8, ms, quiet=quiet, **more)]
        return [each.ratio.value for each in times_of(RUNS, out).of_pair("compression.int8", "compression.dense")]

    assert sessions((10.0, 64, "noisy"), (12.0, 20, "ok")) == [0.6, 0.5]
    assert sessions((10.0, 20, "ok"), (12.0, 64, "unknown")) == [0.6, 0.5]
    assert sessions((10.0, 20, "noisy")) == [0.5]


@pytest.mark.parametrize(
    "apart",
    [
        {"image_list": "others"},
        {"turns": SESSION[1:]},
        {"against": ["first", "other weights"]},
        {"seen": {"foreign_cores": 0.1}},
        {"machine": "laptop"},
    ],
)
def test_what_took_no_turns_has_no_ratio(timed, apart):
    found = [timed(RUNS[1], 20.0), timed(RUNS[2], 10.0, **apart)]
    assert times_of(RUNS, found).of_pair("compression.int8", "compression.dense") == ()


def test_pairs_are_of_one_seed_and_need_the_raw_samples(timed):
    both = [*RUNS, run("int8", seed=1, **INT8)]
    assert times_of(both, [timed(both[1], 20.0), timed(both[3], 10.0)]).of_pair("compression.int8", "compression.dense") == ()
    bare = [timed(RUNS[1], 20.0), replace(timed(RUNS[2], 10.0), predictions=None)]
    times = times_of(RUNS, bare)
    assert times.of_pair("compression.int8", "compression.dense") == ()
    assert ms_of(times, "compression.int8") == 10.0


# ---- in a field


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Runs of the dense and the int8 row with their predictions: the cluster trained both, a desk put the second on 8 bits."""
    place, truth = tmp_path_factory.mktemp("records"), open_split(parse_data("scenes-v1"), "test").ground_truth()
    drawn = np.random.default_rng(0)
    write_runs(place, truth, [(row, 0, drawn.random(len(truth.boxes)) < share) for row, share in (("fpn-r50", 0.6), ("k16-l5", 0.55))])
    own = {"own_macs_g": 1.0, "own_stored_mb": 2.0, "own_arithmetic_mb": 4.0, "own_stored_ratio": 0.5}
    found = []
    for each, made in zip(read_stored(place), RUNS[1:], strict=True):
        context = each.record.context | made.context
        found.append(replace(each, record=replace(made, values=each.record.values | own, context=context)))
    return found


def field_of(stored, **more):
    known = pareto_points.field_of(stored, pareto_points.Question("proxy", **more))
    return known, {each.id: dict(zip(HEAD, cells(known, each), strict=True)) for each in known.points}


def test_a_row_trained_elsewhere_joins_a_joint_session_that_its_source_did_not_begin(ran, timed):
    dense, int8 = (each.record for each in ran)
    known, said = field_of([*ran, timed(dense, 20.0), timed(int8, 8.0)])
    assert known.machine == "cluster"
    assert (said["compression.int8"]["ms"], said["compression.int8"]["timed_on"]) == ("8.000", "desk, cpu, 1 thread")
    assert said["compression.int8"]["speedup_realised"] == "yes"
    assert said["compression.int8"]["stored_ratio"] == "0.500"
    assert "0.40 [0.40, 0.40] of the time of compression.dense" in said["compression.int8"]["notes"]
    assert known.time_ratio("compression.int8", "compression.dense") == pytest.approx((0.4, 0.4))
    assert "not timed with their weights" not in "\n".join(known.missing)
    (alone,) = field_of([*ran, timed(dense, 20.0), timed(int8, 8.0)], rows=("compression.int8",))[1].values()
    assert alone["speedup_realised"] == "yes"  # its source need not be shown


def test_a_noisy_session_and_one_of_other_weights_leave_it_not_timed(ran, timed):
    dense, int8 = (each.record for each in ran)
    old = [timed(dense, 20.0, weights_file="dense old"), timed(int8, 8.0, weights_file="int8 old")]
    known, said = field_of([*ran, *old])
    assert (said["compression.int8"]["ms"], said["compression.int8"]["speedup_realised"]) == ("", "not timed")
    assert any(each.startswith("2 latencies are of other weights than these runs have") and old[0].record.id in each for each in known.missing)
    known, said = field_of([*ran, *old, timed(dense, 20.0), timed(int8, 8.0, quiet="noisy")])
    assert said["compression.int8"]["speedup_realised"] == "not timed"
    assert "the only session was noisy: compression.int8.proxy.s0.latency." in said["compression.int8"]["notes"]
    assert known.noisy == {("compression.dense", "compression.int8")}
