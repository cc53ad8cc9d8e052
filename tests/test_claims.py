"""Claims: one outcome each, decided by this code's own counts and differences, or by the paper's own cells. Records are made by hand."""

from dataclasses import replace

import pytest

from bench.catalogue import catalogue
from bench.claims import Case, decide
from bench.evidence import Difference, Evidence
from bench.records import Record
from bench.spec import Claim, Verdict
from bench.verdicts import WORDS

ENTRY = catalogue()["condensing"]
PARAMS = {"fpn-r50": 14.0, "k1-l1": 0.5, "faster-c4-coco": 15.79, "ours-faster-coco": 8.26}  # millions
MACS = {"faster-c4-coco": 734.0, "ours-faster-coco": 60.6}


def costs(**params):
    rows = PARAMS | params
    return [
        Record(f"condensing.{row}.cost", "cost", "condensing", row, "", 0, "ok", "", "now", {"params_m": value, "macs_g": MACS.get(row, 1.0)})
        for row, value in rows.items()
    ]


def runs(*rows, seeds=5, gain=0.2):
    context = {"data": "scenes-v1"}
    blank = Record("", "train", "condensing", "", "proxy", 0, "ok", "", "now", {"voc_ap50": 50.0}, context=context)
    trained = [replace(blank, id=f"condensing.{row}.proxy.s{seed}", row=row, seed=seed) for row in rows for seed in range(seeds)]
    proofs = [replace(blank, id=f"condensing.{row}.proxy.s0.plateau", kind="plateau", row=row, values={"voc_ap50": 50.0 + gain}) for row in rows]
    return trained + proofs


def difference(row, low, high, reference="fpn-r50"):
    return Difference("condensing", row, reference, "voc_ap50", "proxy", (low + high) / 2, (low, high), 5, 0.7)


def decided(records, differences=(), digests=None):
    found = decide(ENTRY.paper, ENTRY.published, Evidence(ENTRY.paper, ENTRY.published, tuple(records), tuple(differences), digests))
    return {claim.key: claim for claim in found}


def test_each_sentence_of_every_paper_has_one_outcome():
    for entry in catalogue().values():
        found = decide(entry.paper, entry.published, Evidence(entry.paper, entry.published))
        assert [claim.index for claim in found if claim.index >= 0] == list(range(len(entry.published.claims)))  # others are implied by tables
        assert all(claim.outcome in WORDS and claim.reason for claim in found)


def test_claims_of_papers_yet_to_be_built():
    entry = catalogue()["pod"]
    assert {(c.outcome, c.reason) for c in decide(None, entry.published, Evidence(None, entry.published))} == {("not attempted", "not built yet")}


def test_a_saving_is_the_counted_one():
    assert decided(costs())["k1-l1-saves-96"].measured == pytest.approx(100 * (1 - 0.5 / 14.0))  # 96.43 %
    assert decided(costs())["k1-l1-saves-96"].outcome == "reproduced"
    assert decided(costs(**{"k1-l1": 0.6}))["k1-l1-saves-96"].outcome == "deviates"  # 95.7 %
    assert decided([])["k1-l1-saves-96"].outcome == "not attempted"


def test_a_stale_count_decides_nothing():
    old = {"condensing.k1-l1.cost": "later"}
    assert decided(costs(), digests=old)["k1-l1-saves-96"].outcome == "not attempted"


def test_a_share_of_the_head():
    found = decided(costs())["one-layer-saves-7"]
    assert found.measured == pytest.approx(100 * (1024 * 1024 + 1024) / 14e6)
    assert found.outcome == "reproduced"
    assert decided(costs(**{"fpn-r50": 20.0}))["one-layer-saves-7"].outcome == "deviates"  # 5.2 %


def test_costs_that_a_sentence_repeats():
    assert decided(costs())["faster-params"].outcome == "reproduced"
    assert decided(costs(**{"faster-c4-coco": 15.0}))["faster-params"].outcome == "deviates"
    assert decided(costs())["faster-macs"].outcome == "reproduced"  # 734.0 for 733.8: within 1 %


def test_over_a_half_contradicts_the_printed_cells_whatever_is_counted():
    """Printed: 8.3 of 15.8 million are kept, so 47.5 % are saved; and 8.0 of 15.2 on VOC, 47.4 %."""
    for records in ([], costs(), costs(**{"ours-faster-coco": 1.0})):
        found = decided(records)
        assert found["faster-over-half"].outcome == found["first-over-half"].outcome == "contradicted by its own table"
        assert "47.5 %" in found["faster-over-half"].reason
    assert "47.4 %" in decided([])["first-over-half"].reason


def test_around_a_half_needs_every_built_pair():
    rows = [key for dataset in ("", "-coco") for key in (f"faster-c4{dataset}", f"fpn-r101{dataset}", f"cascade{dataset}")]
    kept = dict.fromkeys(rows, 10.0) | {f"ours-{name}{dataset}": 5.2 for dataset in ("", "-coco") for name in ("faster", "fpn", "cascade")}
    assert decided(costs(**kept))["around-half"].outcome == "reproduced"  # 48 %
    assert decided(costs(**kept | {"ours-fpn": 7.0}))["around-half"].outcome == "deviates"  # 30 %
    assert decided(costs(**kept | {"ours-fpn": 3.0}))["around-half"].outcome == "deviates"  # 70 %


@pytest.mark.parametrize(
    ("interval", "word"),
    [((-2.0, -1.0), "reproduced"), ((-4.0, -3.0), "direction holds"), ((-2.0, 0.5), "undecided"), ((1.0, 2.0), "direction reversed")],
)
def test_the_drop_of_k1_l1_is_a_magnitude_in_both_sentences(interval, word):
    found = decided(runs("k1-l1", "fpn-r50"), [difference("k1-l1", *interval)])
    assert found["k1-l1-drop"].outcome == found["k1-l1-drop-again"].outcome == word
    assert found["k1-l1-drop"].interval == interval


@pytest.mark.parametrize(("interval", "word"), [((-0.8, 0.6), "reproduced"), ((-1.3, 0.6), "undecided"), ((-2.5, -1.2), "deviates")])
def test_half_of_the_parameters_is_an_equality(interval, word):
    found = decided(runs("k16-l5", "fpn-r50"), [difference("k16-l5", *interval)])["half-keeps-accuracy"]
    assert found.outcome == word
    assert found.headline


def test_no_difference_found_is_not_equality():
    assert decided(runs("k16-l5", "fpn-r50"), [difference("k16-l5", -3.0, 3.0)])["half-keeps-accuracy"].outcome == "undecided"


def test_a_difference_is_turned_where_the_claim_names_the_reference_first():
    """L_d's gain is K16 L5 minus the row without it; the pair is resampled the other way round."""
    found = decided(runs("k16-l5", "no-ld", gain=0.1), [difference("no-ld", -0.9, -0.4, "k16-l5")])["ld-gains"]
    assert (found.outcome, found.interval) == ("reproduced", (0.4, 0.9))


def test_accuracy_claims_wait_for_seeds_plateau_and_predictions():
    drop = [difference("k1-l1", -2.0, -1.0)]
    assert decided(runs("k1-l1", "fpn-r50", seeds=1), drop)["k1-l1-drop"].outcome == "undecided"
    assert decided(runs("k1-l1", "fpn-r50", gain=1.1), drop)["k1-l1-drop"].outcome == "undertrained"
    assert decided(runs("k1-l1", "fpn-r50"))["k1-l1-drop"].outcome == "undecided"
    assert decided([])["k1-l1-drop"].outcome == "not attempted"


def on(machine, records):
    return [replace(record, context=dict(record.context) | {"machine": {"name": machine}}) for record in records]


def test_a_plateau_shown_on_one_machine_holds_for_another_of_the_same_length():
    """The run that is continued and its continuation are of one machine; the seeds that decide may be another's."""
    drop, judged = [difference("k1-l1", -1.8, -1.4)], [run for run in on("gpu", runs("k1-l1", "fpn-r50")) if run.kind != "plateau"]
    assert decided(judged, drop)["k1-l1-drop"].outcome == "undertrained"
    assert decided(judged + on("cpu", runs("k1-l1", "fpn-r50", seeds=1)), drop)["k1-l1-drop"].outcome == "reproduced"
    assert decided(judged + on("cpu", runs("k1-l1", "fpn-r50", seeds=1, gain=1.1)), drop)["k1-l1-drop"].outcome == "undertrained"
    alone = [run for run in on("cpu", runs("k1-l1", "fpn-r50")) if run.kind == "plateau"]
    assert decided(judged + alone, drop)["k1-l1-drop"].outcome == "undertrained", "what a proof continues is not there"


def test_superiority_and_a_claim_that_only_a_table_implies():
    claim = Claim("k16-l5-beats-svd", -1, "superiority", lambda case: case.superiority("k16-l5", "svd", "voc_ap50"))
    paper = replace(ENTRY.paper, claims=(claim,))
    evidence = Evidence(paper, ENTRY.published, tuple(runs("k16-l5", "svd", "fpn-r50")), (difference("k16-l5", 0.2, 1.0, "svd"),))
    *printed, implied = decide(paper, ENTRY.published, evidence)
    assert len(printed) == 12
    assert (implied.outcome, implied.key, implied.index) == ("reproduced", "k16-l5-beats-svd", -1)


def test_a_word_that_is_no_outcome_is_refused():
    claim = Claim("x", 0, "cost", lambda _: Verdict("fine", None, ""))
    paper = replace(ENTRY.paper, claims=(claim,))
    with pytest.raises(AssertionError, match="no outcome"):
        decide(paper, ENTRY.published, Evidence(paper, ENTRY.published))


def test_a_claim_of_several_numbers_is_not_one_number():
    printed = catalogue()["pod"].published
    with pytest.raises(AssertionError, match="not one number"):
        Case(Evidence(None, printed)).claimed(0)
