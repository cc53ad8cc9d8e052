"""What each line and each sentence of POD is about: its own rows, by its own numbers."""

from __future__ import annotations

import pytest
from pod_records import ENTRY, PAPER, gain, scales, sentences, timed, trained

HEADLINES = {row.key for row in PAPER.rows if row.headline}


def test_lines_of_the_tables_are_of_these_rows():
    lines = {table.id: table.rows for table in PAPER.tables}
    assert [key for key in lines["T1"] if not key.startswith("quoted-")] == ["retina-r101-fd-wt-jitter", "c4-r101-fd-wt"]
    bases = ("c4-r50", "c4-r101", "fpn-r50", "fpn-r101", "retina-r50", "retina-r101")
    assert list(lines["T2"]) == [f"{base}{end}" for base in bases for end in ("", "-fd")]
    assert list(lines["T3"]) == [key for key in ("c4-r50-gsl", "c4-r50-gsl", "fpn-r50-gsl", "retina-r50-gsl") for _ in "hw"]
    assert list(lines["T4"]) == [f"{base}{end}" for base in ("c4-r50", "c4-r101", "retina-r50") for end in ("", "-gsl", "-fd")]
    assert list(lines["T5"]) == [f"{base}-r50{end}" for base in ("c4", "fpn", "retina") for end in ("-2x", "-fd-2x", "-fd-wt")]


def test_each_row_is_set_beside_one_that_learnt_as_long():
    """FD-WT has had GSL's training too; R101 has no baseline of 2x, so that FD is the nearest to what transfer adds."""
    found = {row.key: row.reference for row in PAPER.rows if row.reference}
    wanted = {f"{base}-{depth}{end}": f"{base}-{depth}" for base in ("c4", "fpn", "retina") for depth in ("r50", "r101") for end in ("-gsl", "-fd")}
    wanted |= {f"{base}-r50{end}": f"{base}-r50-2x" for base in ("c4", "fpn", "retina") for end in ("-fd-wt", "-fd-2x")}
    wanted |= {f"{base}-r101-fd-wt": f"{base}-r101-fd" for base in ("c4", "fpn", "retina")}
    assert found == wanted | {"retina-r101-fd-wt-jitter": "retina-r101-fd-wt"}


def test_the_control_is_of_the_headline_rows():
    (control,) = PAPER.variants
    assert (control.data, set(control.rows), control.seeds) == ("scenes-v1-onesize", HEADLINES, 2)


# Whose gains a sentence names, in its own order: FD's over the baseline, FD-WT's over twice the training.
OF_SENTENCES = {
    "fd-gains-on-c4": (("c4-r50-fd", "c4-r50"), ("c4-r101-fd", "c4-r101")),
    "fd-gains-on-pyramids": (("fpn-r50-fd", "fpn-r50"), ("retina-r50-fd", "retina-r50")),
    "transfer-beats-2x": (("c4-r50-fd-wt", "c4-r50-2x"), ("retina-r50-fd-wt", "retina-r50-2x")),
    "figure-1": (("c4-r50-fd-wt", "c4-r50-2x"), ("retina-r50-fd-wt", "retina-r50-2x")),
}


def learnt_fully(*rows):
    return [trained(row, seed) for row in rows for seed in range(5)] + [trained(row, kind="plateau") for row in rows]


@pytest.mark.parametrize("key", OF_SENTENCES)
def test_a_sentence_judges_the_rows_that_it_speaks_of_by_its_own_numbers(key):
    """Reproduced where each pair gains what the sentence says of it, and not where the two gains change places."""
    pairs = OF_SENTENCES[key]
    said = ENTRY.published.claims[next(claim.index for claim in PAPER.claims if claim.key == key)].value[-2:]
    assert said[0] != said[1]
    records = learnt_fully(*{row for pair in pairs for row in pair})

    def outcome(values):
        return sentences(records, [gain(pair, value, 0.1) for pair, value in zip(pairs, values, strict=True)])[key].outcome

    assert outcome(said) == "reproduced"
    assert outcome(said[::-1]) == "direction holds"


@pytest.mark.parametrize(("key", "row", "reference"), [
    ("gsl-gains", "c4-r50-gsl", "c4-r50"),
    ("fd-gains", "c4-r50-fd", "c4-r50"),
    ("transfer-gains", "c4-r50-fd-wt", "c4-r50-2x"),
])  # fmt: skip
def test_a_headline_judges_its_own_pair(key, row, reference):
    found = sentences(learnt_fully(row, reference), [gain((row, reference), 0.8)])
    assert {each: claim.outcome for each, claim in found.items() if claim.outcome == "reproduced" and each.endswith("gains")} == {key: "reproduced"}


def test_fd_is_as_accurate_as_the_gsl_that_it_is_made_of():
    records = learnt_fully("c4-r50-fd", "c4-r50-gsl")
    assert sentences(records, [gain(("c4-r50-fd", "c4-r50-gsl"), 0.1)])["fd-as-accurate-as-gsl"].outcome == "reproduced"
    assert sentences(records, [gain(("c4-r50-fd", "c4-r50"), 0.1)])["fd-as-accurate-as-gsl"].outcome != "reproduced"


def test_the_3_per_cent_are_asked_of_every_detector_of_table_3():
    for row in ("c4-r50-gsl", "fpn-r50-gsl", "retina-r50-gsl"):
        assert row in sentences([trained(row, **scales(2.0, 0.05))])["stable-scales"].reason


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_runtimes_speed_is_judged_on_both_detectors_in_that_form(form):
    key = {"onnx": "fd-as-fast-in-onnxruntime", "openvino": "fd-as-fast-in-openvino"}[form]

    def times(*bases, of=form):
        level = (1.0, 0.99, 1.01)
        return [timed(row, base, 100.0, None if row == base else level, f"@{of}") for base in bases for row in (base, f"{base}-fd")]

    assert sentences(times("c4-r50", "retina-r50"))[key].outcome == "reproduced"
    assert sentences(times("c4-r50"))[key].outcome == "not attempted"
    assert sentences(times("c4-r50", "retina-r50", of="fused"))[key].outcome == "not attempted"


def test_a_learnt_scale_that_speaks_against_a_sentence_is_said_before_all_rows_have_run():
    found = sentences([trained("fpn-r50-gsl", **scales(1.2))])["strided-below-one"]
    assert found.outcome == "not attempted"
    assert "retina-r50-gsl has no run" in found.reason
    assert "fpn-r50-gsl conv3_first_h_train 1.20, not below" in found.reason


def test_fd_is_paired_with_the_gsl_that_it_is_made_of():
    assert PAPER.compared == (("c4-r50-fd", "c4-r50-gsl"),)
