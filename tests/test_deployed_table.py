"""The table of deployed runs: form, accuracy, what it changes, bytes, and what a graph holds that its reference's does not."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from rich.console import Console

from bench import places
from bench.deployed_table import AS_LEARNT, HEAD, deployed, lines, print_deployed
from bench.records import Record
from bench.report import judge, render

REASON = "onnxruntime: GSL's head shares a scale between the regions of an image"


def record(
    row: str, form: str, *, ap: float = 40.0, operators: tuple[str, ...] | None = None, size: int = 900, reason: str = "", digest: str = "now"
) -> Record:
    run = f"pod.{row}.proxy.s0"
    name, key = (f"{run}@{form}.float32", f"{row}@{form}") if form else (f"{run}.float32", row)
    context: dict[str, Any] = {"precision": "float32", "data": "scenes-v1", "machine": {"name": "desk"}}
    if reason:
        return Record(name, "deployed", "pod", key, "proxy", 0, "skipped", reason, digest, {}, samples={"against": run}, context=context)
    context["artefact"] = {"bytes": size} | ({"operators": list(operators)} if operators else {})
    samples = {"against": run, "change": {"ap_change": [0.01, -0.1, 0.12]}}
    return Record(name, "deployed", "pod", key, "proxy", 0, "ok", "", digest, {"ap": ap}, samples=samples, context=context)


BASE = record("c4-r50", "onnx", operators=("Concat", "Conv", "Relu"))
FD = record("c4-r50-fd", "onnx", ap=41.237, operators=("Conv", "Relu", "Concat"), size=880)
GSL = record("c4-r50-gsl", "onnx", reason=REASON)
RETINA_GSL = record("retina-r50-gsl", "onnx", operators=("Conv", "MatMul", "Floor"))


def table(*records: Record, stale: tuple[str, ...] = ()) -> dict[tuple[str, str], dict[str, str]]:
    found = lines(deployed(records, "pod"), stale)
    return {(line[0], line[1]): dict(zip(HEAD, line, strict=True)) for line in found}


def test_a_line_says_what_was_tested_and_what_it_changes() -> None:
    line = table(BASE, FD)["pod.c4-r50-fd.proxy.s0", "onnx"]
    assert [line[name] for name in ("ap", "ap_change", "ap_change_low", "ap_change_high", "artefact_bytes")] == [
        "41.24",
        "+0.01",
        "-0.10",
        "+0.12",
        "880",
    ]
    assert (line["operators_beyond_reference"], line["said"], line["data"], line["machine"]) == ("none", "", "scenes-v1", "desk")


def test_operators_are_held_against_those_of_the_reference_in_the_same_form() -> None:
    sampled = record("retina-r50", "openvino", operators=("Conv",))
    assert table(RETINA_GSL, sampled)["pod.retina-r50-gsl.proxy.s0", "onnx"]["operators_beyond_reference"] == "deploy retina-r50 too"
    plain = record("retina-r50", "onnx", operators=("Conv",))
    assert table(RETINA_GSL, plain)["pod.retina-r50-gsl.proxy.s0", "onnx"]["operators_beyond_reference"] == "Floor, MatMul"
    assert table(plain)["pod.retina-r50.proxy.s0", "onnx"]["operators_beyond_reference"] == "", "it is a reference itself"


def test_a_row_is_held_against_its_own_reference_or_the_same_net_trained_otherwise() -> None:
    wt = record("c4-r50-fd-wt", "onnx", operators=("Conv", "Mul"))
    deeper = record("c4-r101", "onnx", operators=("Conv",))
    assert table(deeper, FD, wt)["pod.c4-r50-fd-wt.proxy.s0", "onnx"]["operators_beyond_reference"] == "deploy c4-r50-2x too"
    assert table(BASE, wt)["pod.c4-r50-fd-wt.proxy.s0", "onnx"]["operators_beyond_reference"] == "Mul"
    twice = record("c4-r50-2x", "onnx", operators=("Conv", "Mul"))
    assert table(BASE, wt, twice)["pod.c4-r50-fd-wt.proxy.s0", "onnx"]["operators_beyond_reference"] == "none", "its own reference comes first"


def test_what_cannot_be_exported_stands_there_with_its_reason() -> None:
    line = table(GSL)["pod.c4-r50-gsl.proxy.s0", "onnx"]
    assert line["said"] == f"skipped: {REASON}"
    assert [line[name] for name in ("ap", "ap_change", "artefact_bytes", "operators_beyond_reference")] == [""] * 4


def test_a_form_of_older_code_is_called_stale_and_a_run_as_it_learnt_is_a_form_too() -> None:
    found = table(FD, record("c4-r50", ""), stale=(FD.id,))
    assert "stale" in found["pod.c4-r50-fd.proxy.s0", "onnx"]["said"]
    assert found["pod.c4-r50.proxy.s0", AS_LEARNT]["said"] == ""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "home", lambda: folder)
        standing = judge((BASE, FD, GSL), digests={FD.id: "changed since", BASE.id: "now"})
        return {path.name: path for path in render(standing, folder)}, standing


def test_tables_hold_it_for_the_papers_that_have_deployed_runs(written) -> None:
    files, standing = written
    assert [name for name in files if "deployed" in name] == ["pod-deployed.csv", "pod-deployed.md"]
    rows = list(csv.DictReader(io.StringIO(files["pod-deployed.csv"].read_text())))
    assert [row["run"] for row in rows] == ["pod.c4-r50-fd.proxy.s0", "pod.c4-r50-gsl.proxy.s0", "pod.c4-r50.proxy.s0"]
    assert "stale" in rows[0]["said"]
    assert rows[2]["said"] == ""
    assert "| pod.c4-r50-gsl.proxy.s0 | onnx |" in files["pod-deployed.md"].read_text().replace("\\_", "_")
    assert standing.stale == {FD.id}


def test_the_screen_and_the_page_show_it(written) -> None:
    files, standing = written
    console = Console(file=io.StringIO(), width=250)
    print_deployed("pod", deployed(standing.records, "pod"), standing.stale, console)
    said = console.file.getvalue()
    assert REASON in said
    assert "41.24" in said
    page = files["index.html"].read_text()
    assert "pod.c4-r50-gsl.proxy.s0" in page
    assert "GSL&#39;s head shares a scale" in page
