"""Which rows another one beats: by hand on made points, then from stored predictions, and as a drawing."""

import io
from dataclasses import fields, replace

import numpy as np
import pytest
from stored_runs import write_runs

from bench import pareto_points
from bench.assemble import build_detector
from bench.catalogue import built
from bench.datasets import open_split, parse_data
from bench.evidence import data_of
from bench.gather import read_stored
from bench.metrics.bootstrap import over_seeds, resampled, seed_and_image_interval
from bench.metrics.matches import coco_matches
from bench.own_costs import own_costs
from bench.pareto import HEAD, Costs, Field, Gain, Point, cells, front, no_dearer, standing
from bench.pareto_record import changed, csv_rows, record_of
from bench.report.pareto_plot import BEATEN, LEGEND, UNDECIDED, draw, rising
from bench.scales import SCALES
from bench.types import UserError


def point(name, ap=50.0, **costs):
    return Point(name, ap, (ap - 1, ap + 1), 5, Costs(**costs))


BIG, SMALL, POOR = point("big", 57, macs_g=10.0, ms=20.0), point("small", 56, macs_g=5.0, ms=10.0), point("poor", 50, macs_g=8.0, ms=15.0)
GAINS = {("big", "small"): Gain(1, (-0.5, 2.5), 5), ("big", "poor"): Gain(7, (5, 9), 5), ("small", "poor"): Gain(6, (4, 8), 5)}


# ---- the rule


def test_a_row_is_beaten_only_where_the_interval_says_so():
    known = Field((BIG, SMALL, POOR), GAINS)
    assert standing(known, "macs_g", POOR).by == "small"  # cheaper, and 4 to 8 points better
    assert standing(known, "macs_g", BIG).by == ""  # small costs less, but is not better
    assert front(known, "macs_g") == (SMALL, BIG)


def test_a_gain_whose_interval_holds_zero_beats_nothing():
    known = Field((BIG, SMALL, POOR), GAINS | {("small", "poor"): Gain(6, (-0.1, 12), 5)})
    assert standing(known, "macs_g", POOR).by == ""
    dearer = Field((BIG, replace(SMALL, costs=Costs(macs_g=9.0)), POOR), GAINS)
    assert standing(dearer, "macs_g", POOR).by == ""  # now neither costs as little


def test_what_fewer_than_five_seeds_show_is_undecided_and_stays_on_the_front():
    """One seed's interval is over images alone; by four it is hardly over seeds either."""
    young = Field((BIG, SMALL, POOR), GAINS | {("small", "poor"): Gain(6, (4, 8), 4)})
    found = standing(young, "macs_g", POOR)
    assert (found.by, found.gain.seeds, found.certain) == ("small", 4, False)
    assert front(young, "macs_g") == (SMALL, POOR, BIG)
    said = dict(zip(HEAD, cells(young, POOR), strict=True))
    assert said["beaten_on_macs_g"] == "undecided: small +6.00 [+4.00, +8.00], 4 seeds"
    assert standing(Field((BIG, SMALL, POOR), GAINS), "macs_g", POOR).certain


def test_what_beats_for_certain_is_named_before_what_may_beat_by_more():
    great = point("great", 59, macs_g=1.0)
    known = Field((BIG, SMALL, POOR, great), GAINS | {("great", "poor"): Gain(9, (8, 10), 1)})
    assert standing(known, "macs_g", POOR).by == "small"
    assert standing(replace(known, points=(POOR, great)), "macs_g", POOR).by == "great"


def test_a_noisy_session_decides_nothing():
    ratios = {("poor", "small"): (1.2, 1.6)}
    known = Field((SMALL, POOR), GAINS, ratios, noisy=frozenset(ratios))
    assert (standing(known, "ms", POOR).by, standing(known, "ms", POOR).certain) == ("small", False)
    said = dict(zip(HEAD, cells(known, POOR), strict=True))
    assert said["beaten_on_ms"] == "undecided: small +6.00 [+4.00, +8.00], 5 seeds, in a noisy session"
    assert standing(known, "macs_g", POOR).certain  # what is counted needs no session


def test_rows_that_share_no_seed_do_not_beat_each_other():
    assert standing(Field((SMALL, POOR)), "macs_g", POOR).by == ""


def test_a_row_without_the_cost_is_on_no_axis():
    known = Field((SMALL, POOR, point("free", 60)), GAINS | {("free", "poor"): Gain(9, (8, 10), 5)})
    assert standing(known, "macs_g", known.points[2]) is None
    assert standing(known, "macs_g", POOR).by == "small"
    assert standing(known, "stored_mb", POOR) is None


def test_times_are_compared_by_the_interval_of_one_session():
    """8 ms less of the median is nothing without a session that had both in turns."""
    assert not no_dearer(Field((SMALL, POOR), GAINS), "ms", SMALL, POOR)
    sure = Field((SMALL, POOR), GAINS, {("poor", "small"): (1.2, 1.6)})
    assert no_dearer(sure, "ms", SMALL, POOR)  # 1/1.6 to 1/1.2 lies below one
    assert standing(sure, "ms", POOR).by == "small"
    unsure = Field((SMALL, POOR), GAINS, {("poor", "small"): (0.9, 1.6)})
    assert standing(unsure, "ms", POOR).by == ""


def test_a_pair_turns_with_its_sides():
    known = Field((BIG, POOR), GAINS)
    assert known.gain("poor", "big") == Gain(-7, (-9, -5), 5)
    assert known.gain("poor", "nobody") is None


def test_the_cells_of_a_row_say_by_what_it_is_beaten():
    said = dict(zip(HEAD, cells(Field((BIG, SMALL, POOR), GAINS), POOR), strict=True))
    assert said["beaten_on_macs_g"] == "small +6.00 [+4.00, +8.00], 5 seeds"
    assert said["beaten_on_stored_mb"] == ""
    assert dict(zip(HEAD, cells(Field((BIG,)), BIG), strict=True))["beaten_on_macs_g"] == "-"


def test_size_by_arithmetic_by_the_file_and_their_ratio_stand_side_by_side():
    made = point("int8", stored_mb=2.8, arithmetic_mb=3.0, stored_ratio=2.8 / 3.0, bops_g=64.0, effective_bops_g=32.0)
    said = dict(zip(HEAD, cells(Field((made,)), made), strict=True))
    assert (said["stored_mb"], said["arithmetic_mb"], said["stored_ratio"]) == ("2.800", "3.000", "0.933")
    assert (said["bops_g"], said["effective_bops_g"]) == ("64.000", "32.000")


def test_the_table_names_what_timed_beside_each_time():
    known = Field((BIG, point("still", 40, macs_g=1.0)), machine="cluster", timed_on="desk, cpu, 1 thread")
    timed, still = (dict(zip(HEAD, cells(known, each), strict=True)) for each in known.points)
    assert (timed["ms"], timed["timed_on"]) == ("20.000", "desk, cpu, 1 thread")
    assert (still["ms"], still["timed_on"]) == ("", "")


# ---- from stored predictions


@pytest.fixture(scope="module")
def truth():
    return open_split(parse_data("scenes-v1"), "test").ground_truth()


@pytest.fixture(scope="module")
def stored(truth, tmp_path_factory):
    """Three rows: the baseline finds 8 in 10 objects, K16 L5 as many (others), K1 L1 half of them."""
    place, rows = tmp_path_factory.mktemp("records"), (("fpn-r50", 0.8, 2), ("k16-l5", 0.8, 2), ("k1-l1", 0.5, 1))
    chances = ((row, seed, share, np.random.default_rng([seed, len(row)])) for row, share, seeds in rows for seed in range(seeds))
    write_runs(place, truth, [(row, seed, draw.random(len(truth.boxes)) < share) for row, seed, share, draw in chances])
    return read_stored(place)


@pytest.fixture(scope="module")
def known(stored):
    return pareto_points.field_of(stored, pareto_points.Question("proxy"))


def test_a_row_that_there_is_not_is_refused(stored):
    with pytest.raises(UserError, match=r"--rows 'condensing.fpn-r5': there is no such row; allowed: PAPER.ROW, as in condensing.fpn-r50"):
        pareto_points.field_of(stored, pareto_points.Question("proxy", rows=("condensing.fpn-r5",)))


def test_points_are_the_rows_with_runs_and_their_gains_are_paired(known, stored, truth):
    by_id = {each.id: each for each in known.points}
    assert set(by_id) == {"condensing.fpn-r50", "condensing.k16-l5", "condensing.k1-l1"}
    assert by_id["condensing.fpn-r50"].seeds == 2
    aps = [each.record.values["ap"] for each in stored if each.record.row == "fpn-r50"]
    assert by_id["condensing.fpn-r50"].ap == pytest.approx(np.mean(aps), abs=1e-6)
    low, high = by_id["condensing.fpn-r50"].interval
    assert low < np.mean(aps) < high
    gain = known.gain("condensing.fpn-r50", "condensing.k1-l1")
    assert gain.seeds == 1
    ours, theirs = (next(e.record.values["ap"] for e in stored if (e.record.row, e.record.seed) == (row, 0)) for row in ("fpn-r50", "k1-l1"))
    assert gain.value == pytest.approx(ours - theirs, abs=1e-6)
    assert gain.interval[0] > 0


def test_costs_are_those_of_the_scaled_down_net(known):
    """4 bytes a parameter and buffer; condensing makes the head smaller and nothing else."""
    by_id = {each.id: each.costs for each in known.points}
    whole, condensed, least = (by_id[f"condensing.{row}"] for row in ("fpn-r50", "k16-l5", "k1-l1"))
    assert whole.stored_mb > condensed.stored_mb > least.stored_mb > 0
    assert whole.arithmetic_mb - condensed.arithmetic_mb == pytest.approx(4 * (1.685815 - 0.973191), rel=1e-3)  # of the records' own heads
    assert whole.effective_macs_g == whole.macs_g
    assert whole.bops_g == whole.effective_bops_g == whole.macs_g * 32 * 32
    assert whole.stored_ratio == whole.stored_mb / whole.arithmetic_mb > 1  # averages of frozen norms are stored and no parameters


def test_the_cheapest_row_is_not_beaten_and_the_best_is_not_either(known):
    assert {each.id for each in front(known, "macs_g")} >= {"condensing.k1-l1"}
    assert standing(known, "macs_g", next(p for p in known.points if p.id == "condensing.k1-l1")).by == ""


def test_what_is_missing_is_said(known):
    said = "\n".join(known.missing)
    assert "compression: no run" in said
    assert "leandet time" in said


def test_a_machine_or_data_without_runs_is_an_error(stored):
    with pytest.raises(UserError, match="desk"):
        pareto_points.field_of(stored, pareto_points.Question("proxy", machine="another"))
    with pytest.raises(UserError, match="no run"):
        pareto_points.field_of(stored, pareto_points.Question("real"))


def test_resamples_are_those_of_the_paired_interval(stored, truth):
    runs = {row: [coco_matches(_read(e), truth) for e in stored if e.record.row == row] for row in ("fpn-r50", "k16-l5")}
    ours, theirs = (resampled(runs[row], samples=50) for row in ("fpn-r50", "k16-l5"))
    apart, together = over_seeds(ours - theirs), seed_and_image_interval(runs["fpn-r50"], runs["k16-l5"], samples=50)
    assert (apart.difference, apart.low, apart.high) == (together.difference, together.low, together.high)


def _read(each):
    from bench.metrics.store import read_predictions

    return read_predictions(each.predictions)


# ---- costs of a row at a tier


def test_own_costs_are_by_hand_and_a_compressed_rows_are_left_to_its_record():
    """The head of FPN at the smoke scale: two fully connected layers and the answers, 1000 RoIs, on what the other parts cost."""
    paper = built()["condensing"]
    found = own_costs(paper.row("fpn-r50"), "smoke", 4)
    detector = build_detector(paper.row("fpn-r50"), SCALES["smoke"], 4, seed=0)
    assert found["own_arithmetic_mb"] == pytest.approx(4e-6 * sum(p.numel() for p in detector.parameters()))
    head = detector.regions.head
    per_roi = sum(layer.weight.numel() for layer in (head.fc6, head.fc7, head.predictor.cls_score, head.predictor.bbox_pred))
    condensed = own_costs(paper.row("k1-l1"), "smoke", 4)
    assert found["own_macs_g"] > per_roi * 1000 / 1e9
    assert condensed["own_stored_mb"] < found["own_stored_mb"]
    assert own_costs(built()["compression"].row("backbone-50"), "smoke", 4) == {}
    assert own_costs(built()["compression"].row("int8"), "smoke", 4) == {}


def test_own_costs_are_of_what_is_deployed():
    """MimicDet's teacher teaches and is not there when the student is tested; where the T-head is tested, it is."""
    paper = built()["mimicdet"]
    alone, taught, teacher = (own_costs(paper.row(key), "smoke", 4) for key in ("no-t-head", "mimicdet", "mimicdet-t"))
    assert alone == taught
    assert teacher["own_stored_mb"] > taught["own_stored_mb"]
    assert own_costs(paper.row("separated-r50"), "smoke", 4) == own_costs(paper.row("r50-800"), "smoke", 4)  # the same student, taught by another net


# ---- drawn


def test_it_is_drawn_with_every_point_and_the_same_bytes_each_time(known, tmp_path):
    first = draw(known, tmp_path / "a.svg", tmp_path / "a.png", title="proxy")
    again = draw(known, tmp_path / "b.svg", tmp_path / "b.png", title="proxy")
    assert [path.name for path in first] == ["a.svg", "a.png"]
    assert first[0].read_bytes() == again[0].read_bytes()
    text = first[0].read_text()
    assert all(each.id in text for each in known.points)
    assert "not timed" in text  # the third axis has no point
    assert all(said in text for said in LEGEND.values())
    assert first[1].read_bytes().startswith(b"\x89PNG")


def test_the_three_kinds_of_points_look_apart(tmp_path):
    """Grey only for certain; what one seed shows is hollow in a lighter blue; the axis of time names the clock."""
    known = replace(Field((BIG, SMALL, POOR), GAINS), timed_on="desk, cpu, 1 thread")
    svg, _ = draw(known, tmp_path / "a.svg", tmp_path / "a.png", title="certain")
    legend = 1  # each kind has a mark there
    assert "on desk, cpu, 1 thread" in svg.read_text()
    drawn = {name: svg.read_text().count(f"fill: {name}") for name in (BEATEN, UNDECIDED)}
    young = replace(known, gains={pair: replace(gain, seeds=1) for pair, gain in GAINS.items()})
    svg, _ = draw(young, tmp_path / "b.svg", tmp_path / "b.png", title="young")
    again = {name: svg.read_text().count(f"fill: {name}") for name in (BEATEN, UNDECIDED)}
    assert drawn[BEATEN] > again[BEATEN] >= legend
    assert again[UNDECIDED] > drawn[UNDECIDED]


def test_what_has_lost_half_of_the_accuracy_is_counted_and_not_drawn(known, tmp_path):
    dead = replace(BIG, id="compression.dead", ap=0.0, interval=(0.0, 0.1), costs=replace(BIG.costs, stored_mb=0.01, macs_g=0.01))
    svg, _ = draw(replace(known, points=(*known.points, dead)), tmp_path / "a.svg", tmp_path / "a.png", title="proxy")
    text = svg.read_text()
    assert "compression.dead" not in text
    assert "1 rows below" in text
    assert all(each.id in text for each in known.points)
    with_none, _ = draw(known, tmp_path / "b.svg", tmp_path / "b.png", title="proxy")
    assert "not drawn" not in with_none.read_text()


def test_in_a_crowd_only_what_nothing_beats_bears_its_name(tmp_path):
    best, crowd = point("best", 60, macs_g=4.0), [point(f"row-{place}", 55 - 0.01 * place, macs_g=5.0) for place in range(40)]
    gains = {("best", each.id): Gain(5, (4, 6), 5) for each in crowd}
    svg, _ = draw(Field((best, *crowd), gains), tmp_path / "a.svg", tmp_path / "a.png", title="crowd")
    assert ">best<" in svg.read_text()
    assert "row-7" not in svg.read_text()
    few, _ = draw(Field((best, *crowd[:9]), gains), tmp_path / "b.svg", tmp_path / "b.png", title="few")
    assert "row-7" in few.read_text()


def test_the_line_goes_through_what_is_better_than_all_that_is_cheaper():
    cheap, worse, same, best = (point(name, ap) for name, ap in (("cheap", 40), ("worse", 39), ("same", 40), ("best", 60)))
    assert rising([cheap, worse, same, best]) == [cheap, best]
    assert rising([]) == []


# ---- as table, file and JSON


def test_the_table_names_every_row_its_costs_and_what_is_missing(known):
    from rich.console import Console

    from bench.pareto_table import as_csv, as_objects, print_pareto

    console = Console(width=300, record=True, file=io.StringIO())
    print_pareto(known, console)
    text = console.export_text()
    assert all(each.id in text for each in known.points)
    assert "GMAC*" in text
    assert "compression: no run" in text
    lines = as_csv(known).decode().splitlines()
    assert len(lines) == 1 + len(known.points)
    assert lines[0] == ",".join(HEAD)
    assert [each["id"] for each in as_objects(known)] == [each.id for each in known.points]


def test_no_number_of_the_longest_row_is_cut_off():
    from rich.console import Console

    from bench.pareto_table import WIDTH, print_pareto

    longest = max((f"{key}.{row.key}" for key, paper in built().items() for row in paper.rows if row.recipe), key=len)
    most = Costs(**({each.name: 0.0123456 for each in fields(Costs)} | {"bops_g": 12345.678, "effective_bops_g": 12345.678}))
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    print_pareto(Field((Point(longest, 99.99, (99.0, 99.99), 5, most, "not timed"),)), console)
    text = console.export_text().splitlines()[1]
    assert "…" not in text
    assert text.split()[0] == longest


def test_the_table_tells_what_beats_from_what_may():
    from rich.console import Console

    from bench.pareto_table import MEANING, as_objects, print_pareto

    known = Field((BIG, SMALL, POOR), GAINS | {("small", "big"): Gain(1, (0.5, 2), 1)}, timed_on="desk, cpu, 1 thread")
    known = replace(known, gains={pair: gain for pair, gain in known.gains.items() if pair != ("big", "small")})
    console = Console(width=300, record=True, file=io.StringIO())
    print_pareto(known, console)
    lines = console.export_text().splitlines()
    assert "by GMAC: beaten by nothing: small" in lines
    assert "  poor is beaten by small +6.00 [+4.00, +8.00], 5 seeds" in lines
    assert "  big is undecided, may be beaten by small +1.00 [+0.50, +2.00], 1 seed" in lines
    assert any(line.endswith("ms: desk, cpu, 1 thread.") for line in lines)
    assert "MB/MB*" in lines[0]
    assert "no file is" not in MEANING
    big = as_objects(known)[0]
    assert (big["beaten_by"]["macs_g"], big["undecided_by"]) == ("", {"macs_g": "small"})


def test_a_run_made_here_hides_no_run_of_its_id_on_another_machine(stored, monkeypatch):
    from bench import publish
    from bench.pareto_table import everything_here

    there = [replace(each, record=replace(each.record, context=each.record.context | {"machine": {"name": "cluster"}})) for each in stored]
    monkeypatch.setattr(publish, "local", lambda: (stored[0],))
    monkeypatch.setattr(publish, "committed", lambda: (*stored, *there))
    assert everything_here() == (stored[0], *stored[1:], *there)


def test_an_unknown_tier_is_answered_with_those_there_are():
    from bench.pareto_table import tier_of

    with pytest.raises(UserError, match="proxy"):
        tier_of("proxi")


def test_what_is_trained_for_others_to_start_from_is_no_point(stored):
    """A body learns longer than the rows that start from it; asked for by name it is shown."""
    bodies = [replace(each, record=replace(each.record, row="body-r50")) if each.record.row == "fpn-r50" else each for each in stored]
    names = {each.id for each in pareto_points.field_of(bodies, pareto_points.Question("proxy")).points}
    assert names == {"condensing.k16-l5", "condensing.k1-l1"}
    asked = pareto_points.field_of(bodies, pareto_points.Question("proxy", rows=("condensing.body-r50",)))
    assert [each.id for each in asked.points] == ["condensing.body-r50"]


def test_rows_of_different_lengths_do_not_stand_side_by_side(stored):
    """A seed that learnt four times as long is left out and said; a field of that length bears it in its id, and is not made old by others."""
    longer = [replace(each.record, context=dict(each.record.context) | {"length": 4}) for each in stored if each.record.seed == 1]
    mixed = [replace(each, record=next((one for one in longer if one.id == each.record.id), each.record)) for each in stored]
    known = pareto_points.field_of(mixed, pareto_points.Question("proxy"))
    assert {point.seeds for point in known.points} == {1}
    assert "2 runs of other lengths than x1 are left out: --length takes another" in known.missing
    four = pareto_points.field_of(mixed, pareto_points.Question("proxy", length=4))
    assert (four.length, {point.seeds for point in four.points}, len(four.points)) == (4, {1}, 2)
    with pytest.raises(UserError, match=r"--length 3: no run learnt so long; allowed: 1, 4"):
        pareto_points.field_of(mixed, pareto_points.Question("proxy", length=3))
    record = record_of(replace(known, length=4, data="coco:aquarium", machine="desk"), "real")
    assert record.id == "pareto.real.aquarium.x4.desk"
    assert data_of(record) == "coco:aquarium x4"
    assert csv_rows([record])[0][:3] == ("real", "coco:aquarium x4", "desk")
    there = [each.record for each in stored if each.record.seed == 0]
    assert changed(record_of(known, "proxy"), there) == changed(record_of(known, "proxy"), [*there, *longer]) == ()
