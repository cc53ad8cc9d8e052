"""Whether a compressed row is faster: what a clock showed beside its dense row, and what is said where none did."""

from dataclasses import replace

import pytest

from bench.catalogue import built
from bench.pareto_times import PairTime
from bench.records import Record
from bench.speedup import source_of, speedup_of, speedup_realised
from bench.two_samples import Ratio


def compressed(said="not timed", row="int8"):
    context = {"speedup_realised": said, "kernels": "int8 kernels", "machine": {"name": "desk"}}
    return Record(f"compression.{row}.proxy.s0", "transform", "compression", row, "proxy", 0, "ok", "", "d", {}, context=context)


def session(low, high, *, noisy=False):
    ids = ("compression.int8.proxy.s0.latency.1", "compression.dense.proxy.s0.latency.2")
    return PairTime(Ratio((low + high) / 2, low, high), 64, noisy, "desk, cpu, 1 thread", ids)


@pytest.mark.parametrize(
    ("faster", "interval", "said"),
    [
        (False, None, "no"),
        (True, None, "not timed"),
        (True, (0.4, 0.6), "yes"),
        (True, (0.9, 1.1), "no"),
        (False, (0.98, 1.01), "no"),
        (False, (0.9, 0.98), "no"),
    ],
)
def test_a_speedup_is_realised_only_where_a_clock_shows_it(faster, interval, said):
    assert speedup_realised(faster=faster, interval=interval) == said


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ([], "not timed"),
        ([session(0.4, 0.6)], "yes"),
        ([session(0.9, 1.1)], "no"),
        ([session(0.4, 0.6, noisy=True)], "not timed"),
        ([session(0.4, 0.6, noisy=True), session(0.9, 1.1)], "no"),
    ],
)
def test_a_quiet_session_beside_its_dense_row_decides(found, word):
    assert speedup_of(compressed(), "compression.dense", found).word == word


def test_what_decides_a_speedup_or_could_not_is_named():
    assert speedup_of(compressed(), "compression.dense", [session(0.4, 0.6)]).reason == (
        "int8 kernels; 0.50 [0.40, 0.60] of the time of compression.dense on desk, cpu, 1 thread"
    )
    noisy = speedup_of(compressed(), "compression.dense", [session(0.4, 0.6, noisy=True)]).reason
    assert noisy.endswith("the only session was noisy: compression.int8.proxy.s0.latency.1")
    assert "next: leandet time compression.dense.proxy.s0 compression.int8.proxy.s0" in speedup_of(compressed(), "compression.dense", []).reason


def test_masked_weights_are_never_faster_for_their_zeros():
    assert speedup_of(compressed("no", "both-30"), "compression.dense", []).word == "no"
    assert speedup_of(compressed("no", "both-30"), "compression.dense", [session(0.9, 0.98)]).word == "no"
    plain = replace(compressed(), context={"machine": {"name": "desk"}})
    assert speedup_of(plain, "compression.dense", [session(0.4, 0.6)]) is None


def test_what_a_row_is_timed_against_is_named_by_its_row():
    paper = built()["compression"]
    assert source_of("compression", paper.row("int8")) == "compression.dense"
    assert source_of("compression", paper.row("rfcn-int8")) == "compression.rfcn-dense"
