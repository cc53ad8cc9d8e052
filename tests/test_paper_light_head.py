"""Light-Head R-CNN's rows: every printed setting has its own, every cell and sentence an outcome, and the counted numbers are those printed."""

import json
from collections import Counter
from dataclasses import replace
from types import MappingProxyType

import pytest

from bench.catalogue import FOLDER, catalogue
from bench.claims import decide
from bench.cost import cost_record, cost_records
from bench.evidence import Difference, Evidence
from bench.plan import Choice, plan, schedule_of
from bench.records import Record
from bench.scales import SCALES
from bench.spec import Train, Transform, Xception
from bench.tables import check_table, compare, printed_difference

ENTRY = catalogue()["light_head"]
PAPER = ENTRY.paper
RUNS = plan([PAPER], Choice("proxy"))
COSTS = ("channels", "roi-pooling-features", "small-net-145m")  # the four published cost numbers: 3969 and 490, 49 times, 145M


@pytest.fixture(scope="module")
def costs():
    """Counted by this code, on the meta device."""
    return cost_records(PAPER)


def evidence(records=(), differences=()):
    return Evidence(PAPER, ENTRY.published, tuple(records), tuple(differences))


def sentences(records=(), differences=()):
    return {claim.key: claim for claim in decide(PAPER, ENTRY.published, evidence(records, differences))}


def trained(row, seed=0, value=30.0, kind="train", tier="proxy"):
    end = ".plateau" if kind == "plateau" else ""
    context = {"data": "scenes-v1", "machine": {"name": "desk"}}
    return Record(f"light_head.{row}.{tier}.s{seed}{end}", kind, "light_head", row, tier, seed, "ok", "", "now", {"ap": value}, context=context)


# ---- rows


def test_keys_are_unique_and_references_exist():
    keys = [row.key for row in PAPER.rows]
    assert len(set(keys)) == len(keys)
    assert all({row.reference, row.body, *row.needs} <= {"", *keys} for row in PAPER.rows)
    assert all(row.title for row in PAPER.rows)
    assert {last_reference(row) for row in PAPER.rows if row.reference} == {"b1"}


def last_reference(row):
    return last_reference(PAPER.row(row.reference)) if row.reference else row.key


def test_rows_that_differ_in_a_printed_setting_share_no_digest():
    said = [(row.setting, row.build, str(sorted(row.arguments.items())), row.recipe, row.needs, row.body) for row in PAPER.rows if row.build]
    assert len(set(said)) == len(said)
    assert len({run.digest for run in RUNS}) == len(RUNS)
    assert PAPER.twins == ()


def test_headlines_are_named_and_few():
    assert {row.key for row in PAPER.rows if row.headline} == {"b2", "large-kernel", "light-l", "align", "nms-05"}
    named = [claim.key for claim in PAPER.claims if claim.headline]
    assert named == ["large-kernel-gains", "alignment-gains", "nms-gains", "light-head-beats-r-fcn"]
    assert sorted(claim.index for claim in PAPER.claims) == [-1, -1, -1, *range(15)]


def test_headline_rows_have_five_seeds_and_a_proof_where_they_learn():
    seeds = Counter(run.row for run in RUNS if run.kind != "plateau" and run.paper == "light_head")
    assert {key for key, count in seeds.items() if count == 5} == {"b2", "large-kernel", "light-l", "align", "nms-05"}
    assert set(seeds.values()) == {1, 5}
    assert {run.row for run in RUNS if run.kind == "plateau"} == {"b2", "large-kernel", "light-l", "align"}


def test_every_row_that_is_not_quoted_is_trained_or_counted():
    runs = {run.row for run in RUNS if run.paper == "light_head"}
    for row in PAPER.rows:
        assert (row.key in runs) == (row.build is not None and bool(row.recipe))
        assert bool(row.quoted) == (row.build is None)


def test_retested_rows_start_from_the_same_seed_of_their_source_and_never_learn():
    for key, source in (("nms-05", "align"), ("light-s-700", "light-s")):
        row = PAPER.row(key)
        assert (row.needs, row.body) == ((source,), "")
        assert all(isinstance(step, Transform) for step in row.recipe)
        assert all(run.needs == (f"light_head.{source}.proxy.s{run.seed}",) for run in RUNS if run.row == key)
        assert {**row.arguments, "nms": 0.3} == {"nms": 0.3, **PAPER.row(source).arguments}


def test_rows_of_one_body_share_its_net_and_its_proposals():
    """Below the paper's tier they start from one trained R-FCN; at the paper's from ImageNet, as it says."""
    for row in PAPER.rows:
        if row.body:
            body = PAPER.row(row.body)
            pixels = [(each.setting.min_px, each.setting.max_px, each.setting.backbone) for each in (row, body)]
            assert pixels[0] == pixels[1]
            assert row.arguments.get("baseline", "B2") == body.arguments.get("baseline", "B2")
            assert "paper" not in row.body_at
    starts = {run.row: run.needs for run in RUNS if run.paper == "light_head" and run.seed == 0 and run.kind == "train"}
    assert starts["light-l"] == ("light_head.body-b2.proxy.s0",)
    assert starts["light-s"] == ("light_head.body-s.proxy.s0",)
    assert starts["body-s"] == ("pretrain.X145.proxy.s0",)
    assert starts["faster-c5"] == starts["body-b2"] == ("pretrain.R101.proxy.s0",)


def test_settings_are_those_that_are_printed():
    sizes = {
        key: (PAPER.row(key).setting.min_px, PAPER.row(key).setting.max_px) for key in ("b1", "thin-b1", "b2", "light-l", "light-s", "light-s-700")
    }
    assert sizes == {
        "b1": (600, 1000), "thin-b1": (600, 1000), "b2": (800, 1200), "light-l": (800, 1200), "light-s": (800, 1200), "light-s-700": (700, 1100),
    }  # fmt: skip
    assert {row.setting.classes for row in PAPER.rows if row.setting.data == "coco115k"} == {80}
    small = {row.key for row in PAPER.rows if isinstance(SCALES["paper"].backbones[row.setting.backbone], Xception)}
    assert small == {"body-s", "light-s", "light-s-700", "xception"}


def test_the_papers_schedule_stands_at_its_own_scale_alone(tmp_path):
    init = tmp_path / "w.safetensors"
    init.write_bytes(b"weights")
    (run,) = plan([PAPER], Choice("paper", rows=("light-l",), seeds=1, init=init))
    schedule = schedule_of(run, PAPER.row("light-l"))
    assert schedule.images + schedule.decay_images == 2_000_000
    assert schedule.drops == (0.75,)
    assert (schedule.rate, schedule.batch, schedule.weight_decay) == (0.01, 16, 1e-4)
    proxy = next(run for run in RUNS if run.row == "light-l")
    assert schedule_of(proxy, PAPER.row("light-l")) == replace(SCALES["proxy"].schedule, images=16_000, decay_images=4_000)


def test_no_printed_result_is_repeated_in_the_rows():
    """Every AP and speed above ten that is printed with a decimal stands in published.json alone; smaller ones may be settings."""
    source = (FOLDER / "light_head" / "paper.py").read_text()
    printed = json.loads((FOLDER / "light_head" / "published.json").read_text())
    cells = {cell for table in printed["tables"] for row in table["rows"] for cell in row["cells"] if cell.replace(".", "").isdigit()}
    assert [cell for cell in cells if "." in cell and float(cell) > 10 and cell in source] == []
    assert not [number for number in ("3969", "490", "145M", "34.1", "35.5", "35.1") if number in source]


# ---- cells


def test_each_cell_has_an_outcome():
    check_table(PAPER, ENTRY.published)
    found = compare(PAPER, ENTRY.published, evidence())
    assert all(o.outcome and o.reason for o in found)
    assert Counter(o.outcome for o in found) == {"not attempted": 62, "quoted": 39}
    by_table = {table.id: {o.outcome for o in found if o.table == table.id} for table in ENTRY.published.tables}
    assert by_table["T5"] == by_table["T8"] == {"quoted", "not attempted"}
    assert all("test-dev" in o.reason for o in found if o.table == "T5" and o.outcome != "quoted")
    assert {o.key for o in found if o.kind == "latency" and o.outcome != "quoted"} == {"b1", "light-s", "light-s-700"}


def test_cells_of_test_dev_stay_so_when_rows_are_trained():
    found = compare(PAPER, ENTRY.published, evidence([trained(row) for row in ("b1", "nms-05", "light-l", "align", "ms-train")]))
    assert {o.outcome for o in found if o.table == "T5" and o.key in {"b1", "nms-05"}} == {"not attempted"}
    assert {o.outcome for o in found if o.table == "T6" and o.key == "align"} != {"not attempted"}


def test_printed_differences_are_of_one_set_of_images():
    """Table 6 prints 39.6 - 39.0 on mini-validation; Table 5's 39.5 of the same row is test-dev's."""
    differences = {("b2", "b1"): 3.1, ("large-kernel", "b2"): 0.7, ("light-l", "b2"): 2.5, ("align", "light-l"): 1.3, ("nms-05", "align"): 0.6}
    for (row, reference), printed in differences.items():
        assert printed_difference(evidence(), row, reference, "ap") == pytest.approx(printed)
    assert printed_difference(evidence(), "ms-train", "nms-05", "ap") == pytest.approx(1.0)
    assert printed_difference(evidence(), "thin-roi", "thin-b2", "ap") is None  # in no table


# ---- sentences


def test_every_row_was_counted(costs):
    assert [(record.row, record.reason) for record in costs if record.status != "ok"] == []
    assert {record.row for record in costs} == {row.key for row in PAPER.rows if row.build is not None}
    assert not [record.row for record in costs if record.context["unknown"] or record.context["model_unknown"]]


def test_the_published_cost_numbers(costs):
    found = sentences(costs)
    assert {key: found[key].outcome for key in COSTS} == dict.fromkeys(COSTS, "reproduced")
    assert "3969 and 490" in found["channels"].reason
    assert found["roi-pooling-features"].measured == pytest.approx(49)
    assert found["small-net-145m"].measured == pytest.approx(143.08, abs=0.005)
    assert sentences()["small-net-145m"].outcome == sentences()["roi-pooling-features"].outcome == "not attempted"


def test_a_net_that_costs_more_is_caught(monkeypatch, costs):
    wrong = [record for record in costs if record.row != "xception"]
    backbones = SCALES["paper"].backbones | {"X145": Xception(reading="F")}
    monkeypatch.setitem(SCALES, "paper", replace(SCALES["paper"], backbones=backbones))
    wrong.append(cost_record(PAPER, PAPER.row("xception")))
    assert sentences(wrong)["small-net-145m"].outcome == "deviates"


def test_a_thicker_map_is_caught(costs):
    row = PAPER.row("thin-b2")
    thicker = cost_record(PAPER, replace(row, arguments=MappingProxyType({**row.arguments, "alpha": 11})))
    wrong = [record for record in costs if record.row != "thin-b2"] + [thicker]
    assert sentences(wrong)["roi-pooling-features"].outcome == "deviates"


def test_a_sentence_that_its_table_contradicts():
    found = sentences()["same-settings"]
    assert found.outcome == "contradicted by its own table"
    assert "35.6 and 35.2, not 35.5 and 35.1" in found.reason


def test_what_cannot_be_attempted_says_why():
    found = sentences()
    assert all(found[key].outcome == "not attempted" for key in ("fast-and-accurate", "beats-all", "small-net-top-1"))
    assert "test-dev" in found["beats-all"].reason
    assert "ImageNet" in found["small-net-top-1"].reason


def test_a_value_of_its_own_needs_the_papers_scale():
    assert sentences()["light-head-ap"].outcome == "not attempted"
    proxy = [trained("light-l"), trained("light-l", kind="plateau", value=30.1)]
    assert (sentences(proxy)["light-head-ap"].outcome, sentences(proxy)["light-head-ap"].measured) == ("undecided", 30.0)
    for value, word in ((37.7, "reproduced"), (35.0, "deviates")):
        full = [trained("light-l", value=value, tier="paper"), trained("light-l", kind="plateau", value=value, tier="paper")]
        assert sentences(full)["light-head-ap"].outcome == word


@pytest.mark.parametrize(("interval", "word"), [((0.2, 0.9), "reproduced"), ((-0.4, 0.9), "undecided"), ((-0.9, -0.2), "direction reversed")])
def test_five_seeds_at_a_plateau_decide_what_nms_gains_on_crowded_scenes(interval, word):
    """The retested row is at a plateau where its source is."""
    records = [crowded(trained(row, seed)) for row in ("align", "nms-05") for seed in range(5)]
    records = [replace(record, kind="transform") if record.row == "nms-05" else record for record in records]
    proof = crowded(trained("align", kind="plateau", value=30.1))
    found = Difference("light_head", "nms-05", "align", "ap", "proxy", sum(interval) / 2, interval, 5, 0.2, "scenes-v1-crowded")
    assert sentences([*records, proof], [found])["nms-gains"].outcome == word
    assert sentences(records, [found])["nms-gains"].outcome == "undertrained"
    plain = replace(found, data="scenes-v1", value=0.01, interval=(-0.1, 0.12))
    said = sentences(
        [*records, proof],
        [
            found,
            plain,
        ],
    )["nms-gains"]
    assert (said.outcome, said.interval) == (word, interval), "the plain scenes do not decide"


def test_runs_on_crowded_scenes_judge_no_cell():
    records = [crowded(trained(row, seed)) for row in ("align", "light-l") for seed in range(5)]
    assert sentences(records)["alignment-gains"].outcome == "not attempted"


def crowded(record):
    return replace(record, context=dict(record.context) | {"data": "scenes-v1-crowded"})


def test_rows_that_learn_do_so_as_the_paper_does():
    assert all(row.schedule is not None for row in PAPER.rows if row.build is not None and any(isinstance(step, Train) for step in row.recipe))
