"""Published state dicts load into ours: every tensor accounted for, torchvision's answers to 1e-4, the others by names, shapes and a way back."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import UserError
from implementations.baselines.faster_rcnn import faster_rcnn_fpn
from implementations.compression.checkpoints import LAYOUTS, converted, layout_of, load_published, our_name, read_checkpoint, recorded_shapes
from implementations.layers.images import MEAN, STD

CLASSES = 80


def ours(classes=CLASSES, tier="paper"):
    return faster_rcnn_fpn(Request(Setting("coco", classes, 800, 1333, "R50"), SCALES[tier], classes)).eval()


@pytest.fixture(scope="module")
def theirs():
    """torchvision's detector with random weights and norms that say something."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("bn3.weight"):
            tensor.uniform_(0.1, 0.3)
    return model


@pytest.fixture(scope="module")
def loaded(theirs):
    detector = ours()
    load_published(detector, theirs.state_dict(), "torchvision")
    return detector


def test_torchvisions_weights_give_torchvisions_answers(theirs, loaded):
    pixels = torch.randn(1, 3, 128, 160)
    with torch.inference_mode():
        wanted, found = list(theirs.backbone(pixels).values()), loaded.features(pixels)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        logits, deltas = theirs.rpn.head(wanted)
        mine = loaded.rpn.head(*found)
        flat = [torch.cat([x.permute(0, 2, 3, 1).reshape(1, -1) for x in each], 1) for each in (logits, deltas)]
        torch.testing.assert_close(mine[0], flat[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mine[1].reshape(1, -1), flat[1], atol=1e-4, rtol=1e-4)
        features = torch.randn(4, 256, 7, 7)
        scores, boxes = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(features))
        output = loaded.regions.head(features)
    torch.testing.assert_close(output.scores, scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.deltas, boxes, atol=1e-4, rtol=1e-4)


def test_older_names_and_another_epsilon_of_torchvision(theirs, loaded):
    """The published file has no ".0" in pyramid and proposals, no counters, and norms without epsilon."""
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    for new, old in (("rpn.head.conv.0.0.", "rpn.head.conv."), ("_blocks.0.0.", "_blocks.0."), ("_blocks.1.0.", "_blocks.1.")):
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    for key, tensor in converted(state, "torchvision", eps=0.0).items():
        want = loaded.state_dict()[key]
        assert torch.equal(tensor, want - 1e-5 if key.endswith("running_var") else want)


@pytest.mark.parametrize("library", ["detectron2", "mmdet"])
def test_every_recorded_tensor_has_one_place_and_every_place_one_tensor(library):
    shapes = recorded_shapes(library)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    named = [our_name(name, library) for name in shapes]
    kept = [name for name in named if name]
    assert None not in named
    assert len(set(kept)) == len(kept)
    with torch.device("meta"):
        own = ours().state_dict()
    missing = {name for name in own if name not in kept}
    assert all(name.endswith("num_batches_tracked") for name in missing)
    rows = 4  # of boxes of background, which they do not have
    for name, shape in shapes.items():
        place = our_name(name, library)
        if place:
            grown = (shape[0] + rows, *shape[1:]) if ".predictor.bbox_pred." in place else shape
            assert tuple(own[place].shape) == grown, name
    assert len(state) == {"detectron2": 300, "mmdet": 348}[library]


WORDS = {  # their part of a name -> ours, in this order; written apart from the map, from the module structure of each
    "mmdet": (
        ("neck.lateral_convs.", "neck.fpn.inner_blocks."),
        ("neck.fpn_convs.", "neck.fpn.layer_blocks."),
        *((f"_blocks.{level}.conv.", f"_blocks.{level}.0.") for level in range(4)),
        ("rpn_head.rpn_conv", "rpn.head.conv"),
        ("rpn_head.rpn_cls", "rpn.head.cls_logits"),
        ("rpn_head.rpn_reg", "rpn.head.bbox_pred"),
        ("roi_head.bbox_head.shared_fcs.0", "regions.head.fc6"),
        ("roi_head.bbox_head.shared_fcs.1", "regions.head.fc7"),
        ("roi_head.bbox_head.fc_cls", "regions.head.predictor.cls_score"),
        ("roi_head.bbox_head.fc_reg", "regions.head.predictor.bbox_pred"),
    ),
    "detectron2": (
        ("backbone.bottom_up.", "backbone."),
        ("stem.conv1.norm", "bn1"),
        ("stem.", ""),
        *((f"backbone.fpn_lateral{stage}", f"neck.fpn.inner_blocks.{stage - 2}.0") for stage in (2, 3, 4, 5)),
        *((f"backbone.fpn_output{stage}", f"neck.fpn.layer_blocks.{stage - 2}.0") for stage in (2, 3, 4, 5)),
        *((f"res{stage}.", f"layer{stage - 1}.") for stage in (2, 3, 4, 5)),
        ("shortcut.norm", "downsample.1"),
        ("shortcut", "downsample.0"),
        *((f".conv{place}.norm", f".bn{place}") for place in (1, 2, 3)),
        ("proposal_generator.rpn_head.objectness_logits", "rpn.head.cls_logits"),
        ("proposal_generator.rpn_head.anchor_deltas", "rpn.head.bbox_pred"),
        ("proposal_generator.rpn_head.conv", "rpn.head.conv"),
        ("roi_heads.box_head.fc1", "regions.head.fc6"),
        ("roi_heads.box_head.fc2", "regions.head.fc7"),
        ("roi_heads.box_predictor", "regions.head.predictor"),
    ),
}


def spelt(name, library):
    for theirs, mine in WORDS[library]:
        name = name.replace(theirs, mine)
    return name


def way_back(detector, library):
    """Our weights as the library would store them: background last and without a box."""
    state, out = detector.state_dict(), {}
    for name in recorded_shapes(library):
        if "cell_anchors" in name:
            out[name] = torch.zeros(3, 4)
            continue
        tensor = state[spelt(name, library)]
        if "cls_score" in spelt(name, library):
            tensor = torch.cat((tensor[1:], tensor[:1]))
        out[name] = tensor[4:] if "predictor.bbox_pred" in spelt(name, library) else tensor
    return out


@pytest.mark.parametrize("library", ["detectron2", "mmdet"])
def test_there_and_back_through_a_librarys_names(library, loaded):
    state = way_back(loaded, library)
    detector = ours()
    load_published(detector, state, library)
    own, wanted = detector.state_dict(), loaded.state_dict()
    for name, tensor in own.items():
        if name == "backbone.conv1.weight" and library == "detectron2":
            continue
        expected = wanted[name].clone()
        if "predictor.bbox_pred" in name:
            expected[:4] = 0
        assert torch.equal(tensor, expected), name
    first = detector.backbone.layer2[0]
    assert (first.conv1.stride[0], first.conv2.stride[0]) == ((2, 1) if library == "detectron2" else (1, 2))


def test_detectron2s_first_convolution_sees_its_own_pixels(loaded):
    """BGR in 0..255 less the mean, through their weights, is RGB normalised through ours."""
    weight = torch.randn(64, 3, 7, 7) * 0.01
    state = way_back(loaded, "detectron2") | {"backbone.bottom_up.stem.conv1.weight": weight}
    changed = converted(state, "detectron2")["backbone.conv1.weight"]
    image = torch.rand(1, 3, 40, 40)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    bgr = (255 * image - 255 * mean).flip(1)
    wanted = torch.nn.functional.conv2d(bgr, weight, stride=2, padding=3)
    torch.testing.assert_close(torch.nn.functional.conv2d((image - mean) / std, changed, stride=2, padding=3), wanted, atol=1e-3, rtol=1e-4)


def test_missing_surplus_and_other_counts_are_named(theirs):
    state = dict(theirs.state_dict())
    with torch.device("meta"):
        detector, few = ours(), ours(20)
    with pytest.raises(UserError, match="80 classes and the detector 20"):
        load_published(few, state, "torchvision")
    with pytest.raises(UserError, match=r"regions\.head\.fc6\.bias: missing"):
        load_published(detector, {name: t for name, t in state.items() if name != "roi_heads.box_head.fc6.bias"}, "torchvision")
    with pytest.raises(UserError, match=r"mask\.weight: no tensor of torchvision"):
        load_published(detector, state | {"mask.weight": torch.zeros(1)}, "torchvision")
    with pytest.raises(UserError, match="has shape"):
        load_published(detector, state | {"backbone.body.conv1.weight": torch.zeros(1)}, "torchvision")
    with pytest.raises(UserError, match="in torchvision's checkpoint and not in the detector"):
        load_published(detector, state | {"backbone.body.conv9.weight": torch.zeros(1)}, "torchvision")
    with pytest.raises(UserError, match="allowed: torchvision, detectron2, mmdet"):
        layout_of("keras")
    assert set(LAYOUTS) == {"torchvision", "detectron2", "mmdet"}


CLASS_BIAS = {"torchvision": "roi_heads.box_predictor.cls_score.bias", "detectron2": "roi_heads.box_predictor.cls_score.bias"}


@pytest.mark.parametrize("library", CLASS_BIAS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 2)])
def test_a_class_bias_that_tells_no_classes_is_named(theirs, loaded, library, shape):
    state = theirs.state_dict() if library == "torchvision" else way_back(loaded, library)
    with torch.device("meta"):
        detector = ours()
    with pytest.raises(UserError, match=r"cls_score\.bias: has shape"):
        load_published(detector, state | {CLASS_BIAS[library]: torch.zeros(shape)}, library)


@pytest.mark.parametrize("shape", [(64, 1, 7, 7), (64, 3), (64, 1), (64, 4, 7, 7), ()])
def test_a_first_convolution_of_another_shape_is_not_stretched(loaded, shape):
    state = way_back(loaded, "detectron2") | {"backbone.bottom_up.stem.conv1.weight": torch.zeros(shape)}
    with torch.device("meta"):
        detector = ours()
    for filled in (lambda: load_published(detector, state, "detectron2"), lambda: converted(state, "detectron2")):
        with pytest.raises(UserError, match=r"backbone\.conv1\.weight: has shape"):
            filled()


def test_what_is_no_such_detector_is_named_and_nothing_is_filled(theirs):
    state = theirs.state_dict()
    with pytest.raises(UserError, match=r"Linear: no Faster R-CNN R50-FPN"):
        load_published(torch.nn.Linear(2, 2), state, "torchvision")
    with torch.device("meta"):
        detector = ours()
    with pytest.raises(UserError, match=r"fc6\.bias: holds int64"):
        load_published(detector, state | {"roi_heads.box_head.fc6.bias": torch.zeros(1024, dtype=torch.int64)}, "torchvision")
    with pytest.raises(UserError, match=r"cls_score\.bias: missing"):
        load_published(detector, {name: t for name, t in state.items() if name != CLASS_BIAS["torchvision"]}, "torchvision")
    with pytest.raises(UserError, match="the same place under an older name"):
        load_published(detector, state | {"rpn.head.conv.bias": torch.zeros(256)}, "torchvision")


class Harmful:
    def __reduce__(self):
        return (print, ("ran",))


def test_files_are_read_without_running_them(tmp_path, capsys):
    (tmp_path / "good.pkl").write_bytes(pickle.dumps({"model": {"a": np.arange(3.0)}, "__author__": "x"}))
    assert read_checkpoint(tmp_path / "good.pkl")["a"].tolist() == [0, 1, 2]
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "good.pth")
    assert read_checkpoint(tmp_path / "good.pth")["a"].tolist() == [1, 1]
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": Harmful()}))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:200])
    (tmp_path / "none.pkl").write_bytes(pickle.dumps({"model": {}}))
    for name in ("bad.pkl", "cut.pth", "none.pkl", "missing.pth"):
        with pytest.raises(UserError, match=name) as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "ran" not in capsys.readouterr().out
