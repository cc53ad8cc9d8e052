"""Adapters: found by name, built offline, label maps and boxes ended in them, a package of one's own, and what a mistake says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from noise import photographs
from packaged import PACKAGE, install

from bench import adapters, cli
from bench.adapters import Adapter, Wanted, build_adapted, find_adapter, size_of, source_of
from bench.checking import adapter_lines
from bench.contract import examine
from bench.datasets import open_split, parse_data
from bench.subjects import Subject, find_subject
from bench.types import Unavailable, UserError, detect
from implementations.adapters.answers import DROPPED, answer, shifted
from implementations.adapters.plain_graphs import GraphDetector, Reading, Session, corners, read_reading
from implementations.adapters.torchvision import TorchvisionDetector, build, wrapped

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def keeps_the_contract(detector, classes, size):
    """Every rule's state, none of them broken."""
    found = examine(detector, classes, size)
    assert not [each for each in found if each.state == "broken"]
    return {each.rule: each.state for each in found}


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- answers


def test_an_answer_is_brought_into_shape():
    boxes = torch.tensor([[-2.0, 0, 9, 9], [1, 1, 50, 5], [0, 0, 1, 1]])
    found = answer(boxes, torch.tensor([0.2, 0.9, 0.5]), torch.tensor([1, 2, 0]), size=(10, 20), label_map=shifted(3))
    assert found.boxes.tolist() == [[1, 1, 20, 5], [0, 0, 9, 9]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.2])
    assert found.labels.tolist() == [1, 0]


@pytest.mark.parametrize(("order", "given"), [("xyxy", [2, 3, 6, 9]), ("xywh", [2, 3, 4, 6]), ("cxcywh", [4, 6, 4, 6]), ("yxyx", [3, 2, 9, 6])])
def test_orders_of_boxes(order, given):
    assert corners(torch.tensor([given], dtype=torch.float32), order).tolist() == [[2, 3, 6, 9]]


# ---- graphs


def graph(reading, shape=(1, 3, 40, 80), answers=None):
    seen = []

    def run(pixels):
        seen.append(pixels)
        return answers or [torch.tensor([[[10.0, 5, 30, 25]]]), torch.tensor([[0.7]]), torch.tensor([[2]])]

    fixed = shape[-2:] if None not in shape[-2:] else None
    return GraphDetector(Path("g.onnx"), Session(shape, ("boxes", "scores", "labels"), run), reading, fixed), seen


def test_any_graph_is_a_detector():
    """A graph of 40 x 80 and an image of 80 x 80: boxes grow in height alone."""
    detector, seen = graph(Reading(background=0))
    found = detect(detector, [torch.rand(3, 80, 80), torch.rand(3, 40, 80)])
    assert [tuple(pixels.shape) for pixels in seen] == [(1, 3, 40, 80)] * 2
    assert found[0].boxes.tolist() == [[10, 10, 30, 50]]
    assert found[1].boxes.tolist() == [[10, 5, 30, 25]]
    assert found[0].labels.tolist() == [1]


def test_colour_range_and_mean_of_a_graph():
    detector, seen = graph(Reading(colour="bgr", range=255.0, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0)))
    image = torch.zeros(3, 40, 80)
    image[2] = 1  # blue, which comes first
    detector.network(detector.prepare([image]))
    assert seen[0][0, :, 0, 0].tolist() == [127.0, -1.0, -1.5]


def test_a_free_graph_sees_each_image_as_it_is():
    detector, seen = graph(Reading(), shape=(3, None, None))
    detect(detector, [torch.rand(3, 20, 30), torch.rand(3, 50, 10)])
    assert [tuple(pixels.shape) for pixels in seen] == [(3, 20, 30), (3, 50, 10)]


def test_how_a_graph_is_read_stands_beside_it(tmp_path):
    assert read_reading(tmp_path / "g.onnx") == Reading()
    (tmp_path / "g.json").write_text('{"boxes": "cxcywh", "relative": true, "mean": [1, 2, 3]}')
    assert read_reading(tmp_path / "g.onnx") == Reading(boxes="cxcywh", relative=True, mean=(1, 2, 3))
    for text, said in (('{"colur": "bgr"}', "'colur'"), ('{"boxes": "wh"}', "xyxy"), ("{", "not a JSON")):
        (tmp_path / "g.json").write_text(text)
        with pytest.raises(UserError, match=said) as error:
            read_reading(tmp_path / "g.onnx")
        one_line(error)


@pytest.mark.parametrize("kind", ["faster_rcnn_fpn", "retinanet"])
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_export_of_ours_is_the_detector_again(kind, runtime, tmp_path):
    pytest.importorskip("onnx", reason="needs the group `deploy`")
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime), reason="as above")
    from bench.scales import SCALES
    from bench.spec import Request, Setting
    from implementations.adapters.sidecar import export_whole
    from implementations.baselines import faster_rcnn, retinanet

    make = {"faster_rcnn_fpn": faster_rcnn.faster_rcnn_fpn, "retinanet": retinanet.retinanet}[kind]
    torch.manual_seed(0)
    detector = make(Request(Setting("", 4, 600, 1000, "R50"), SCALES["smoke"], 4)).eval()
    with torch.no_grad():
        if kind == "retinanet":
            detector.head.class_subnet.predict.bias.zero_()
        else:
            detector.regions.head.predictor.cls_score.weight.normal_(0, 0.3)
    export_whole(detector, tmp_path)
    again = build_adapted(f"{runtime}:{tmp_path}/body.onnx")
    images = photographs((90, 128), (128, 96))
    with torch.inference_mode():
        for mine, other in zip(detect(again, images), detect(detector, images), strict=True):
            assert len(other.scores) > 5
            torch.testing.assert_close(mine.scores, other.scores, atol=1e-4, rtol=0)
    assert again.weights_from == f"{tmp_path.name}/body.onnx"
    assert again.stored_bytes() > 1000
    keeps_the_contract(again, 4, (90, 128))
    with pytest.raises(Unavailable, match="cannot learn"):
        again.forward()
    (tmp_path / "detector.json").write_text("{}")
    with pytest.raises(UserError, match="export it anew") as error:
        build_adapted(f"{runtime}:{tmp_path}/body.onnx")
    one_line(error)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_strangers_graph(runtime, tmp_path):
    """Two boxes, as shares of the image, written as a graph by hand."""
    onnx = pytest.importorskip("onnx", reason="needs the group `deploy`")
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime), reason="as above")
    values = {"boxes": [[0.5, 0.5, 0.2, 0.4], [0.25, 0.25, 0.5, 0.5]], "scores": [0.3, 0.8], "classes": [1, 2]}
    helper, kinds = onnx.helper, {"classes": onnx.TensorProto.INT64}
    nodes, outputs = [], []
    mean = helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0)
    none = helper.make_node("Sub", ["mean", "mean"], ["none"])
    for name, value in values.items():
        kind, shape = kinds.get(name, onnx.TensorProto.FLOAT), [len(value), *([4] if name == "boxes" else [])]
        flat = [number for row in value for number in row] if name == "boxes" else value
        nodes.append(helper.make_node("Constant", [], [f"{name}_0"], value=helper.make_tensor(f"{name}_t", kind, shape, flat)))
        both = [f"{name}_0", "none"]
        if kind != onnx.TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", ["none"], ["whole"], to=kind))
            both = [f"{name}_0", "whole"]
        nodes.append(helper.make_node("Add", both, [name]))
        outputs.append(helper.make_tensor_value_info(name, kind, shape))
    given = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 32, 64])
    made = helper.make_model(
        helper.make_graph([mean, none, *nodes], "g", [given], outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.save(made, str(tmp_path / "theirs.onnx"))
    with pytest.raises(UserError, match="allowed: boxes, scores, labels") as error:
        build_adapted(f"{runtime}:{tmp_path}/theirs.onnx")
    one_line(error)
    (tmp_path / "theirs.json").write_text('{"boxes": "cxcywh", "relative": true, "background": 0, "outputs": {"labels": "classes"}}')
    detector = build_adapted(f"{runtime}:{tmp_path}/theirs.onnx")
    (found,) = detect(detector, [torch.rand(3, 100, 200)])
    assert found.boxes.tolist() == [[0, 0, 100, 50], pytest.approx([80, 30, 120, 70])]
    assert found.labels.tolist() == [1, 0]
    states = keeps_the_contract(detector, 2, (96, 128))
    assert states["labels 0..C-1"] == states["boxes inside the image"] == states["pixels of the image as given"] == "ok"
    with pytest.raises(UserError, match="its input is 32x64"):
        build_adapted(f"{runtime}:{tmp_path}/theirs.onnx", size=(64, 64))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_graph_of_several_inputs_is_one_line_and_exit_code_two(runtime, tmp_path, monkeypatch, capsys):
    onnx = pytest.importorskip("onnx", reason="needs the group `deploy`")
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime), reason="as above")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    given = [helper.make_tensor_value_info(name, kind, [1, 3, 32, 64]) for name in ("image", "original_size")]
    names = ("boxes", "scores", "labels")
    nodes = [helper.make_node("Add", ["image", "original_size"], [name]) for name in names]
    graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info(name, kind, [1, 3, 32, 64]) for name in names])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(tmp_path / "two.onnx"))
    monkeypatch.setattr(sys, "argv", ["leandet", "check", f"{runtime}:{tmp_path}/two.onnx"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert (ended.value.code, len(said.splitlines())) == (2, 1), said
    assert "two.onnx: takes 2 inputs (image, original_size); allowed: one" in said


# ---- a package of one's own


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package as pip installs it, with entry points, on the path."""
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("theirpackage", None)


def test_a_package_adds_an_adapter_a_detector_and_a_dataset(package):
    assert isinstance(find_adapter("theirs"), Adapter)
    assert detect(build_adapted("theirs:middle"), [torch.rand(3, 40, 80)])[0].boxes.tolist() == [[20, 10, 60, 30]]
    assert build_adapted("python:middle", classes=5, size=(40, 80)).asked == (5, (40, 80))
    data = parse_data("mine=/data/some, where")
    assert (data.name, data.part("mine")) == ("mine:some, where", "/data/some, where")
    assert len(open_split(data, "val")) == len(open_split(parse_data("scenes-v1"), "val"))
    told = "\n".join(adapter_lines())
    assert "theirs        installed" in told
    assert "broken" in told
    assert "python:middle" in told
    assert "--data mine=" in told
    assert find_subject("theirs:middle", "paper").label == "theirs.middle"


def test_a_broken_package_is_named(package):
    for key, said in (("lost", "theirpackage:NOTHING"), ("odd", "gives a int")):
        with pytest.raises(UserError, match=said) as error:
            find_adapter(key)
        one_line(error)
    with pytest.raises(UserError, match=r"theirs has no 'centre'.*allowed: middle, corner"):
        build_adapted("theirs:centre")


def test_a_function_of_ones_own(package):
    detector = build_adapted("python:theirpackage:make", size=(64, 64))
    assert detector.asked == (None, (64, 64))
    assert keeps_the_contract(detector, 3, (64, 96))["pixels of the image as given"] == "ok"
    torch_model = build_adapted("python:theirpackage:model", classes=3)
    assert isinstance(torch_model, TorchvisionDetector)
    assert torch_model.told.label_map == (DROPPED, 0, 1, 2)


def test_wrapping_counts_the_labels_of_every_kind():
    import torchvision

    for name in ("fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16"):
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=6)
        assert wrapped(model, name).told.label_map == shifted(6)


# ---- mistakes

MISTAKES = [
    ("torchvsion:x", r"'torchvsion'.*did you mean torchvision.*allowed: torchvision"),
    ("torchvision:fasterrcnn_resnet50_fpn_v3", r"did you mean fasterrcnn_resnet50_fpn_v2"),
    ("python:nowhere.at.all:make", r"no module nowhere on the path.*PYTHONPATH"),
    ("python:theirpackage:mkae", r"no function mkae; did you mean make"),
    ("python:theirpackage:fails", r"its builder raised OSError: weights are on the moon; mend the builder"),
    ("python:theirpackage:number", r"gives a int without prepare, network, finish"),
    ("python:midle", r"no detector of that name; did you mean middle"),
    ("onnx:/nowhere/body.onnx", r"/nowhere/body.onnx: there is no such file"),
]


@pytest.mark.parametrize(("name", "said"), MISTAKES, ids=[name for name, _ in MISTAKES])
def test_a_mistake_is_one_line(name, said, package):
    if name.startswith("onnx:"):
        pytest.importorskip("onnxruntime", reason="needs the group `deploy`")
    with pytest.raises(UserError, match=said) as error:
        build_adapted(name)
    one_line(error)


def test_a_framework_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(adapters, "_there", lambda package: package != "transformers")
    with pytest.raises(UserError, match=r"transformers is not installed; next: pip install 'transformers"):
        build_adapted("transformers:rt_detr")
    assert any(line.startswith("transformers  not installed") and "next: pip install" in line for line in adapter_lines())


@pytest.mark.parametrize(("version", "fits"), [("5.19.3", False), ("5.20.0", True), ("5.99", True), ("6.0.0rc1", False), ("missing", False)])
def test_a_framework_that_is_too_old_or_too_new(monkeypatch, version, fits):
    monkeypatch.setattr(adapters, "_there", lambda _: True)
    monkeypatch.setattr(adapters, "installed", lambda _: version)
    assert (find_adapter("transformers").unfit() == "") == fits
    if not fits:
        with pytest.raises(UserError, match=rf"transformers {version} is installed; allowed: from 5.20 to below 6; next: pip install") as error:
            build_adapted("transformers:rt_detr")
        one_line(error)
        assert any(line.startswith("transformers  unfit") for line in adapter_lines())


@pytest.mark.parametrize(("key", "package"), [("torchvision", "torchvision"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_versions_are_those_that_the_project_allows(key, package):
    """What an adapter says, and what it tells to type, beside the project's own bounds."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())
    listed = [*project["project"]["dependencies"], *project["dependency-groups"]["deploy"]]
    (allowed,) = [each for each in listed if re.match(rf"{package}\W", each)]
    least, below = find_adapter(key).bounds[package]
    assert allowed == f"{package}>={least},<{below}"
    assert f"'{allowed}'" in find_adapter(key).install


def test_a_checkpoint_of_another_model(tmp_path):
    state = build(Wanted("ssdlite320_mobilenet_v3_large", classes=3)).model.state_dict()
    cut = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    more = state | {"mask.weight": torch.zeros(1)}
    for name, content, said in (("cut", cut, "missing from it"), ("more", more, "it has mask.weight"), ("none", {"a": 1}, "holds no tensors")):
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=said) as error:
            build_adapted("torchvision:ssdlite320_mobilenet_v3_large", classes=3, weights=tmp_path / f"{name}.pth")
        one_line(error)
    torch.save(state, tmp_path / "good.pth")
    with pytest.raises(UserError, match="a checkpoint of another model than torchvision's ssd300_vgg16"):
        build_adapted("torchvision:ssd300_vgg16", classes=3, weights=tmp_path / "good.pth")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    for name in ("bad.pth", "gone.pth"):
        with pytest.raises(UserError, match=name) as error:
            build_adapted("torchvision:ssdlite320_mobilenet_v3_large", weights=tmp_path / name)
        one_line(error)


def test_sizes():
    assert size_of("") is None
    assert size_of("800x1333") == (800, 1333)
    for text in ("800", "800x", "8x8", "axb", "100000x9"):
        with pytest.raises(UserError, match="HEIGHTxWIDTH"):
            size_of(text)


def test_what_stands_behind_a_name_is_part_of_what_it_rests_on(package, tmp_path):
    named = {name: source_of(name) for name in ("python:theirpackage:make", "python:middle", "theirs:middle")}
    assert len(set(named.values())) == 1
    (tmp_path / "theirpackage.py").write_text(PACKAGE + "more = 1\n")
    assert {source_of(name) for name in named}.isdisjoint(named.values())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    before = source_of(f"transformers:{tmp_path}/model"), source_of(f"onnx:{tmp_path}/model/config.json")
    (tmp_path / "model" / "config.json").write_text("{ }")
    assert {source_of(f"transformers:{tmp_path}/model"), source_of(f"onnx:{tmp_path}/model/config.json")}.isdisjoint(before)
    assert source_of("torchvision:fcos_resnet50_fpn") == source_of("transformers:detr") == source_of("python:nowhere:make") == ""


def test_labels_bear_no_path_of_a_machine():
    assert Subject("torchvision:fcos_resnet50_fpn", size="320x320").label == "torchvision.fcos-resnet50-fpn-320x320"
    assert Subject("onnx:/home/me/out/body.onnx").label == "onnx.out-body"
    assert Subject("transformers:/home/me/my-detr", weights="/x/best.pth").label == "transformers.my-detr-best"
    assert Subject("torchvision:fcos_resnet50_fpn", weights="/x/run-7/weights.safetensors").label == "torchvision.fcos-resnet50-fpn-run-7"
    assert Subject("python:package.module:builder").label == "python.package-module-builder"


def test_looking_adapters_up_imports_no_framework():
    code = "import sys; from bench.checking import adapter_lines; adapter_lines(); "
    code += "print(*{'torchvision', 'transformers', 'onnxruntime'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True).stdout
    assert said.strip() == ""


def test_a_builder_that_is_unavailable_says_why(monkeypatch):
    def refuse(_):
        raise Unavailable("no licence\nhere")

    monkeypatch.setattr(adapters, "find_adapter", lambda _: Adapter("x", "", "", (), "", tuple, refuse))
    with pytest.raises(UserError, match="x:y: no licence"):
        build_adapted("x:y")
