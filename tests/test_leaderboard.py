"""The standings: units in the names, numbers in range, nothing averaged over what is missing, the same bytes for the same records."""

import csv
import io
from dataclasses import fields, replace
from math import isnan, sqrt

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandera.errors import SchemaError

from bench.leaderboard import Line, as_csv, frame, interval, lines, place_text
from bench.records import Record
from bench.tables import Outcome


def run(row, seed=0, ap=50.0, **changes):
    context = {"data": "scenes-v1", "machine": {"name": "desk"}, "commit": "c" * 40}
    values = {"ap": ap, "ap50": ap + 20}
    return replace(Record(f"p.{row}.proxy.s{seed}", "train", "p", row, "proxy", seed, "ok", "", "d" * 64, values, context=context), **changes)


def cost(row):
    return Record(f"p.{row}.cost", "cost", "p", row, "", 0, "ok", "", "d" * 64, {"params_m": 2.5, "size_mb": 10, "macs_g": 7.25})


def test_costs_are_of_the_whole_detector_whatever_the_papers_tables_count():
    """Condensing's tables count the second-stage head, POD's the detector: side by side both must be the same thing."""
    head = replace(cost("a"), values=dict(cost("a").values) | {"model_params_m": 41.4, "model_size_mb": 165.8, "model_macs_g": 127.3})
    found = {line.row: line for line in lines([head, cost("b")])}
    assert [(line.params_m, line.size_mb, line.macs_g) for line in (found["a"], found["b"])] == [(41.4, 165.8, 127.3), (2.5, 10, 7.25)]


def test_one_line_a_row_tier_data_and_machine():
    other = run("a", context={"data": "bccd", "machine": {"name": "desk"}})
    elsewhere = run("a", context={"data": "scenes-v1", "machine": {"name": "laptop"}})
    found = lines([run("a", 0), run("a", 1), other, elsewhere, run("a", tier="smoke")])
    assert len(found) == 4
    assert sorted(line.seeds for line in found) == [1, 1, 1, 2]


def test_the_mean_and_the_interval_over_seeds():
    """49, 50, 51: mean 50, deviation 1, so 4.303 / sqrt(3) on each side."""
    (line,) = lines([run("a", seed, 49.0 + seed) for seed in range(3)])
    assert (line.ap, line.ap50) == (50.0, 70.0)
    assert (line.ap_low, line.ap_high) == pytest.approx((50 - 4.303 / sqrt(3), 50 + 4.303 / sqrt(3)))
    assert all(isnan(end) for end in interval([50.0]))


def seeds(row, *aps, **changes):
    return [run(row, seed, ap, **changes) for seed, ap in enumerate(aps)]


def places(found):
    return {line.row: place_text(line) for line in found}


def test_ranking_never_averages_over_what_is_missing():
    half = run("b", 1, 90.0, values={"ap50": 95.0})  # this seed has no AP
    found = {line.row: line for line in lines([*seeds("a", 39.9, 40.1), run("b", 0, 90.0), half, *seeds("c", 44.9, 45.1)])}
    assert isnan(found["b"].ap)
    assert isnan(found["b"].rank)
    (line,) = lines([run("b", 0, 60.0), run("b", 1, 50.0), run("b", 2, values={"ap50": 95.0})])
    assert (isnan(line.ap), isnan(line.ap_low), isnan(line.ap_high)) == (True, True, True)
    as_csv([line])  # fits the schema
    assert (found["c"].rank, found["c"].rank_to, found["a"].rank, found["a"].rank_to) == (1, 1, 2, 2)


def test_a_row_stands_above_another_only_where_its_whole_interval_does():
    """Three seeds, deviation 0.1: +-4.303 * 0.1 / sqrt(3) = +-0.25; so 50.0 and 50.4 overlap, 51.0 and 50.4 do not."""
    found = lines([*seeds("a", 50.9, 51.0, 51.1), *seeds("b", 50.3, 50.4, 50.5), *seeds("c", 49.9, 50.0, 50.1), *seeds("d", 40.0, 50.0, 59.0)])
    assert [line.row for line in found] == ["a", "b", "c", "d"]
    assert places(found) == {"a": "1-2", "b": "2-4", "c": "2-4", "d": "1-4"}


def test_one_seed_has_no_interval_and_no_rank_and_moves_none():
    found = lines([run("a", ap=99.0), *seeds("b", 49.9, 50.1), *seeds("c", 59.9, 60.1)])
    assert [line.row for line in found] == ["a", "c", "b"]
    assert places(found) == {"a": "", "c": "1", "b": "2"}


@given(st.lists(st.tuples(*[st.integers(0, 1000)] * 2), min_size=1, max_size=8))
def test_a_place_counts_the_rows_that_are_surely_above(pairs):
    found = lines([each for row, pair in enumerate(pairs) for each in seeds(f"r{row}", *(ap / 10 for ap in pair))])
    for line in found:
        assert line.rank == 1 + sum(other.ap_low > line.ap_high for other in found)
        assert line.rank_to == sum(not other.ap_high < line.ap_low for other in found)
        assert line.rank <= line.rank_to


def test_a_failed_row_and_a_row_that_was_only_counted_are_lines():
    found = {line.row: line for line in lines([run("a", status="failed", reason="loss is nan", values={}), cost("b"), cost("a")])}
    assert (found["a"].status, found["a"].seeds, found["a"].params_m) == ("failed: loss is nan", 0, 2.5)
    assert (found["b"].status, found["b"].tier) == ("counted, not run", "")


def test_rows_of_other_records_are_ranked_within_their_tier_and_data():
    found = lines([*seeds("a", 9.9, 10.1), *seeds("b", 19.9, 20.1), *seeds("c", 4.9, 5.1, tier="real")])
    assert [(line.row, line.rank) for line in found] == [("c", 1), ("b", 1), ("a", 2)]


def test_a_tier_of_single_seeds_comes_after_those_that_rank():
    found = lines([*seeds("a", 9.9, 10.1), run("b", ap=50.0), run("c", ap=90.0, tier="real"), cost("d")])
    assert [line.row for line in found] == ["b", "a", "c", "d"]


def test_outcomes_stand_where_cells_are_judged():
    """Published cells are judged on scenes-v1; a line of photographs shows what its own tier has decided, a control nothing."""
    told = [
        Outcome("p", "T1", "A", "a", "AP", "", "", "1", 1.0, None, None, word, "", tier)
        for word, tier in (("undecided", "proxy"), ("reproduced", ""))
    ]
    control = run("a", context={"data": "scenes-v1-onesize", "machine": {"name": "desk"}})
    found = lines([run("a"), control, run("a", tier="real", context={"data": "bccd", "machine": {"name": "desk"}})], told)
    assert {(line.tier, line.data): line.outcomes for line in found} == {
        ("proxy", "scenes-v1"): "reproduced 1; undecided 1",
        ("proxy", "scenes-v1-onesize"): "",
        ("real", "bccd"): "",
    }


def test_the_csv_holds_the_schema_and_reads_back():
    text = as_csv(lines([run("a", seed, 50.0 + seed) for seed in range(2)] + [cost("a"), cost("b")])).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == [field.name for field in fields(Line)]
    assert {"ap", "params_m", "size_mb", "macs_g"} <= set(rows[0])
    assert [(row["id"], row["ap"], row["params_m"]) for row in rows] == [("p.a.proxy", "50.500", "2.500"), ("p.b", "", "2.500")]
    assert len(pd.read_csv(io.StringIO(text))) == 2


def test_the_same_records_in_any_order_give_the_same_bytes():
    records = [run("a", 0), run("a", 1, 52.0), run("b", 0, 50.0), cost("a"), cost("b"), run("c", 0, 50.0)]
    assert as_csv(lines(records)) == as_csv(lines(records[::-1]))


def test_no_record_gives_a_table_without_lines():
    assert as_csv(()).decode().strip() == ",".join(field.name for field in fields(Line))


@pytest.mark.parametrize(
    "change",
    [
        {"ap": 101.0},
        {"ap": -1.0},
        {"params_m": -1.0},
        {"tier": "huge"},
        {"id": ""},
        {"ap_low": 60.0},
        {"rank": 0.0},
        {"seeds": -1},
        {"rank": 3.0},
        {"status": "fine"},
        {"outcomes": "reproduced"},
        {"outcomes": "won 3"},
        {"torch": "new"},
        {"commit": "HEAD"},
        {"id": "p.b.proxy"},
    ],
)
def test_a_line_out_of_range_is_refused(change):
    (line,) = lines([run("a", seed, 50.0 + seed) for seed in range(2)])
    frame([line])
    with pytest.raises(SchemaError):
        frame([replace(line, **change)])


def test_two_lines_of_one_id_and_machine_are_refused():
    (line,) = lines([run("a")])
    with pytest.raises(SchemaError):
        frame([line, line])
