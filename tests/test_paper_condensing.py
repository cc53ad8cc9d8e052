"""Condensing's rows: every printed setting has a row of its own, the counted cells are those printed, and a broken K or L is caught."""

import json
from dataclasses import replace
from types import MappingProxyType

import pytest

from bench.catalogue import FOLDER, catalogue
from bench.claims import decide
from bench.cost import cost_record, cost_records
from bench.evidence import Evidence
from bench.scales import SCALES
from bench.spec import Transform
from bench.tables import compare

ENTRY = catalogue()["condensing"]
PAPER = ENTRY.paper
COUNTED = 50  # 48 cost cells of the tables and two cost claims
TWO_CLAIMS = ("k1-l1-saves-96", "one-layer-saves-7")


@pytest.fixture(scope="module")
def costs():
    """Counted by this code, on the meta device."""
    return cost_records(PAPER)


def judged(records):
    return compare(PAPER, ENTRY.published, Evidence(PAPER, ENTRY.published, tuple(records)))


def cost_words(records, key):
    return {o.column: o.outcome for o in judged(records) if o.key == key and o.kind == "cost"}


def test_keys_are_unique_and_references_exist():
    keys = [row.key for row in PAPER.rows]
    assert len(set(keys)) == len(keys)
    assert all(row.reference in {"", *keys} and set(row.needs) <= set(keys) for row in PAPER.rows)
    assert all(not PAPER.row(row.reference).reference for row in PAPER.rows if row.reference and row.reference != "k16-l5")


def test_rows_that_differ_in_a_printed_setting_differ():
    """No two rows would be one run: what a row is built from differs, apart from its name."""
    said = [(row.setting, row.build, tuple(sorted(row.arguments.items())), row.recipe, row.needs, row.body, row.effort) for row in PAPER.rows]
    assert len(set(said)) == len(said)


def test_headlines_are_named_and_few():
    assert [row.key for row in PAPER.rows if row.headline] == ["fpn-r50", "k16-l5", "k1-l1"]
    assert [claim.key for claim in PAPER.claims if claim.headline] == ["k1-l1-drop", "half-keeps-accuracy"]
    assert sorted(claim.index for claim in PAPER.claims) == list(range(12))


def test_the_tables_rows_stand_on_the_printed_settings():
    by_table = {table.id: {PAPER.row(key).setting for key in table.rows} for table in PAPER.tables}
    (voc50,) = by_table["T1"] | by_table["T2"]
    (voc101,), (coco,) = by_table["T3"], by_table["T4"]
    assert (voc50.min_px, voc50.max_px, voc50.classes, voc50.backbone) == (600, 1000, 20, "R50")
    assert (voc101.min_px, voc101.max_px, voc101.classes, voc101.backbone) == (600, 1000, 20, "R101")
    assert (coco.min_px, coco.max_px, coco.classes, coco.backbone) == (800, 1333, 80, "R101")
    assert all(setting.backbone in scale.backbones for setting in (voc50, coco) for scale in SCALES.values())


def test_svd_is_a_transformation_of_the_baseline():
    row = PAPER.row("svd")
    assert row.needs == ("fpn-r50",)
    assert all(isinstance(step, Transform) for step in row.recipe)


def test_no_printed_result_is_repeated_in_the_rows():
    """Every AP, size and count above ten that is printed with a decimal stands in published.json alone; smaller ones may be settings."""
    source = (FOLDER / "condensing" / "paper.py").read_text()
    printed = json.loads((FOLDER / "condensing" / "published.json").read_text())
    cells = {cell for table in printed["tables"] for row in table["rows"] for cell in row["cells"][1:] if "." in cell and float(cell) > 10}
    assert [cell for cell in cells if cell in source] == []


def test_every_row_was_counted(costs):
    assert [(record.row, record.reason) for record in costs if record.status != "ok"] == []
    assert {record.row for record in costs} == {row.key for row in PAPER.rows}


def test_41_of_the_50_cost_numbers_are_reproduced_and_only_rfcn_is_not(costs):
    cells = [outcome for outcome in judged(costs) if outcome.kind == "cost"]
    claims = {claim.key: claim for claim in decide(PAPER, ENTRY.published, Evidence(PAPER, ENTRY.published, costs))}
    met = [o for o in cells if o.outcome == "reproduced"]
    assert len(cells) + len(TWO_CLAIMS) == COUNTED
    assert len(met) + sum(claims[key].outcome == "reproduced" for key in TWO_CLAIMS) >= 41
    missed = [o for o in cells if o.outcome != "reproduced"]
    assert {o.key for o in missed} <= {"rfcn", "ours-rfcn", "rfcn-coco", "ours-rfcn-coco"}
    assert all(o.outcome in {"irreproducible", "deviates"} and ";" in o.reason for o in missed)  # the distance; the proof


def test_reproduced_means_within_the_tolerance_of_this_codes_count(costs):
    """The rule once more, by plain arithmetic: half a digit when rounded, a whole one when cut, or one per cent of GMAC."""
    for outcome in judged(costs):
        if outcome.kind == "cost" and outcome.outcome == "reproduced":
            (record,) = [record for record in costs if record.row == outcome.key]
            measure = {"Params": "params_m", "Size": "size_mb", "FLOPs": "macs_g"}[outcome.column]
            assert outcome.measured == record.values[measure]
            digit = 1.0 if outcome.column == "Size" else 0.1
            off = record.values[measure] - outcome.published
            assert -digit / 2 - 1e-9 <= off < digit or (measure == "macs_g" and abs(off) <= 0.01 * outcome.published)


@pytest.mark.parametrize(("key", "broken"), [("ours-fpn", {"key_parts": 8}), ("ours-fpn", {"length": 4}), ("ours-faster", {"key_parts": 16})])
def test_a_broken_k_or_l_is_caught(key, broken):
    row = PAPER.row(key)
    right = cost_words([cost_record(PAPER, row)], key)
    wrong = cost_words([cost_record(PAPER, replace(row, arguments=MappingProxyType({**row.arguments, **broken})))], key)
    assert set(right.values()) == {"reproduced"}
    assert wrong["Params"] == wrong["Size"] == "deviates"


def test_the_second_layer_of_the_claim_is_the_baselines_own():
    """1024 x 1024 weights and 1024 biases: counted on the baseline as built."""
    from bench.cost import build_on_meta

    detector = build_on_meta(PAPER.row("fpn-r50"), SCALES["paper"])
    layers = [m for m in detector.modules() if getattr(m, "in_features", 0) == getattr(m, "out_features", 1) == 1024]
    assert [sum(p.numel() for p in layer.parameters()) for layer in layers] == [1024 * 1024 + 1024]
