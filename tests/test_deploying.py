"""A run's accuracy in a deployed form is measured on that form, and what cannot be deployed says so in a line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.deploying import deploy
from bench.gather import Stored, digests_of
from bench.metrics.store import read_predictions
from bench.orders import choice_of, with_needs
from bench.records import read_record
from bench.subjects import Conditions, Subject, find_subject
from bench.types import UserError
from implementations.layers.fused import available

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = "compression.dense.smoke.s0"
ONE = Conditions(threads=1, device="cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which a run of the smoke tier has ended, tested on the whole split as others are."""
    from bench import execute
    from bench.campaign import here

    folder = tmp_path_factory.mktemp("deploying")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANDET_HOME", str(folder))
        patch.setattr(execute, "SMOKE", 1000)
        choice = choice_of("smoke", "", "", 0, "")
        here(with_needs(RUN, choice), choice, quiet=True)
        yield folder


@pytest.mark.skipif(not available(), reason="this build of torch has no oneDNN")
def test_a_fused_run_finds_what_the_run_found(home: Path) -> None:
    record, change = deploy(f"{RUN}@fused", ONE)
    assert (record.kind, record.paper, record.row, record.tier) == ("deployed", "compression", "dense@fused", "smoke")
    assert [each.measure for each in change.measured] == ["AP", "AP50", "VOC AP50"]
    assert all(abs(each.difference) < 1 for each in change.measured)
    kept = home / "runs" / "deployed" / f"{RUN}@fused.float32"
    assert len(read_predictions(kept / "predictions.parquet").scores) > 0
    assert record.samples["against"] == RUN
    run = read_record(home / "runs" / RUN / "record.json").digest
    assert record.digest == digests_of([Stored(record, None)], {RUN: run})[record.id]
    assert record.context["artefact"] == {}, "it runs in torch and has no file"
    assert record.digest != digests_of([Stored(record, None)], {RUN: "made anew"})[record.id], "other weights, but it would stand"


def test_a_form_and_a_detector_as_it_learns_are_rows_of_their_own() -> None:
    assert Subject("condensing.fpn-r50", "paper").label == "condensing.fpn-r50.paper"
    fused = find_subject("condensing.fpn-r50@fused", "paper")
    assert (fused.name, fused.label, fused.row) == ("condensing.fpn-r50", "condensing.fpn-r50.paper@fused", "fpn-r50@fused")


@pytest.mark.parametrize(
    ("name", "conditions", "said"),
    [
        ("compression.dense@fused", {}, "only a run has an accuracy"),
        (f"{RUN}@quick", {}, "there is no such form; allowed: fused, kept, compiled, onnx, openvino"),
        ("compression.dense.smoke.s3@fused", {}, "has no weights here; next: leandet run"),
        (f"{RUN}@onnx", {"precision": "bfloat16"}, "graphs are exported in float32"),
        (f"{RUN}@fused", {"threads": 99}, "--threads 99: allowed"),
    ],
)
def test_what_cannot_be_deployed_says_so_in_a_line(home: Path, name: str, conditions: dict[str, Any], said: str) -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match=said):
        deploy(name, replace(ONE, **conditions))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_exported_run_finds_what_the_run_found(home: Path, runtime: str) -> None:
    pytest.importorskip("onnxruntime" if runtime == "onnx" else "openvino", reason="the runtime is not installed")
    pytest.importorskip("onnx", reason="onnx, which exports, is not installed")
    record, change = deploy(f"{RUN}@{runtime}", ONE)
    assert record.row == f"dense@{runtime}"
    assert record.context["artefact"]["bytes"] > 100_000
    assert "Conv" in record.context["artefact"]["operators"]
    assert all(abs(each.difference) < 1 for each in change.measured)


@pytest.mark.parametrize("row", ["k16-l5", "ours-faster", "ours-rfcn"])
def test_a_condensed_head_is_exported_and_left_as_it_was(row: str, tmp_path: Path) -> None:
    """Its averages are products with windows that ONNX could not make; another number of RoIs than was traced is answered as in torch."""
    pytest.importorskip("onnx", reason="onnx, which exports, is not installed")
    pytest.importorskip("onnxruntime", reason="the runtime is not installed")
    import torch

    from bench.assemble import build_detector
    from bench.catalogue import find_paper
    from bench.scales import SCALES
    from implementations.adapters.graphs import export
    from implementations.adapters.onnx import runner
    from implementations.layers import averages

    detector = build_detector(find_paper("condensing").row(row), SCALES["smoke"], 4, seed=0).eval()
    made = averages.windows
    _, head = export(detector, tmp_path)
    assert averages.windows is made
    assert not any(module.training for module in detector.modules()), "exporting has put a part of it into training"
    features = torch.randn(5, *detector.config.roi_features, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = detector.regions.head(features)
    for found, expected in zip(runner(head)(features), (wanted.scores, wanted.deltas), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("row", ["rfcn", "ours-rfcn"])
def test_a_second_stage_with_a_stem_answers_in_the_runtime_as_in_torch(row: str, tmp_path: Path) -> None:
    """R-FCN pools from what its stem makes of the last map."""
    pytest.importorskip("onnx", reason="onnx, which exports, is not installed")
    pytest.importorskip("onnxruntime", reason="the runtime is not installed")
    import torch

    from bench.assemble import build_detector
    from bench.catalogue import find_paper
    from bench.scales import SCALES
    from implementations.adapters.onnx import in_onnxruntime

    detector = build_detector(find_paper("condensing").row(row), SCALES["smoke"], 4, seed=0).eval()
    images = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    with torch.inference_mode():
        batch = detector.prepare(images)
        found, wanted = in_onnxruntime(detector, tmp_path).network(batch).answers, detector.network(batch).answers
    torch.testing.assert_close(found.rois, wanted.rois, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.scores, wanted.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.deltas, wanted.deltas, atol=1e-4, rtol=0)


def test_a_cascade_is_not_exported_and_says_so_in_a_line(tmp_path: Path) -> None:
    from bench.assemble import build_detector
    from bench.catalogue import find_paper
    from bench.scales import SCALES
    from bench.types import Unavailable
    from implementations.adapters.graphs import export

    detector = build_detector(find_paper("condensing").row("ours-cascade"), SCALES["smoke"], 4, seed=0)
    with pytest.raises(Unavailable, match="CascadeStage is not one pooling and one head, which are exported; take a row that is, or @fused"):
        export(detector, tmp_path)
    assert not list(tmp_path.iterdir())


GSL = "pod.c4-r50-gsl.smoke.s0"


@pytest.fixture
def sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with untrained weights whose head shares what it predicts between the regions of an image."""
    from safetensors.torch import save_file

    from bench.assemble import build_detector
    from bench.catalogue import find_paper
    from bench.scales import SCALES

    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    folder = tmp_path / "runs" / GSL
    folder.mkdir(parents=True)
    detector = build_detector(find_paper("pod").row("c4-r50-gsl"), SCALES["smoke"], 10, seed=0)
    save_file({name: tensor.contiguous() for name, tensor in detector.state_dict().items()}, folder / "weights.safetensors")
    return tmp_path / "runs" / "deployed" / f"{GSL}@onnx.float32"


def deploying(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """The exit code of `leandet deploy` and its lines on standard error."""
    import sys

    from bench.cli import main

    monkeypatch.setattr(sys, "argv", ["leandet", "deploy", *words, "--device", "cpu", "--threads", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err.splitlines()


def test_a_form_that_a_detector_cannot_have_is_a_record(sampling: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx", reason="onnx, which exports, is not installed")
    code, said = deploying(monkeypatch, capsys, f"{GSL}@onnx")
    assert (code, len(said)) == (2, 1)
    assert said[0].endswith("which a graph of region features cannot know; export FD")
    record = read_record(sampling / "record.json")
    assert (record.kind, record.status, record.row, record.samples) == ("deployed", "skipped", "c4-r50-gsl@onnx", {"against": GSL})
    assert f"leandet: {record.reason}" == said[0]
    assert not (sampling / "predictions.parquet").exists()


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_package_that_is_not_installed_is_said_and_no_record(
    form: str, package: str, sampling: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is this machine's lack, not the detector's; a baseline, so that it is reached."""
    import sys

    from safetensors.torch import save_file

    from bench.assemble import build_detector
    from bench.catalogue import find_paper
    from bench.scales import SCALES

    if package != "onnx":
        pytest.importorskip("onnx", reason="onnx, which exports, is not installed")
    run = "pod.c4-r50.smoke.s0"
    folder = sampling.parents[1] / run
    folder.mkdir()
    detector = build_detector(find_paper("pod").row("c4-r50"), SCALES["smoke"], 10, seed=0)
    save_file({name: tensor.contiguous() for name, tensor in detector.state_dict().items()}, folder / "weights.safetensors")
    monkeypatch.setitem(sys.modules, package, None)
    code, said = deploying(monkeypatch, capsys, f"{run}@{form}")
    assert (code, len(said)) == (2, 1)
    assert f"{package} is not installed; next: pip install {package}" in said[0]
    assert not (sampling.parent).exists()


def test_conditions_that_cannot_be_leave_no_record(sampling: Path) -> None:
    with pytest.raises(UserError, match="graphs are exported in float32"):
        deploy(f"{GSL}@onnx", Conditions(threads=1, device="cpu", precision="bfloat16"))
    assert not sampling.exists()


def test_a_cut_file_of_weights_is_said_in_a_line(home: Path) -> None:
    path = home / "runs" / RUN / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(UserError, match=rf"{RUN}: its weights cannot be read .* then: leandet run {RUN}"):
            deploy(RUN, ONE)
    finally:
        path.write_bytes(whole)


def test_a_run_without_predictions_is_said_before_the_form_is_tested(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import predict

    monkeypatch.setattr(predict, "predict", lambda *_, **__: pytest.fail("it was tested"))
    path = home / "runs" / RUN / "predictions.parquet"
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(UserError, match=rf"{RUN}'?: neither a file nor a run with predictions here"):
            deploy(RUN, ONE)
    finally:
        path.with_suffix(".away").rename(path)
