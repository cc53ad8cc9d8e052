"""Curves of accuracy over sparsity, from a kept field: by hand on made points, against the printed cells, and as drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import pareto_record, places
from bench.catalogue import catalogue
from bench.pareto import AXES, Costs, Field, Gain, Point
from bench.pareto_record import CSV_HEAD, changed, csv_rows, keep, kept_of, record_of
from bench.records import Record, read_record
from bench.report.pareto_view import COSTS, swept, views
from bench.report.sweep_plot import sweep_plot
from bench.sweeps import HEAD, rows, sweeps

LOST = {10: 0.0, 20: 0.2, 30: 0.4, 40: 2.0, 50: 5.0, 70: 20.0, 80: 40.0, 90: 59.0}  # points of AP that a row of `both` loses, of 60


def point(name, ap, seeds=5, **costs):
    return Point(name, ap, (ap - 1, ap + 1), seeds, Costs(**costs))


def field(lost=LOST, *, half=0.3, seeds=5):
    """The dense row at 60, and the rows of `both` below it, each known to so many points either way; zeros save bytes and no time."""
    dense = point("compression.dense", 60.0, stored_mb=10.0, macs_g=2.0, effective_macs_g=2.0)
    pruned = [
        replace(point(f"compression.both-{at}", 60 - less, seeds, stored_mb=10 - at / 10, macs_g=2.0, effective_macs_g=2 - at / 50), speedup="no")
        for at, less in lost.items()
    ]
    gains = {(each.id, dense.id): Gain(each.ap - 60, (each.ap - 60 - half, each.ap - 60 + half), seeds) for each in pruned}
    references = {each.id: dense.id for each in pruned}
    return Field((dense, *pruned), gains, missing=("half of it",), references=references, data="scenes-v1", machine="desk", groups=7)


def drawn(known, sweep="both"):
    return next(each for each in sweeps([record_of(known, "proxy")]) if each.sweep.key == sweep)


# ---- kept and read again


def test_a_field_is_kept_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "home", lambda: tmp_path)
    known = field()
    path = keep(known, "proxy")
    assert path == tmp_path / "runs" / "pareto" / "desk" / "pareto.proxy.desk.json"
    found = kept_of(read_record(path))
    assert [each.point for each in found] == list(known.points)
    assert found[1].gain == known.gains["compression.both-10", "compression.dense"]
    assert found[1].beaten == {"stored_mb": "-", "macs_g": "-", "ms": ""}  # 0.3 either way of nothing lost beats nothing
    assert found[-1].beaten["macs_g"].startswith("compression.both-10 +59.00") or found[-1].beaten["macs_g"].startswith("compression.dense +59.00")


def test_the_same_field_is_the_same_record_and_another_is_another():
    one, again, other = record_of(field(), "proxy"), record_of(field(), "proxy"), record_of(field(half=0.2), "proxy")
    assert one.digest == again.digest != other.digest
    assert record_of(replace(field(), data="coco:aquarium"), "real").id == "pareto.real.aquarium.desk"


def test_a_point_of_other_runs_than_there_are_is_named():
    def run(row, seed, ap):
        context = {"data": "scenes-v1", "machine": {"name": "desk"}}
        return Record(f"compression.{row}.proxy.s{seed}", "transform", "compression", row, "proxy", seed, "ok", "", "d", {"ap": ap}, context=context)

    kept = record_of(field({30: 1.0}), "proxy")
    now = [run("dense", seed, 60.0) for seed in range(5)] + [run("both-30", seed, 59.0) for seed in range(5)]
    assert changed(kept, now) == ()
    assert changed(kept, now[:-1]) == ("compression.both-30",)
    assert changed(kept, [*now[1:], run("dense", 0, 61.0)]) == ("compression.dense",)
    assert "made anew since" in views([kept, *now[:-1]])[0].notes[-1]


# ---- the shape


def test_a_curve_that_is_flat_falls_and_collapses_says_so():
    (line,) = drawn(field()).lines
    assert line.shape == (
        "flat to 30 within a point (at 30 -0.40 [-0.70, -0.10]); falls from 30 on at every step; collapsed at 90: 1.7 % of the accuracy is left"
    )
    assert line.missing == ()


@pytest.mark.parametrize(
    ("lost", "half", "said"),
    [
        (LOST | {20: 1.5, 30: 1.9}, 0.3, "not flat to 30 within a point (at 30 -1.90 [-2.20, -1.60])"),
        (LOST, 0.9, "not shown to be flat to 30 within a point (at 30 -0.40 [-1.30, +0.50])"),
        (LOST | {50: 1.0}, 0.3, "does not fall from 40 to 50"),
        (LOST | {90: 55.0}, 0.3, "not collapsed at 90: 8.3 % of the accuracy is left"),
        ({30: 0.4, 40: 2.0}, 0.3, "no run at 10, 20, 50, 70, 80, 90 yet"),
        ({10: 0.4, 40: 2.0}, 0.3, "flat to 10 within a point"),
    ],
)
def test_what_a_curve_does_not_show_is_said(lost, half, said):
    assert said in drawn(field(lost, half=half)).lines[0].shape


def of_dense(known, dense, **gains):
    """The field with a dense row of that AP, and other differences to it."""
    points = tuple(replace(each, ap=dense) if each.id == "compression.dense" else each for each in known.points)
    named = {(f"compression.{row.replace('_', '-')}", "compression.dense"): gain for row, gain in gains.items()}
    return replace(known, points=points, gains={**known.gains, **named})


def test_a_point_of_a_detector_that_has_few_is_too_young_to_tell():
    """Of 2.36 AP a loss of 0.38 is a sixth, and within a point all the same."""
    known = of_dense(field({10: 0.1, 20: 0.2, 30: 0.38}, half=0.3), 2.36)
    (line,) = drawn(known).lines
    said = "too young to tell whether it is flat to 30: a point is much of the reference's 2.36 AP (at 30 -0.38 [-0.68, -0.08])"
    assert line.shape.startswith(said)
    assert drawn(of_dense(known, 10.0)).lines[0].shape.startswith("flat to 30")
    lost = of_dense(known, 2.36, both_20=Gain(-1.7, (-2.1, -1.2), 5))
    assert drawn(lost).lines[0].shape.startswith("not flat to 30 within a point (at 20 -1.70 [-2.10, -1.20])")


def test_a_wide_interval_hides_no_other_that_lies_outside_a_point():
    known = of_dense(field(), 60.0, both_10=Gain(-1.25, (-3.0, 0.5), 5), both_20=Gain(-1.6, (-2.0, -1.2), 5))
    assert drawn(known).lines[0].shape.startswith("not flat to 30 within a point (at 20 -1.60 [-2.00, -1.20])")
    better = of_dense(field(), 60.0, both_10=Gain(1.6, (1.2, 2.0), 5))
    assert drawn(better).lines[0].shape.startswith("not flat to 30 within a point (at 10 +1.60 [+1.20, +2.00])")


def test_one_seed_decides_nothing_and_an_end_that_is_missing_is_no_end():
    shape = drawn(field({30: 0.4, 40: 2.0}, seeds=1)).lines[0].shape
    assert "fewer than 5 seeds, which decide, at 30, 40" in shape
    assert "collapsed" not in shape


# ---- beside what is printed


def test_every_printed_accuracy_stands_beside_the_row_of_its_column():
    """27 cells, each read from published.json by its own label."""
    published = catalogue()["compression"].published
    printed = {(row.cells[0], row.values[1]): row.values[2] for row in published.table("T1").rows}
    labels = {"backbone": "backbone", "head": "ROI head", "both": "both backbone and ROI head"}
    for sweep in catalogue()["compression"].paper.sweeps:
        (series,) = [each for each in sweep.series if each.printed[0]]
        found = {along: published.table("T1").rows[place].values[2] for along, place in series.places}
        assert found == {along: value for (block, along), value in printed.items() if block == labels[sweep.key]}
        assert [key for _, key in series.rows] == [f"{sweep.key}-{along:g}" for along in found if along]


def test_the_table_has_measured_and_printed_differences():
    texts = [dict(zip(HEAD, row, strict=True)) for row in rows([drawn(field())])]
    assert len(texts) == 9
    assert (texts[0]["row"], texts[0]["to the reference"], texts[0]["printed"]) == ("dense", "", "87.92")
    assert texts[3]["along"] == "30"
    assert (texts[3]["to the reference"], texts[3]["95 % of that"]) == ("-0.40", "-0.70 to -0.10")
    assert (texts[3]["printed"], texts[3]["printed to its reference"]) == ("83.60", "-4.32")  # 83.60 - 87.92


# ---- drawn


def test_a_sweep_is_drawn_with_every_place_its_interval_and_what_is_printed():
    picture = sweep_plot(drawn(field()))
    assert picture == sweep_plot(drawn(field()))
    assert picture.count('tabindex="0"') == 9
    assert "compression.both-30, weights, 30: AP 59.60 [58.60, 60.60], 5 seeds; to compression.dense -0.40 [-0.70, -0.10]" in picture
    assert picture.count('polyline class="printed"') == 1
    points = picture.split('polyline class="s0" points="')[1].split('"')[0].split()
    heights = [float(each.split(",")[1]) for each in points]
    assert heights == sorted(heights)  # it falls, and the picture's y grows downwards


def test_the_view_of_a_field_says_which_multiply_adds_no_kernel_saves():
    (view,) = views([record_of(field(), "proxy")])
    texts = {row.id: dict(zip(COSTS.values(), row.costs, strict=True)) for row in view.rows}
    assert texts["compression.both-50"]["GMAC*"] == "1 (no kernel)"
    assert texts["compression.dense"]["GMAC*"] == "2"
    assert len(view.plots) == 2  # nothing was timed, and the notes say so
    assert "No row was timed" in view.notes[0]
    assert "half of it" in view.notes


def test_a_timed_row_gives_a_third_plot_and_a_beaten_one_is_grey():
    known = field({70: 20.0})
    timed = replace(known, points=tuple(replace(each, costs=replace(each.costs, ms=5.0)) for each in known.points))
    (view,) = views([record_of(timed, "proxy")])
    assert len(view.plots) == len(AXES)
    assert "pt beaten" in view.plots[1]
    assert "beaten by compression.dense +20.00 [+19.70, +20.30], 5 seeds" in view.plots[1]


def test_what_one_seed_shows_is_undecided_on_the_page_and_what_timed_is_named():
    known = replace(field({70: 20.0}, seeds=1), timed_on="desk, cpu, 1 thread")
    timed = replace(known, points=tuple(replace(each, costs=replace(each.costs, ms=5.0)) for each in known.points))
    record = record_of(timed, "proxy")
    (view,) = views([record])
    assert "pt beaten" not in "".join(view.plots)
    assert "pt undecided" in view.plots[1]
    assert "undecided, may be beaten by compression.dense +20.00 [+19.70, +20.30], 1 seed" in view.plots[1]
    assert view.timed_on == "desk, cpu, 1 thread"
    assert "ms an image on desk, cpu, 1 thread" in view.plots[2]
    texts = [dict(zip(CSV_HEAD, row, strict=True)) for row in csv_rows([record])]
    assert [each["timed_on"] for each in texts] == ["desk, cpu, 1 thread"] * 2
    older = replace(record, context={name: value for name, value in record.context.items() if name != "timed_on"})
    assert views([older])[0].timed_on == ""


def test_bit_operations_that_no_kernel_saves_say_so():
    known = field({50: 5.0})
    bits = replace(known, points=tuple(replace(each, costs=replace(each.costs, bops_g=9.0, effective_bops_g=4.0)) for each in known.points))
    (view,) = views([record_of(bits, "proxy")])
    assert [dict(zip(COSTS.values(), row.costs, strict=True))["Gbop*"] for row in view.rows] == ["4", "4 (no kernel)"]


def test_a_paper_without_a_reference_run_has_no_sweep():
    known = field()
    assert swept([record_of(replace(known, points=known.points[1:]), "proxy")]) == ()
    assert csv_rows([]) == []
    assert pareto_record.pareto_records([]) == ()
