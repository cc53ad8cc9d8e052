"""Torchvision's detectors through their adapter: parameters, cost and answers are torchvision's own, and what their labels and files mean."""

from __future__ import annotations

import pytest
import torch
from noise import photographs
from torch import nn

from bench.adapters import Wanted, build_adapted, find_adapter
from bench.meters.counted import count
from bench.meters.params import count_params
from bench.spec import CostRule
from bench.types import Detector, Target, Unavailable, UserError, detect
from implementations.adapters.answers import DROPPED, shifted
from implementations.adapters.torchvision import TorchvisionDetector, build, names

WHOLE = CostRule(scope="model")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_every_detection_model_of_torchvision_is_known():
    assert len(names()) >= 12
    assert {"fasterrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16", "maskrcnn_resnet50_fpn"} <= set(names())
    assert find_adapter("torchvision").names() == names()


@pytest.mark.parametrize("name", names())
def test_parameters_are_those_that_torchvision_publishes(name):
    """It publishes some models with norms that it froze, whose scale and shift it then does not count."""
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    detector = TorchvisionDetector(model, Told(name))
    norms = sum(p.numel() for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters())
    assert detector.framework_params() == count_params(detector) == count_params(*(part.module for part in detector.parts(64, 64)))
    assert published in {detector.framework_params(), detector.framework_params() - norms}


def Told(name):  # noqa: N802 - stands for the class of that name
    from implementations.adapters.torchvision import Told as Real

    return Real(name, shifted(91), "random")


@pytest.mark.parametrize(("name", "side"), [("ssdlite320_mobilenet_v3_large", 320), ("ssd300_vgg16", 300)])
def test_multiply_adds_are_those_that_torchvision_publishes(name, side):
    """Its own counter, on the size that these two are fixed to; of the others it does not say the number of RoIs or the size."""
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
    assert count(TorchvisionDetector(model, Told(name)).parts(side, side), WHOLE).total.macs / 1e9 == pytest.approx(published, rel=2e-3)


def test_a_two_stage_models_cost_is_that_of_ours():
    """Ours has the same layers, counted apart: fixed and per RoI are equal to the last multiply-add."""
    from bench.scales import SCALES
    from bench.spec import Request, Setting
    from implementations.baselines.faster_rcnn import faster_rcnn_fpn

    with torch.device("meta"):
        theirs = build(Wanted("fasterrcnn_resnet50_fpn", classes=20))
        ours = faster_rcnn_fpn(Request(Setting("", 20, 800, 1333, "R50"), SCALES["paper"], 20))
    found, wanted = (count(detector.parts(800, 1333), WHOLE) for detector in (theirs, ours))
    assert (found.fixed.macs, found.per_roi.macs) == (wanted.fixed.macs, wanted.per_roi.macs)
    assert found.total.unknown == ()


@pytest.fixture(scope="module")
def small():
    return build_adapted("torchvision:ssdlite320_mobilenet_v3_large", classes=4, size=(96, 128), score=0.0)


def test_the_adapter_answers_as_torchvision_itself(small):
    """Its own forward, labels from 1, beside the three phases, labels from 0."""
    images = photographs((90, 128), (128, 70))
    with torch.inference_mode():
        wanted, found = small.model(images), detect(small, images)
    for mine, other in zip(found, wanted, strict=True):
        assert len(mine.scores) > 20
        assert torch.equal(mine.scores, other["scores"])
        assert torch.equal(mine.labels, other["labels"] - 1)
        torch.testing.assert_close(mine.boxes, other["boxes"], atol=1e-3, rtol=0)
    assert isinstance(small, Detector)
    assert small.prepare(images).sizes == ((96, 128), (96, 128))  # this model's input is fixed


def test_a_two_stage_model_answers_as_torchvision_itself_and_holds_rois():
    from bench.meters.rois import count_rois, hold_rois

    detector = build_adapted("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", classes=4, size=(96, 128), score=0.0)
    images = photographs((90, 128), (128, 70))
    with torch.inference_mode():
        wanted, found = detector.model(images), detect(detector, images)
        for mine, other in zip(found, wanted, strict=True):
            assert torch.equal(mine.scores, other["scores"])
            assert torch.equal(mine.labels, other["labels"] - 1)
        hold_rois(detector, 17)
        assert count_rois(detector.network(detector.prepare(images[:1]))) == 17


def test_background_of_one_stage_models_is_no_answer():
    detector = build_adapted("torchvision:retinanet_resnet50_fpn", classes=3, size=(64, 96), score=0.0)
    with torch.inference_mode():
        bias = detector.model.head.classification_head.cls_logits.bias.view(-1, 4)  # an anchor's outputs: background and three classes
        bias[:, 0], bias[:, 1:] = 9, 0
        (found,) = detect(detector, photographs((64, 96)))
    assert len(found.labels) > 50
    assert 0.3 < found.scores.max() < 0.9  # that of a class, not of background
    assert set(found.labels.tolist()) == {0, 1, 2}


def test_a_coco_checkpoint_speaks_of_80_classes_without_its_gaps(tmp_path):
    name = "ssdlite320_mobilenet_v3_large"
    state = build(Wanted(name)).model.state_dict()
    torch.save(state, tmp_path / "coco.pth")
    detector = build(Wanted(name, classes=80, weights=tmp_path / "coco.pth"))
    kept = [ours for ours in detector.told.label_map if ours != DROPPED]
    assert kept == list(range(80))
    assert detector.told.label_map[1] == 0  # person
    assert detector.told.label_map[12] == DROPPED  # a gap
    assert detector.told.label_map[90] == 79  # toothbrush
    assert detector.weights_from == "coco.pth"
    with pytest.raises(UserError, match=r"of 90 classes and the data has 7"):
        build(Wanted(name, classes=7, weights=tmp_path / "coco.pth"))


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn"])
def test_a_file_says_itself_how_many_classes_it_is_of(name, tmp_path):
    torch.save(build(Wanted(name, classes=7)).state_dict(), tmp_path / "mine.pth")  # as leandet's own training leaves it
    assert build(Wanted(name, weights=tmp_path / "mine.pth")).told.label_map == shifted(8)


def test_crowds_are_left_out_and_labels_find_their_way_back(small):
    target = Target(
        torch.tensor([[0.0, 0, 9, 9], [5, 5, 20, 20], [3, 3, 3, 9]]),
        torch.tensor([3, 0, 1]),
        torch.tensor([False, True, False]),
        torch.zeros(3).bool(),
    )
    given = small._truth(target)
    assert given["labels"].tolist() == [4]  # the crowd and the box without a width are gone
    assert given["boxes"].tolist() == [[0, 0, 9, 9]]


def test_masks_are_needed_and_the_reason_is_said():
    with torch.device("meta"):
        detector = build(Wanted("maskrcnn_resnet50_fpn", classes=3))
    with pytest.raises(Unavailable, match="learns from masks"):
        detector([], [])
