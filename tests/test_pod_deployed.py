"""POD deployed: plain convolutions in torch, and graphs in onnxruntime and OpenVINO that answer as torch does."""

from __future__ import annotations

import sys

import pytest
import torch
from noise import photographs
from pod_detectors import DETECTORS, build, enliven, request
from torch import nn

from bench.types import Detector, Unavailable, UserError, detect
from implementations.adapters import graphs, onnx, openvino, refusals
from implementations.adapters.graphs import export, operators
from implementations.layers.backbones import Bottleneck
from implementations.pod.deployment import Abreast, plain_convolutions
from implementations.pod.model import ScaledBottleneck


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


RUNTIMES = {"onnxruntime": onnx.in_onnxruntime, "openvino": openvino.in_openvino}
IMAGES = photographs((90, 128), (128, 96))


def fd(kind):
    """With Table 3's scales: blocks that are split, and kernels of 1 x 3 and 1 x 1."""
    return enliven(build(kind, "fd"))


def assert_same(found, wanted):
    for mine, other in zip(found, wanted, strict=True):
        assert len(other.boxes) >= 5
        assert mine.labels.tolist() == other.labels.tolist()
        torch.testing.assert_close(mine.scores, other.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(mine.boxes, other.boxes, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", DETECTORS)
def test_export_changes_no_box(kind):
    detector = fd(kind)
    plain = plain_convolutions(detector)
    with torch.inference_mode():
        assert_same(detect(plain, IMAGES), detect(detector, IMAGES))
    kinds = {type(module) for name, module in plain.named_modules() if name.startswith("backbone") and not list(module.children())}
    assert kinds == {nn.Conv2d, nn.ReLU, nn.MaxPool2d}
    assert not [name for name, module in plain.named_modules() if isinstance(module, ScaledBottleneck | Bottleneck | nn.BatchNorm2d)]
    assert any(isinstance(module, Abreast) for module in plain.modules())
    assert all(side in {0, 1, 2, 3, 4, 8, 9, 10} for module in plain.modules() if isinstance(module, nn.Conv2d) for side in module.dilation)


def test_the_baseline_is_exported_by_the_same_way():
    detector = enliven(DETECTORS["fpn"](request()).eval())
    with torch.inference_mode():
        assert_same(detect(plain_convolutions(detector), IMAGES), detect(detector, IMAGES))


def test_a_network_that_predicts_its_scales_is_not_plain():
    with pytest.raises(UserError, match=r"R31: its scale is predicted for each image, which no plain convolution does; decompose it first") as caught:
        plain_convolutions(build("fpn", "gsl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["c4", "retina", pytest.param("fpn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", [plain_convolutions, lambda detector: detector])  # the second: as `leandet deploy RUN@onnx` exports it
def test_the_graph_holds_no_operator_that_the_baselines_does_not(kind, form, tmp_path):
    pytest.importorskip("onnx", reason="needs the group `deploy`: pip install onnx onnxruntime openvino")
    found = {}
    for name, detector in (("fd", fd(kind)), ("baseline", DETECTORS[kind](request()).eval())):
        (tmp_path / name).mkdir()
        files = export(form(detector), tmp_path / name)
        found[name] = {operator for path in files for operator in operators(path)}
    assert found["fd"] == found["baseline"]
    assert "Conv" in found["fd"]


def test_what_gsl_adds_to_the_graph(tmp_path):
    """The bilinear sampling, as the matrix products that it is here."""
    pytest.importorskip("onnx", reason="as above")
    for name, detector in (("gsl", enliven(build("retina", "gsl"))), ("baseline", plain_convolutions(DETECTORS["retina"](request()).eval()))):
        (tmp_path / name).mkdir()
        export(detector, tmp_path / name)
    added = set(operators(tmp_path / "gsl" / graphs.BODY)) - set(operators(tmp_path / "baseline" / graphs.BODY))
    assert {"MatMul", "ReduceMean", "Floor"} <= added


def test_gsls_c4_head_says_why_it_is_no_graph(tmp_path):
    pytest.importorskip("onnx", reason="as above")
    with pytest.raises(Unavailable, match="shares a scale between the regions of an image"):
        export(build("c4", "gsl"), tmp_path)


@pytest.mark.parametrize("form", [plain_convolutions, lambda detector: detector], ids=["plain", "as it is"])
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["c4", pytest.param("fpn", marks=pytest.mark.slow), pytest.param("retina", marks=pytest.mark.slow)])
def test_boxes_of_a_runtime_are_torchs(kind, runtime, form, tmp_path):
    """At sizes that were not traced, two images at once and one alone; as it is: what `leandet deploy` and `leandet time` export."""
    pytest.importorskip("onnx", reason="as above")
    pytest.importorskip(runtime, reason="as above")
    detector = fd(kind)
    made = RUNTIMES[runtime](form(detector), tmp_path)
    assert isinstance(made, Detector)
    with torch.inference_mode():
        assert_same(detect(made, IMAGES), detect(detector, IMAGES))
        assert_same(detect(made, IMAGES[1:]), detect(detector, IMAGES[1:]))
    assert len(made.weights_hash()) == 64
    with pytest.raises(Unavailable, match="cannot learn"):
        made.forward()


@pytest.fixture
def doubling(tmp_path):
    """A graph (1, 3, 8, 8) -> twice that."""
    made = pytest.importorskip("onnx", reason="needs the group `deploy`: pip install onnx onnxruntime openvino")
    ends = [made.helper.make_tensor_value_info(name, made.TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("pixels", "maps")]
    graph = made.helper.make_graph([made.helper.make_node("Add", ["pixels", "pixels"], ["maps"])], "body", ends[:1], ends[1:])
    made.save(made.helper.make_model(graph, opset_imports=[made.helper.make_opsetid("", 17)], ir_version=8), tmp_path / "body.onnx")
    return tmp_path / "body.onnx"


@pytest.mark.parametrize(("adapter", "package"), [(onnx, "onnxruntime"), (openvino, "openvino")])
def test_an_answer_stays_when_the_runtime_answers_again(adapter, package, doubling):
    pytest.importorskip(package, reason="as above")
    run = adapter.runner(doubling)
    first, second = (torch.full((1, 3, 8, 8), value) for value in (1.0, 5.0))
    (found,) = run(first)
    run(second)
    assert torch.equal(found, 2 * first)


def test_a_runtime_has_the_threads_that_it_is_given_and_full_precision(doubling, monkeypatch):
    """Latencies are compared at equal threads, and detections to 1e-3 px."""
    runtimes = {name: pytest.importorskip(name, reason="as above") for name in ("onnxruntime", "openvino")}
    given = {}
    session, compiled = runtimes["onnxruntime"].InferenceSession, runtimes["openvino"].Core.compile_model

    class Watched(session):
        def __init__(self, path, options, **more):
            given["onnxruntime"] = (options.intra_op_num_threads, options.inter_op_num_threads)
            super().__init__(path, options, **more)

    monkeypatch.setattr(runtimes["onnxruntime"], "InferenceSession", Watched)
    monkeypatch.setattr(
        runtimes["openvino"].Core, "compile_model", lambda core, *words: (given.update(openvino=words[-1]), compiled(core, *words))[1]
    )
    for adapter in (onnx, openvino):
        adapter.runner(doubling, threads=2)
    assert given["onnxruntime"] == (2, 2)
    assert (given["openvino"]["INFERENCE_NUM_THREADS"], given["openvino"]["NUM_STREAMS"]) == (2, 1)
    assert given["openvino"]["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize(("adapter", "package"), [(onnx, "onnxruntime"), (openvino, "openvino")])
def test_a_runtime_that_is_not_installed_is_said(adapter, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable, match=f"^{package} is not installed; next: pip install {package}$"):
        adapter.runner(tmp_path / "body.onnx")


@pytest.mark.parametrize(("adapter", "package"), [(onnx, "onnxruntime"), (openvino, "openvino")])
def test_a_graph_that_a_runtime_cannot_run_is_said_in_one_line(adapter, package, tmp_path):
    pytest.importorskip(package, reason="as above")
    (tmp_path / "body.onnx").write_bytes(b"no graph")
    with pytest.raises(Unavailable, match=r"cannot run body.onnx: .*; export the graph anew") as caught:
        adapter.runner(tmp_path / "body.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("adapter", "package"), [(onnx, "onnxruntime"), (openvino, "openvino")])
def test_an_operator_that_a_runtime_lacks_is_named_with_its_block(adapter, package, tmp_path):
    """A valid graph with one operator of a domain that no runtime has, behind one that all have."""
    made = pytest.importorskip("onnx", reason="as above")
    pytest.importorskip(package, reason="as above")
    block = "/backbone/layer4/layer4.0/conv2/SampleAtScale"
    ends = [made.helper.make_tensor_value_info(name, made.TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("pixels", "maps")]
    nodes = [made.helper.make_node("Relu", ["pixels"], ["x"]), made.helper.make_node("SampleAtScale", ["x"], ["maps"], name=block, domain="pod")]
    opsets = [made.helper.make_opsetid("", 17), made.helper.make_opsetid("pod", 1)]
    graph = made.helper.make_graph(nodes, "body", ends[:1], ends[1:])
    made.save(made.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "body.onnx")
    with pytest.raises(Unavailable) as caught:
        adapter.runner(tmp_path / "body.onnx")
    assert f" cannot run body.onnx: it fails on SampleAtScale of {block}: " in str(caught.value)
    assert str(caught.value).endswith("; take a row without that operator, as FD is to GSL")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("said", "named"), [
    ("Non-zero status code returned while running Add(14) node. Name:'/layer4/Add_7' Status Message: no", [("Add", "/layer4/Add_7")]),
    ("Shape inference input shapes are Not right", []),
    ("No conversion rule found for operations: pod.Add, Shape", [("Add", "/layer1/Add"), ("Shape", "/Shape")]),
    ("Error in Node:/layer4/Add_7 : Op (Add) [ShapeInferenceError]", [("Add", "/layer4/Add_7")]),
    ("-- Add-14 with a message: Max of two", [("Add", "/layer1/Add")]),
])  # fmt: skip
def test_the_node_that_a_runtime_names_is_told_and_no_english_word_is_an_operator(said, named):
    found = [("Add", "/layer1/Add"), ("Shape", "/Shape"), ("Max", "/Max"), ("Not", ""), ("Add", "/layer4/Add_7")]
    assert sorted(refusals.culprits(found, said)) == sorted(named)


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    pytest.importorskip("onnx", reason="as above")

    class Unknown(nn.Module):
        def forward(self, x):
            return torch.special.i0(x)

    free = ("pixels", ["maps"], {"pixels": {0: "images"}})
    with pytest.raises(Unavailable, match=r"export to ONNX: .*i0.*; take a row whose convolutions are plain") as caught:
        graphs._write(Unknown(), torch.zeros(1, 3, 8, 8), tmp_path / "body.onnx", free)
    assert "\n" not in str(caught.value)
