"""Compressed Object Detection's rows: 27 of 27 sizes from our own count, every sentence decided, and a changed cell changes the finding."""

import json
from dataclasses import replace

import pytest

from bench.catalogue import FOLDER, catalogue
from bench.claims import decide
from bench.cost import build_on_meta, cost_record
from bench.evidence import Evidence
from bench.plan import Choice, plan
from bench.scales import SCALES
from bench.spec import Train
from bench.tables import check_table, compare
from bench.verdicts import digits

ENTRY = catalogue()["compression"]
PAPER = ENTRY.paper
CELLS = (*dict.fromkeys(PAPER.tables[0].rows),)


@pytest.fixture(scope="module")
def costs():
    """Of the table's rows and of the backbone alone, counted by this code on the meta device."""
    return tuple(cost_record(PAPER, PAPER.row(key)) for key in (*CELLS, "backbone"))


def sentences(records=(), published=ENTRY.published):
    return {claim.key: claim for claim in decide(PAPER, published, Evidence(PAPER, published, tuple(records)))}


def sizes(records):
    return [outcome for outcome in compare(PAPER, ENTRY.published, Evidence(PAPER, ENTRY.published, records)) if outcome.kind == "cost"]


def test_27_of_27_sizes_are_reproduced(costs):
    found = sizes(costs)
    assert [outcome.outcome for outcome in found] == ["reproduced"] * 27
    assert sum("printed digits" in outcome.reason for outcome in found) >= 20  # the others are within 0.02 %: the paper rounded its counts
    assert max(abs(outcome.difference) for outcome in found) < 0.07  # the row of both is cut off after one digit


def test_the_papers_own_arithmetic_from_our_counts_gives_every_digit(costs):
    """4 x (all - p x block), with the blocks' parameters in millions rounded as the paper rounds them, cell for cell."""
    by_row = {record.row: record.values["params_m"] for record in costs}
    whole = by_row["dense"]
    blocks = {key: round((whole - by_row[f"{key}-90"]) / 0.9, 1) for key in ("backbone", "head", "both")}
    rows = ENTRY.published.table("T1").rows
    for place, row in enumerate(rows):
        block = ("backbone", "head", "both")[place // 9]
        size = 4 * (round(whole, 1) - row.values[1] / 100 * blocks[block])
        assert digits(row.cells[3], round(size, 6))[0] == "reproduced"


def test_a_row_of_another_sparsity_or_block_is_caught(costs):
    swapped = {"backbone-30": "backbone-40", "head-30": "backbone-30"}
    for key, other in swapped.items():
        (record,) = [each for each in costs if each.row == other]
        broken = (*(each for each in costs if each.row != key), replace(record, row=key))
        assert {o.outcome for o in sizes(broken) if o.key == key} == {"deviates"}


def test_the_table_answers_every_printed_row():
    check_table(PAPER, ENTRY.published)
    for place, key in enumerate(PAPER.tables[0].rows):
        printed = ENTRY.published.table("T1").rows[place]
        row = PAPER.row(key)
        assert row.arguments.get("sparsity", 0.0) == printed.values[1] / 100
        assert key == "dense" or row.arguments["block"] == ("backbone", "head", "both")[place // 9]


def test_accuracies_are_private_and_say_so():
    found = [o for o in compare(PAPER, ENTRY.published, Evidence(PAPER, ENTRY.published)) if o.kind == "accuracy"]
    assert {o.outcome for o in found} == {"not attempted"}
    assert all("private" in o.reason for o in found)
    assert len(found) == 27


def test_keys_and_references():
    keys = [row.key for row in PAPER.rows]
    assert len(set(keys)) == len(keys)
    assert all({row.reference, *row.needs} <= {"", *keys} for row in PAPER.rows)
    said = [(row.setting, row.build, str(sorted(row.arguments.items())), row.recipe, row.needs, row.body) for row in PAPER.rows]
    assert len(set(said)) == len(said)


def test_headline_claims_are_four_at_most_and_every_sentence_has_one():
    assert len([claim for claim in PAPER.claims if claim.headline]) <= 4
    assert sorted(claim.index for claim in PAPER.claims if claim.index >= 0) == list(range(5))


def test_no_printed_result_is_repeated():
    source = (FOLDER / "compression" / "paper.py").read_text()
    printed = json.loads((FOLDER / "compression" / "published.json").read_text())
    cells = {cell for table in printed["tables"] for row in table["rows"] for cell in row["cells"][2:]}
    assert [cell for cell in cells if cell in source and float(cell) > 1] == []


# ---- the paper against itself


def changed(place, column, value):
    """The published numbers with one cell of Table 1 replaced."""
    table = ENTRY.published.table("T1")
    row = table.rows[place]
    values = tuple(value if index == column else old for index, old in enumerate(row.values))
    rows = tuple(replace(row, values=values) if index == place else old for index, old in enumerate(table.rows))
    return replace(ENTRY.published, tables=(replace(table, rows=rows),))


def test_what_its_own_table_contradicts():
    found = sentences()
    for key in ("30-without-a-loss", "40-with-few-points", "copied-accuracies", "reasonable-at-high-sparsity"):
        assert found[key].outcome == "contradicted by its own table"
    assert "19.4 %" in found["30-without-a-loss"].reason
    assert "-4.32" in found["30-without-a-loss"].reason
    assert "14.28" in found["40-with-few-points"].reason
    assert "at 90 % pruned 0.19 % (the backbone)" in found["reasonable-at-high-sparsity"].reason
    assert found["weight-sharing"].outcome == "irreproducible"


@pytest.mark.parametrize(
    ("key", "place", "value"),
    [("30-without-a-loss", 21, 88.0), ("40-with-few-points", 22, 85.0), ("copied-accuracies", 12, 80.0), ("reasonable-at-high-sparsity", 8, 50.0)],
)
def test_the_finding_vanishes_when_the_cell_is_changed(key, place, value):
    assert sentences(published=changed(place, 2, value))[key].outcome == "reproduced"


def test_weight_sharing_is_sought_among_the_tables_rows():
    table = ENTRY.published.table("T1")
    first = replace(table.rows[0], cells=("shared weights", *table.rows[0].cells[1:]))
    found = sentences(published=replace(ENTRY.published, tables=(replace(table, rows=(first, *table.rows[1:])),)))
    assert found["weight-sharing"].outcome == "not attempted"
    assert "shared weights" in found["weight-sharing"].reason


def test_the_counted_sentences(costs):
    found = sentences(costs)
    assert found["total-parameters"].outcome == "reproduced"
    assert found["backbones-share"].outcome == "reproduced"
    assert found["backbones-share"].measured == pytest.approx(100 * 26.799 / 41.397, abs=0.1)


def test_the_blocks_are_those_of_detectron2():
    """ResNet-50 without norms and the pyramid, by arithmetic: 1x1, 3x3, 1x1 in 3, 4, 6, 3 blocks; lateral and output layers with bias."""
    detector = build_on_meta(PAPER.row("dense"), SCALES["paper"])
    inner = [(64 << stage, blocks) for stage, blocks in enumerate((3, 4, 6, 3))]
    body, channels = 3 * 64 * 49, 64
    for width, blocks in inner:
        body += channels * 4 * width
        for _ in range(blocks):
            body += channels * width + 9 * width * width + 4 * width * width
            channels = 4 * width
    pyramid = sum(4 * width * 256 + 256 + 9 * 256 * 256 + 256 for width, _ in inner)
    head = (256 * 49 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * (21 + 84)
    proposals = 9 * 256 * 256 + 256 + (256 + 1) * (3 + 12)
    counted = [sum(p.numel() for p in part.parameters()) for part in (detector.backbone, detector.neck, detector.regions, detector.rpn)]
    assert counted == [body, pyramid, head, proposals]


# ---- runs


def test_a_tuned_row_starts_from_the_dense_row_and_from_no_pretrained_backbone():
    runs = {run.id: run for run in plan([PAPER], Choice("smoke", rows=("both-30-tuned", "both-30", "int8"), seeds=1))}
    assert runs["compression.both-30-tuned.smoke.s0"].needs == ("compression.dense.smoke.s0",)
    assert runs["compression.both-30.smoke.s0"].kind == "transform"
    assert runs["compression.dense.smoke.s0"].needs == ("compression.body.smoke.s0",)
    assert runs["compression.body.smoke.s0"].needs == ("pretrain.R50.smoke.s0",)
    tuned = [row for row in PAPER.rows if row.needs and any(isinstance(step, Train) for step in row.recipe)]
    assert all(row.needs == (row.reference,) and row.reference.endswith("dense") and row.arguments["tuned"] for row in tuned)
