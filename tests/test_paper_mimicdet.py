"""MimicDet's rows: every printed setting has its own, every cell and sentence an outcome, and what is printed twice agrees."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from bench.catalogue import FOLDER, catalogue
from bench.claims import decide
from bench.cost import cost_records
from bench.evidence import Difference, Evidence
from bench.plan import Choice, plan, schedule_of
from bench.records import Record
from bench.spec import Transform
from bench.tables import check_table, compare, printed_difference

ENTRY = catalogue()["mimicdet"]
PAPER = ENTRY.paper
RUNS = plan([PAPER], Choice("proxy"))
OURS = [run for run in RUNS if run.paper == "mimicdet"]
HEADLINES = {"no-t-head", "with-t-head", "mimicdet", "conv", "deform", "guided"}


def evidence(records=(), differences=()):
    return Evidence(PAPER, ENTRY.published, tuple(records), tuple(differences))


def sentences(records=(), differences=()):
    return {claim.key: claim for claim in decide(PAPER, ENTRY.published, evidence(records, differences))}


def trained(row, seed=0, value=30.0, kind="train", tier="proxy"):
    end = ".plateau" if kind == "plateau" else ""
    context = {"data": "scenes-v1", "machine": {"name": "desk"}}
    return Record(f"mimicdet.{row}.{tier}.s{seed}{end}", kind, "mimicdet", row, tier, seed, "ok", "", "now", {"ap": value}, context=context)


def settled(*rows):
    """Five seeds of each row and a proof of its plateau."""
    return [*(trained(row, seed) for row in rows for seed in range(5)), *(trained(row, kind="plateau", value=30.1) for row in rows)]


def difference(row, reference, low, high):
    return Difference("mimicdet", row, reference, "ap", "proxy", (low + high) / 2, (low, high), 5, 0.2)


# ---- rows


def test_keys_are_unique_and_references_exist():
    keys = [row.key for row in PAPER.rows]
    assert len(set(keys)) == len(keys)
    assert all({row.reference, row.body, *row.needs} <= {"", *keys} for row in PAPER.rows)
    assert all(row.title for row in PAPER.rows)
    assert {last_reference(row) for row in PAPER.rows if row.reference} == {"no-t-head", "r50-800", "deployed-r50-800"}


def last_reference(row):
    return last_reference(PAPER.row(row.reference)) if row.reference else row.key


def test_rows_that_differ_in_a_printed_setting_share_no_digest():
    said = [(row.setting, row.build, str(sorted(row.arguments.items())), row.recipe, row.needs) for row in PAPER.rows if row.build]
    assert len(set(said)) == len(said)
    assert len({run.digest for run in RUNS}) == len(RUNS)
    assert PAPER.twins == ()


def test_headlines_are_named_and_few():
    assert {row.key for row in PAPER.rows if row.headline} == HEADLINES
    assert [claim.key for claim in PAPER.claims if claim.headline] == ["mimicking-gains", "alignment-gains"]
    assert sorted(claim.index for claim in PAPER.claims) == [-1, -1, *range(9)]
    seeds = Counter(run.row for run in OURS if run.kind != "plateau")
    assert {key for key, count in seeds.items() if count == 5} == HEADLINES
    assert {run.row for run in OURS if run.kind == "plateau"} == HEADLINES


def test_every_row_that_is_not_quoted_is_trained_or_counted():
    runs = {run.row for run in OURS}
    for row in PAPER.rows:
        assert (row.key in runs) == (row.build is not None and bool(row.recipe))
        assert bool(row.quoted) == (row.build is None)
        assert row.recipe or row.build is None or "Counted and timed only" in row.notes


def test_what_is_only_tested_otherwise_starts_from_its_own_seed_and_never_learns():
    for key, source in (("light-t", "light"), ("heavy-t", "heavy"), ("mimicdet-t", "mimicdet"), ("deployed", "mimicdet")):
        row = PAPER.row(key)
        assert row.needs == (source,)
        assert all(isinstance(step, Transform) for step in row.recipe)
        assert all(run.needs == (f"mimicdet.{source}.proxy.s{run.seed}",) for run in OURS if run.row == key)
        assert row.arguments["weights"] == source


def test_a_separated_student_starts_from_the_body_that_all_rows_start_from_and_its_teacher():
    starts = {run.row: run.needs for run in OURS if run.kind == "train" and run.seed == 0}
    assert starts["separated-r50"] == ("mimicdet.teacher-r50.proxy.s0", "mimicdet.body-r50.proxy.s0")
    assert starts["teacher-r101"] == starts["r101-800"] == ("mimicdet.body-r101.proxy.s0",)
    assert starts["body-r50"] == ("pretrain.R50.proxy.s0",)
    assert PAPER.row("separated-r101").arguments["taught_by"] == "teacher-r101"


def test_every_row_that_learns_starts_from_the_body_of_its_net_below_the_papers_tier():
    for row in PAPER.rows:
        learns = bool(row.recipe) and row.build is not None and not any(isinstance(step, Transform) for step in row.recipe)
        if row.key.startswith("body-"):
            assert not row.body
        elif learns:
            body = PAPER.row(row.body)
            assert (body.setting.backbone, "paper" in row.body_at) == (row.setting.backbone, False)
            assert row.effort.length == (2.5 if row.setting.schedule == 1 else 1.25), "all of 1x alike, and all of 2x and longer"


def test_nothing_that_a_gain_is_claimed_for_has_shaped_a_body():
    for key in ("body-r50", "body-r101"):
        arguments = PAPER.row(key).arguments
        assert (arguments["teacher"], arguments["mimic"], arguments["alignment"]) == ("", False, "conv")


def test_settings_are_those_that_are_printed():
    """Table 6: 400, 600, 800 of two depths at 2x; section 5.1: 1x, 800 px, ResNet-50 unless said; Table 7: 1.5 times 2x, 640 to 800."""
    t6 = next(table for table in PAPER.tables if table.id == "T6")
    assert [(PAPER.row(key).setting.min_px, PAPER.row(key).setting.backbone) for key in t6.rows] == [
        (side, net) for net in ("R50", "R101") for side in (400, 600, 800)
    ]
    assert {PAPER.row(key).setting.schedule for key in t6.rows} == {24 / 13}
    for table in PAPER.tables[:4]:
        assert {(PAPER.row(key).setting.min_px, PAPER.row(key).setting.backbone, PAPER.row(key).setting.schedule) for key in table.rows} == {
            (800, "R50", 1.0)
        }
    for key in ("r101-jitter", "x101"):
        assert PAPER.row(key).setting.schedule == pytest.approx(1.5 * 24 / 13)
        assert PAPER.row(key).arguments["jitter"] == (640, 800)


@pytest.mark.parametrize(("key", "epochs", "drops"), [("mimicdet", 13, (8, 11)), ("r50-800", 24, (16, 22)), ("r101-jitter", 36, (24, 33))])
def test_the_papers_schedules_stand_at_its_own_scale(key, epochs, drops, tmp_path):
    init = tmp_path / "w.safetensors"
    init.write_bytes(b"weights")
    (run,) = [run for run in plan([PAPER], Choice("paper", rows=(key,), seeds=1, init=init)) if run.kind == "train"]
    schedule = schedule_of(run, PAPER.row(key))
    assert schedule.images + schedule.decay_images == epochs * schedule.epoch_images
    assert schedule.drops == tuple(at / epochs for at in drops)
    assert (schedule.rate, schedule.batch, schedule.weight_decay) == (0.04, 32, 1e-4)


def test_no_printed_result_is_repeated_in_the_rows():
    source = (FOLDER / "mimicdet" / "paper.py").read_text()
    printed = json.loads((FOLDER / "mimicdet" / "published.json").read_text())
    cells = {cell for table in printed["tables"] for row in table["rows"] for cell in row["cells"] if cell.replace(".", "").isdigit()}
    assert [cell for cell in cells if "." in cell and cell in source] == []
    assert not [number for number in ("34ms", "17.5", "23 FPS", "46.1", "44.4") if number in source]


# ---- cells


def test_each_cell_has_an_outcome():
    check_table(PAPER, ENTRY.published)
    found = compare(PAPER, ENTRY.published, evidence())
    assert all(o.outcome and o.reason for o in found)
    assert {o.outcome for o in found} == {"not attempted", "quoted"}
    t7 = [o for o in found if o.table == "T7" and o.outcome != "quoted"]
    assert len(t7) == 2 * 7
    assert all("test-dev" in o.reason for o in t7 if o.kind == "accuracy")
    assert {o.key for o in t7 if o.kind == "latency"} == {"deployed-r101-800", "deployed-x101"}
    assert not [o for o in found if "no meter" in o.reason]


def test_the_t_heads_column_is_answered_by_the_rows_that_test_it():
    found = {(o.row, o.column): o.key for o in compare(PAPER, ENTRY.published, evidence()) if o.table == "T3"}
    assert found["Light head", "T-head AP"] == "light-t"
    assert found["Light head", "S-head AP"] == "light"
    assert found["Dual-path mimicking", "T-head AP"] == "mimicdet-t"
    assert printed_difference(evidence(), "mimicdet-t", "mimicdet", "ap") == pytest.approx(1.2)  # 40.2 - 39.0
    assert printed_difference(evidence(), "light-t", "mimicdet-t", "ap") == pytest.approx(-1.2)  # 39.0 - 40.2


def test_printed_differences_are_those_of_the_tables():
    pairs = {("with-t-head", "no-t-head"): 0.4, ("mimicdet", "with-t-head"): 2.6, ("deform", "conv"): 1.5, ("guided", "conv"): 5.5}
    pairs |= {("heavy", "mimicdet"): -1.9, ("same-pyramid", "mimicdet"): -0.6, ("separated-r50", "r50-800"): 0.4}
    for (row, reference), printed in pairs.items():
        assert printed_difference(evidence(), row, reference, "ap") == pytest.approx(printed)
    assert printed_difference(evidence(), "r101-jitter", "r101-800", "ap") is None  # test-dev against mini-val


# ---- latency: Table 6's, and Table 7's two rows, in one interleaved run against the first


def timed(row, ratio):
    """A latency record of a deployed row; `ratio`: its time to that of `deployed-r50-800`."""
    ends = {"": ratio, "_low": 0.98 * ratio, "_high": 1.02 * ratio} if ratio else {}
    values = {"whole_ms": 1000.0 * (ratio or 1)} | {f"whole_ratio{end}": value for end, value in ends.items()}
    about = {"against": ["mimicdet.deployed-r50-800.paper", "w"] if ratio else [], "rois_given": 0, "quiet": "ok", "machine": {"name": "desk"}}
    about |= {"device": "cpu", "precision": "float32"}
    return Record(f"mimicdet.{row}.paper.latency", "latency", "mimicdet", row, "paper", 0, "ok", "", "now", values, context=about)


def test_times_of_the_deployed_rows_reach_their_cells():
    """Printed: 34, 44, 63 ms and 38, 55, 80 ms; Table 7 repeats the last and has 132."""
    printed = {"r50-400": 34, "r50-600": 44, "r50-800": 63, "r101-400": 38, "r101-600": 55, "r101-800": 80, "x101": 132}
    records = [timed(f"deployed-{key}", ms / 63 if key != "r50-800" else None) for key, ms in printed.items()]
    found = [
        o for o in compare(PAPER, ENTRY.published, evidence(records)) if o.kind == "latency" and o.table in {"T6", "T7"} and o.outcome != "quoted"
    ]
    words = {(o.table, o.key): o.outcome for o in found}
    assert words.pop(("T6", "deployed-r50-800")) == "undecided"  # the reference
    assert len(words) == 5 + 2
    assert set(words.values()) == {"reproduced"}
    slow = [timed("deployed-r50-400", 1.2), timed("deployed-x101", 0.8)]
    words = {o.key: o.outcome for o in compare(PAPER, ENTRY.published, evidence(slow)) if o.kind == "latency"}
    assert (words["deployed-r50-400"], words["deployed-x101"]) == ("direction reversed", "direction reversed")


# ---- sentences


def test_frames_a_second_follow_from_the_table():
    found = sentences()
    assert (found["fast-r50"].outcome, found["fast-r101"].outcome) == ("reproduced", "reproduced")
    assert "22.7 a second" in found["fast-r50"].reason
    published = replace(
        ENTRY.published, claims=tuple(replace(claim, value=(24.0, 38.7)) if i == 6 else claim for i, claim in enumerate(ENTRY.published.claims))
    )
    wrong = {claim.key: claim for claim in decide(PAPER, published, Evidence(PAPER, published))}
    assert wrong["fast-r50"].outcome == "contradicted by its own table"


def test_what_cannot_be_attempted_says_why():
    found = sentences()
    assert all("test-dev" in found[key].reason and found[key].outcome == "not attempted" for key in ("best-on-test-dev", "both-on-test-dev"))


@pytest.mark.parametrize(
    ("small", "large", "word"),
    [
        ((0.2, 0.6), (2.0, 3.0), "reproduced"),
        ((-0.1, 0.6), (2.0, 3.0), "undecided"),
        ((0.2, 0.6), (0.5, 1.5), "direction holds"),
        ((0.2, 0.6), (-1.5, -0.5), "direction reversed"),
    ],
)
def test_a_sentence_of_two_differences_is_as_good_as_the_worse(small, large, word):
    records = settled("no-t-head", "with-t-head", "mimicdet")
    differences = [difference("with-t-head", "no-t-head", *small), difference("mimicdet", "with-t-head", *large)]
    assert sentences(records, differences)["mimicking-gains"].outcome == word
    assert sentences(records[:10], differences)["mimicking-gains"].outcome == "not attempted"


def test_dual_path_mimicking_is_judged_from_either_side():
    records = settled("mimicdet", "heavy")
    assert sentences(records, [difference("heavy", "mimicdet", -2.4, -1.5)])["dual-path-gains"].outcome == "reproduced"
    assert sentences(records, [difference("heavy", "mimicdet", -1.0, -0.5)])["dual-path-gains"].outcome == "direction holds"


# ---- cost


@pytest.fixture(scope="module")
def costs():
    """Counted by this code, on the meta device."""
    return {record.row: record for record in cost_records(PAPER)}


def test_every_row_was_counted(costs):
    assert [(record.row, record.reason) for record in costs.values() if record.status != "ok"] == []
    assert set(costs) == {row.key for row in PAPER.rows if row.build is not None}
    assert not [record.row for record in costs.values() if record.context["unknown"] or record.context["model_unknown"]]


def test_what_is_deployed_costs_less_than_what_is_trained(costs):
    """At 800 x 1333 the T-head takes 18.2 GMAC for 128 boxes and P2 43.8, apart from C2's own use; neither is deployed."""
    trained_row, plain = costs["r50-800"].values, costs["deployed-r50-800"].values
    assert trained_row["model_macs_g"] - plain["model_macs_g"] == pytest.approx(18.23 + 43.78, rel=1e-3)
    assert trained_row["macs_g"] == plain["macs_g"]
    assert plain["params_m"] == pytest.approx(0.591365 + 2.868249, rel=1e-6)
    assert costs["deployed-r50-400"].values["model_macs_g"] < costs["deployed-r50-600"].values["model_macs_g"] < plain["model_macs_g"]


def test_resnext_is_counted(costs):
    """83.455 M with its classifier (2.049 M), torchvision's count; the rest as with ResNet."""
    body = costs["deployed-x101"].values["model_params_m"] - (costs["deployed-r50-800"].values["model_params_m"] - 23.508032)
    assert body == pytest.approx(83.455272 - 2.049, rel=1e-6)


def test_a_row_of_several_tables_is_judged_by_the_row_that_each_names():
    """MimicDet stands in four tables: Table 1 has it beside the T-head without mimicking, Table 2 beside the convolution, and so on."""
    records = [
        trained(key, 50.0 + place) for place, key in enumerate(("with-t-head", "conv", "light", "light-t", "same-pyramid", "mimicdet", "mimicdet-t"))
    ]
    found = {(o.table, o.key): o.reason for o in compare(PAPER, ENTRY.published, evidence(records)) if o.column in {"AP", "S-head AP", "T-head AP"}}
    assert "printed +2.6 to with-t-head" in found["T1", "mimicdet"]
    assert "printed +5.3 to conv" in found["T2", "mimicdet"]  # 39.0 - 33.7
    assert "printed +1.5 to light" in found["T3", "mimicdet"]
    assert "printed +1.2 to light-t" in found["T3", "mimicdet-t"]
    assert "printed +0.6 to same-pyramid" in found["T4", "mimicdet"]
    assert not any("printed" in found[place] for place in (("T2", "conv"), ("T3", "light"), ("T3", "light-t"), ("T4", "same-pyramid")))
