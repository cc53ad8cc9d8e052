"""Checkpoints of other libraries made into files that our detectors read: each tensor is theirs, and what does not fit is one line."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from commands import called_in
from safetensors.torch import load_file
from same_tensors import assert_same

from bench.scales import SCALES
from bench.types import UserError
from implementations.compression.adopted import GAPS, MARK, adopt, faster_rcnn
from implementations.compression.checkpoints import load_published, recorded_shapes
from implementations.compression.model import build_dense, load_source
from implementations.compression.storage import read_compressed
from implementations.layers.backbones import load_backbone


@pytest.fixture
def leandet(tmp_path_factory, monkeypatch, capsys):
    """A command in this process, where there are no runs: (exit code, output, errors)."""
    return partial(called_in, monkeypatch, capsys, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """torchvision's checkpoint as it is saved, of as many numbers as COCO's has."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("published") / "coco.pth"
    torch.save(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict(), path)
    return path


def test_a_published_checkpoint_becomes_a_file_that_a_detector_reads(leandet, published, tmp_path):
    """As many tensors as ours has, each that of the checkpoint; the line that says what next names a function that reads them."""
    out = tmp_path / "ours.safetensors"
    code, said, err = leandet("adopt", "torchvision", published, out)
    assert code == 0, err
    assert f"ours.safetensors: {len(load_file(out))} tensors of 90 classes; next: leandet measure python:{faster_rcnn.__module__}:faster_rcnn" in said
    wanted = build_dense(faster_rcnn_request(90))
    load_published(wanted, torch.load(published, weights_only=True), "torchvision")
    assert_same(load_file(out), dict(wanted.state_dict()))
    found = faster_rcnn(out, size=(64, 96))
    assert_same(dict(found.state_dict()), dict(wanted.state_dict()))
    assert (found.config.shorter, found.config.longer, found.weights_from) == (64, 96, "ours.safetensors")
    with pytest.raises(UserError, match=r"ours\.safetensors: of 90 classes and the data has 3"):
        faster_rcnn(out, classes=3)


def faster_rcnn_request(classes):
    from bench.spec import Request, Setting

    return Request(Setting("coco", classes, 800, 1333, "R50"), SCALES["paper"], classes)


def test_the_gaps_in_torchvisions_numbers_are_left_out_where_80_are_asked_for(published):
    state = torch.load(published, weights_only=True)
    found = adopt("torchvision", published, classes=80)
    real = [number for number in range(1, 91) if number not in GAPS]
    assert len(real) == 80
    scores, boxes = (found.regions.head.predictor.get_submodule(name).weight for name in ("cls_score", "bbox_pred"))
    theirs = [state[f"roi_heads.box_predictor.{name}.weight"] for name in ("cls_score", "bbox_pred")]
    for ours, number in enumerate([0, *real]):
        assert torch.equal(scores[ours], theirs[0][number])
        assert torch.equal(boxes[4 * ours : 4 * ours + 4], theirs[1][4 * number : 4 * number + 4])


def test_the_gaps_are_those_of_torchvisions_own_list():
    from torchvision.models._meta import _COCO_CATEGORIES

    assert [number for number, name in enumerate(_COCO_CATEGORIES) if name == "N/A"] == list(GAPS)


def test_the_backbone_alone_is_what_init_takes(leandet, published, tmp_path):
    out = tmp_path / "body.safetensors"
    code, said, err = leandet("adopt", "torchvision", published, out, "--backbone")
    assert code == 0, err
    assert f"--init {out}" in said
    detector = build_dense(faster_rcnn_request(3))
    load_backbone(detector, out)
    state = torch.load(published, weights_only=True)
    assert_same(
        dict(detector.backbone.state_dict()), {name[14:]: t for name, t in state.items() if name.startswith("backbone.body.")} | counters(out)
    )


def counters(path):
    return {name.removeprefix("backbone."): t for name, t in load_file(path).items() if name.endswith("num_batches_tracked")}


def test_detectron2s_stride_travels_with_its_weights(leandet, tmp_path):
    """No detector of ours that strides elsewhere takes them."""
    torch.manual_seed(0)
    state = {name: torch.rand(shape) * 0.01 for name, shape in recorded_shapes("detectron2").items()}
    torch.save({"model": state}, tmp_path / "d2.pth")
    code, _, err = leandet("adopt", "detectron2", tmp_path / "d2.pth", tmp_path / "ours.safetensors")
    assert code == 0, err
    found = faster_rcnn(tmp_path / "ours.safetensors")
    first = found.backbone.layer2[0]
    assert (first.conv1.stride[0], first.conv2.stride[0]) == (2, 1)
    with pytest.raises(UserError, match=MARK):
        load_source(build_dense(faster_rcnn_request(80)), tmp_path / "ours.safetensors")
    code, _, err = leandet("adopt", "detectron2", tmp_path / "d2.pth", tmp_path / "body.safetensors", "--backbone")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "adopt the whole detector" in err
    assert not (tmp_path / "body.safetensors").exists()


@pytest.mark.parametrize(
    ("library", "change", "named"),
    [
        ("torchvision", {"roi_heads.box_head.fc6.bias": None}, "regions.head.fc6.bias: missing"),
        ("torchvision", {"mask.weight": torch.zeros(1)}, "mask.weight: no tensor of torchvision"),
        ("torchvision", {"backbone.body.conv1.weight": torch.zeros(64, 1, 7, 7)}, "backbone.conv1.weight: has shape (64, 1, 7, 7)"),
        ("torchvision", {"roi_heads.box_predictor.cls_score.bias": torch.zeros(())}, "cls_score.bias: has shape ()"),
        ("torchvision", {"roi_heads.box_predictor.cls_score.bias": None}, "cls_score.bias: missing"),
        ("mmdet", {}, "no tensor of mmdet"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(leandet, published, tmp_path, library, change, named):  # noqa: PLR0917 - fixtures
    state = torch.load(published, weights_only=True) | change
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "odd.pth")
    code, _, err = leandet("adopt", library, tmp_path / "odd.pth", tmp_path / "ours.safetensors", "--classes", "90")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert f"{tmp_path / 'odd.pth'}: " in err
    assert named in err
    assert not (tmp_path / "ours.safetensors").exists()


def test_another_class_count_is_one_line(leandet, published, tmp_path):
    code, _, err = leandet("adopt", "torchvision", published, tmp_path / "ours.safetensors", "--classes", "20")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "it has 90 classes, and --classes says 20" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_is_adopted_is_measured_and_compressed(leandet, published, tmp_path):
    """At its own size: half a minute of multiply-adds."""
    ours, file = tmp_path / "ours.safetensors", tmp_path / "ours.lean"
    assert leandet("adopt", "torchvision", published, ours, "--classes", "80")[0] == 0
    name = f"python:{faster_rcnn.__module__}:faster_rcnn"
    code, out, err = leandet("measure", name, "--weights", ours, "--quick", "--threads", "1", "--size", "160x160", "--csv", "-")
    assert code == 0, err
    assert "faster-rcnn-ours" in out
    code, out, err = leandet("compress", ours, file, "--block", "backbone", "--sparsity", "0.3")
    assert code == 0, err
    assert_same(
        {name: t for name, t in read_compressed(file).items() if name.startswith("rpn.")},
        {n: t for n, t in load_file(ours).items() if n.startswith("rpn.")},
    )
