"""The papers against themselves: what is found, by hand; and a changed cell makes each finding vanish."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.audit import Printed, asked, audit, checks_of, findings
from bench.catalogue import catalogue
from bench.claims import decide
from bench.cost import cost_record
from bench.evidence import Evidence
from bench.meters.counted import count
from bench.published import labels
from bench.spec import CostRule, Xception
from bench.types import UserError
from implementations.condensing.findings import HEADS
from implementations.layers.xception import XceptionClassifier
from implementations.light_head.findings import literal_complexity

HERE = Path(__file__).parents[1]
COMPRESSION, CONDENSING, LIGHT, POD = "compression", "condensing", "light_head", "pod"
DENSE = [f"{block}, 0%" for block in ("backbone", "ROI head", "both backbone and ROI head")]

# finding -> the cells (table, row, column, new text) that make it vanish; a whole number in place of a table: a sentence's numbers
CELLS = {
    (COMPRESSION, "copied-accuracies"): [("T1", "ROI head, 30%", "AP", "87.15")],
    (COMPRESSION, "30-without-a-loss"): [("T1", "both backbone and ROI head, 30%", "AP", "88.00")],
    (COMPRESSION, "40-with-few-points"): [("T1", "both backbone and ROI head, 40%", "AP", "85.00")],
    (COMPRESSION, "low-sparsity-beats-dense"): [("T1", f"both backbone and ROI head, {percent}%", "AP", "88.00") for percent in (10, 20, 30)],
    (COMPRESSION, "arithmetic-sizes"): [("T1", "backbone, 50%", "size", "120.0")],
    (COMPRESSION, "no-8-bits"): [("T1", DENSE[1], "size", "41.4")],
    (COMPRESSION, "weight-sharing"): [("T1", DENSE[1], "pruned block", "weights shared")],
    (COMPRESSION, "missing-column"): [("T1", "ROI head, 50%", "pruned percentage", "60%")],
    (COMPRESSION, "trainable-parameters"): [(1, 41.2)],
    (CONDENSING, "order-of-eq-9"): [
        ("T3", row, "FLOPs", text) for row, text in (("Ours & Faster RCNN", "49.8"), ("Ours & FPN", "10.0"), ("Ours & Cascade RCNN", "33.7"))
    ],
    (CONDENSING, "classes-cost-more"): [("T4", "Ours & FPN", "FLOPs", "10.7")],
    (CONDENSING, "larger-head-costs-less"): [("T4", "Faster RCNN [25]", "FLOPs", "734.6")],
    (CONDENSING, "size-of-parameters"): [("T3", "R-FCN [46]", "Size", "14 MB"), ("T3", "Ours & R-FCN", "Params", "1.3")],
    (CONDENSING, "faster-over-half"): [("T4", "Ours & Faster RCNN", "Params", "7.8")],
    (CONDENSING, "first-over-half"): [("T3", "Ours & Faster RCNN", "Params", "7.5"), ("T4", "Ours & Faster RCNN", "Params", "7.8")],
    (CONDENSING, "without-sacrificing"): [("T4", "Ours & R-FCN", "mAP@0.5", "48.9"), ("T4", "Ours & R-FCN", "mAP(small)", "8.9")],
    (CONDENSING, "no-rate"): [("T3", "Cascade RCNN [5]", "FLOPs", "83.6")],
    (LIGHT, "same-settings"): [(8, (35.6, 35.2))],
    (LIGHT, "mini-validation-as-test"): [("T5", "R-FCN [17], 600/1000", "mAP@[0.5:0.95]", "29.9")],
    (LIGHT, "gain-of-no-table"): [("T4", "baseline Faster R-CNN", "mAP@[0.5:0.95]", "34.9")],
    (LIGHT, "literal-complexity"): [(13, 180.0)],
    (LIGHT, "told-apart-by-nothing"): [("T5", "Light head R-CNN, 800/1200 (line 200)", "feature pyramid", "yes")],
    (POD, "two-gains"): [(3, 2.1)],
    (POD, "baseline-of-no-table"): [("T1", "FRCNN+++ [30], ResNet-101", "AP", "40.0")],
    (POD, "one-row-twice"): [("T4", "FRCNN, 1x, R50-C4", "AP", "35.4")],
    (POD, "wide-scales"): [
        ("T3", f"FRCNN, {data}, R50-C4, {direction}", "R46", "9.00 ± 0.20") for data in ("train", "minival") for direction in "hw"
    ],
}

# MimicDet agrees with itself; each of its checks finds something where a cell is changed.
AGREED = {
    "mimicking-gains": [("T1", "w T-head & w mimic", "AP", "38.0")],
    "alignment-gains": [("T2", "(b) 5\u00d75 deform conv", "AP", "35.0")],
    "dual-path-gain": [("T3", "Heavy head", "S-head AP", "38.1")],
    "staggered-gain": [(4, 0.9)],
    "half-the-training-time": [("T5", "Res-50, separated", "training time", "24h")],
    "frames-a-second": [("T6", "600, ResNet-50", "Inference time", "54ms")],
    "one-detector-twice": [("T5", "Res-101, shared", "AP", "41.9")],
}


def changed(published, changes):
    for change in changes:
        published = _sentence(published, *change) if isinstance(change[0], int) else _cell(published, *change)
    return published


def _sentence(published, index, value):
    claims = tuple(replace(claim, value=value) if place == index else claim for place, claim in enumerate(published.claims))
    return replace(published, claims=claims)


def _cell(published, key, label, column, text):
    """One cell with its text and its value replaced."""
    table = published.table(key)
    place, across = labels(table).index(label), [each.name for each in table.columns].index(column)
    row, kind = table.rows[place], table.columns[across].kind
    numbers = tuple(float(part) for part in text.rstrip(" MBhms%").replace("±", " ").split()) if kind != "setting" else ()
    value = numbers if len(numbers) > 1 else numbers[0] if numbers else row.values[across]
    cells, values = ([*old[:across], new, *old[across + 1 :]] for old, new in ((row.cells, text), (row.values, value)))
    new = replace(row, cells=tuple(cells), values=tuple(values))
    rows = (*table.rows[:place], new, *table.rows[place + 1 :])
    return replace(published, tables=tuple(replace(each, rows=rows) if each is table else each for each in published.tables))


def found(paper, changes=(), only=""):
    checks = [check for check in checks_of(paper) if only in {"", check.key}]
    return {each.key: each for each in audit(changed(catalogue()[paper].published, changes), checks)}


# ---- every finding


def test_every_finding_has_a_cell_that_ends_it():
    assert {(each.paper, each.key) for each in findings()} == set(CELLS)
    assert len(CELLS) >= 16


@pytest.mark.parametrize(("paper", "key"), CELLS, ids=lambda text: text)
def test_a_changed_cell_ends_the_finding(paper, key):
    assert set(found(paper, only=key)) == {key}
    assert found(paper, CELLS[paper, key], only=key) == {}


def test_a_changed_cell_leaves_the_others_as_they_are():
    before, after = found(COMPRESSION), found(COMPRESSION, CELLS[COMPRESSION, "40-with-few-points"])
    assert before.keys() - after.keys() == {"40-with-few-points"}
    assert after["30-without-a-loss"] == before["30-without-a-loss"]


@pytest.mark.parametrize(("paper", "key"), CELLS, ids=lambda text: text)
def test_a_finding_shows_its_numbers_and_its_place(paper, key):
    finding = found(paper)[key]
    assert any(sign.isdigit() for sign in finding.arithmetic)
    assert "line" in finding.source


@pytest.mark.parametrize("key", AGREED)
def test_what_agrees_is_found_when_a_cell_is_changed(key):
    assert found("mimicdet") == {}
    assert key in found("mimicdet", AGREED[key])


def test_all_checks_of_mimicdet_are_tried():
    assert {check.key for check in checks_of("mimicdet")} == set(AGREED)


# ---- by hand


def test_numbers_worked_out_by_hand():
    said = {(each.paper, each.key): each.arithmetic for each in findings()}
    # 1 - 133.44/165.6 = 19.42 %, 88.15 - 87.92 = 0.23; 83.60 - 87.92 = -4.32; 1 - 116.6/165.6 = 29.6 %
    assert all(text in said[COMPRESSION, "30-without-a-loss"] for text in ("19.4 %", "+0.23", "-4.32", "29.6 %"))
    assert all(text in said[COMPRESSION, "40-with-few-points"] for text in ("14.28", "0.97", "25.9 %"))
    assert "-0.20 at 10 %" in said[COMPRESSION, "low-sparsity-beats-dense"]
    assert "41.4 MB" in said[COMPRESSION, "no-8-bits"]
    assert "0.307" in said[CONDENSING, "classes-cost-more"]  # 60 classes x 5 outputs x 1024 x 1000
    assert "+0.61" in said[CONDENSING, "larger-head-costs-less"]  # 300 x 2048 x 1000
    assert "13.35 MiB" in said[CONDENSING, "size-of-parameters"]  # 3.5e6 x 4 / 2^20
    assert "47.5 %" in said[CONDENSING, "faster-over-half"]
    assert "2 of 8" in said[CONDENSING, "first-over-half"]
    assert "179.6" in said[LIGHT, "literal-complexity"]
    assert "40.0 or 39.6" in said[POD, "two-gains"]
    assert all(text in said[POD, "wide-scales"] for text in ("3.30 %", "3.43 %", "3.55 %", "3.33 %"))


def test_the_fixed_parameters_are_those_of_resnet_50():
    """detectron2's FREEZE_AT = 2: stem and res2, without norms; torchvision's net has the same convolutions."""
    from torchvision.models import resnet50

    from implementations.compression.findings import FROZEN

    with torch.device("meta"):
        net = resnet50()
    convs = [module for part in (net.conv1, net.layer1) for module in part.modules() if isinstance(module, torch.nn.Conv2d)]
    assert sum(conv.weight.numel() for conv in convs) / 1e6 == FROZEN


@pytest.mark.parametrize(
    ("row", "ours"), [("ours-fpn", "Ours & FPN"), ("ours-faster", "Ours & Faster RCNN"), ("ours-cascade", "Ours & Cascade RCNN")]
)
def test_eq_9s_arithmetic_is_what_our_heads_are_counted_at(row, ours):
    """The rule of the printed column counts biases and pooling too, at most 1 % more."""
    paper = catalogue()[CONDENSING].paper
    values = cost_record(paper, paper.row(row)).values
    for measure, pooled_first in (("macs_g", False), ("macs_g_eq9", True)):
        assert values[measure] == pytest.approx(HEADS[ours].gmac(20, pooled_first=pooled_first), rel=0.01)


def test_the_literal_sentence_is_our_reading_of_it():
    """Reading F of the block, counted operator by operator on the meta device."""
    with torch.device("meta"):
        net = XceptionClassifier(Xception(reading="F"), 1000)
    counted = count(net.parts(224, 224), CostRule(scope="model")).total.macs / 1e6
    assert literal_complexity(Printed(catalogue()[LIGHT].published)) == pytest.approx(counted, abs=0.01)


# ---- beside the claims


def test_every_sentence_that_its_own_table_contradicts_is_a_finding():
    """What claims decide from the cells alone and what the audit finds are the same lines of the papers."""
    lines = {(each.paper, text) for each in findings() for text in each.source.replace(";", ",").replace(" and ", ", ").split(", ")}
    for key, entry in catalogue().items():
        outcomes = decide(entry.paper, entry.published, Evidence(entry.paper, entry.published))
        own = [claim for claim in outcomes if claim.outcome == "contradicted by its own table"]
        for claim in own:
            assert claim.index < 0 or {(key, f"line {claim.line}"), (key, f"{claim.line}")} & lines, claim


# ---- the command


def test_an_unknown_paper_is_answered_with_those_there_are():
    with pytest.raises(UserError, match="condensing"):
        findings("condensin")


def test_a_cell_that_is_not_there_is_named():
    with pytest.raises(KeyError, match="no cell 'B3'"):
        Printed(catalogue()[LIGHT].published).number("T1", "B3", "mAP")


def test_the_command_prints_every_finding_as_text_and_json_and_no_torch():
    code = "import sys; from bench.cli import app; app(sys.argv[1:], standalone_mode=False); print({'torch'} & set(sys.modules))"
    text, data = (
        subprocess.run([sys.executable, "-c", code, "audit", *more], cwd=HERE, capture_output=True, text=True, check=True).stdout
        for more in ([], ["--json"])
    )
    assert all(each.key in text for each in findings())
    assert "mimicdet: 0 findings of 7 checks" in text
    assert text.rstrip().endswith("set()")
    assert [each["key"] for each in json.loads(data.rpartition("]")[0] + "]")] == [each.key for each in findings()]
    assert sum(asked().values()) == len(CELLS) + len(AGREED)
