"""Detectors of detectron2, where it is installed (nox -s detectron2): contract, its own answers and losses, files, costs, and mistakes."""

from __future__ import annotations

import csv
import importlib.util
import pickle
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import learns, measured, trained

from bench.adapters import build_adapted, find_adapter
from bench.contract import examine, photograph
from bench.meters.counted import count
from bench.meters.rois import count_rois, hold_rois
from bench.spec import CostRule
from bench.types import Target, Unavailable, UserError, detect
from implementations.adapters import zoo

CLASSES, SIZE = 3, (96, 128)
FASTER, RETINA = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "COCO-Detection/retinanet_R_50_FPN_1x.py"
QUICK = (FASTER, RETINA, "COCO-Detection/fcos_R_50_FPN_1x.py")
MORE = (
    "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py",
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
)
needed = pytest.mark.skipif(importlib.util.find_spec("detectron2") is None, reason="detectron2 is not installed; nox -s detectron2 has it")
pytestmark = pytest.mark.filterwarnings("ignore")  # of somebody else's packages


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def built(name, **wanted):
    return build_adapted(f"detectron2:{name}", **{"classes": CLASSES, "size": SIZE, "score": 0.0} | wanted)


@pytest.fixture(scope="module")
def faster():
    return built(FASTER)


@pytest.fixture(scope="module")
def retina():
    return built(RETINA)


def test_where_it_is_not_installed_the_next_step_is_said():
    assert "LEANDET_DETECTRON2" in find_adapter("detectron2").install


@needed
def test_every_model_of_the_zoo_has_a_name():
    names = find_adapter("detectron2").names()
    assert {FASTER, RETINA, "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"} <= set(names)
    assert not any(name.startswith(("common", "Base-", "quick_schedules")) for name in names)


@needed
def test_the_published_table_names_what_is_installed():
    """Each configuration of this version once; those that the adapter does not offer stand in it as refused."""
    head, columns, *rows = csv.reader((Path(zoo.__file__).with_name("detectron2_zoo.csv")).read_text().splitlines())
    assert f"detectron2 {metadata.version('detectron2')}" in head[1], "nox -s zoo publishes those of this version"
    assert tuple(columns) == zoo.HEAD
    wanted = dict(zoo.every_name("detectron2"))
    assert sorted(row[0] for row in rows) == sorted(wanted)
    assert {row[0]: row[-1] for row in rows if wanted[row[0]]} == {name: why for name, why in wanted.items() if why}
    assert {row[1] for row in rows} <= {zoo.BUILDS, zoo.REFUSED, zoo.FAILS}
    assert all(row[-1] for row in rows if row[1] != zoo.BUILDS)


@needed
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_its_detectors_keep_it(name):
    found = examine(built(name), CLASSES, SIZE)
    states = {each.rule: each.state for each in found}
    assert "broken" not in states.values(), [each for each in found if each.state == "broken"]
    assert ("losses reach every trainable parameter" in states) == (name in (*QUICK, *MORE[:2]))
    if name in QUICK:
        assert states["labels 0..C-1"] == states["boxes inside the image"] == "ok"


@needed
@pytest.mark.parametrize("name", [FASTER, RETINA])
def test_answers_are_those_of_its_own_forward(name, faster, retina):
    """Its own call on the picture as its mapper of datasets would give it: BGR in 0..255, resized by ResizeShortestEdge."""
    from detectron2.data.transforms import ResizeShortestEdge

    detector, image = {FASTER: faster, RETINA: retina}[name], photograph(90, 120)
    pixels = np.ascontiguousarray((image.flip(0) * 255).permute(1, 2, 0).numpy())
    resized = ResizeShortestEdge(96, 128).get_transform(pixels).apply_image(pixels)
    given = [{"image": torch.as_tensor(resized.transpose(2, 0, 1).copy()), "height": 90, "width": 120}]
    with torch.inference_mode():
        wanted = detector.model(given)[0]["instances"]
        raw = detector.network(detector.prepare([image]))
        found, again = (detector.finish(raw)[0] for _ in range(2))
    assert len(found.scores) > 0
    torch.testing.assert_close(found.scores, wanted.scores, atol=1e-6, rtol=0)
    assert torch.equal(found.labels, wanted.pred_classes)
    torch.testing.assert_close(found.boxes, wanted.pred_boxes.tensor, atol=1e-3, rtol=0)
    assert torch.equal(found.scores, again.scores)  # nothing of what the network said was changed
    assert torch.equal(found.boxes, again.boxes)


@needed
def test_losses_are_those_of_its_own_instances_and_crowds_are_left_out(retina):
    image, none = photograph(96, 128), torch.zeros(3, dtype=torch.bool)
    corners = torch.tensor([[10.0, 20, 50, 60], [0, 0, 120, 90], [5, 5, 30, 30]])
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    objects = Instances((96, 128), gt_boxes=Boxes(corners[:2].clone()), gt_classes=torch.tensor([0, 1]))
    retina.train()
    retina.model.__dict__.pop("loss_normalizer", None)  # a moving average of its own
    with torch.no_grad(), EventStorage(0):
        wanted = retina.model([{"image": image.flip(0) * 255, "instances": objects}])
        retina.model.__dict__.pop("loss_normalizer", None)
        found = retina([image], [Target(corners, torch.tensor([0, 1, 2]), torch.tensor([False, False, True]), none)])
    retina.eval()
    assert {name: float(loss) for name, loss in found.items()} == {name: pytest.approx(float(loss), rel=1e-5) for name, loss in wanted.items()}


@needed
def test_masks_are_needed_and_the_reason_is_said():
    with pytest.raises(Unavailable, match="learns from masks"):
        built("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")([], [])


@needed
def test_regions_can_be_held_equal():
    detector = built(FASTER)
    with torch.inference_mode():
        hold_rois(detector, 17)
        assert count_rois(detector.network(detector.prepare([photograph(96, 128)]))) == 17


@needed
def test_its_cost_is_that_of_ours_but_for_the_box_of_background():
    """With the step of a stage in the 3x3 as ours has it."""
    from bench.scales import SCALES
    from bench.spec import Request, Setting
    from implementations.adapters.detectron2 import build
    from implementations.baselines.faster_rcnn import faster_rcnn_fpn

    def stepping(config):
        config.MODEL.RESNETS.STRIDE_IN_1X1 = False

    from bench.adapters import Wanted

    detector = build(Wanted(FASTER, CLASSES, SIZE), change=stepping)
    with torch.device("meta"):
        ours = faster_rcnn_fpn(Request(Setting("", CLASSES, *SIZE, "R50"), SCALES["paper"], CLASSES))
    odd = count(detector.parts(100, 133), CostRule(scope="model"))  # a pyramid adds maps of the same sides, so that the input is padded
    found, wanted = (count(each.parts(128, 160), CostRule(scope="model")) for each in (detector, ours))
    assert odd.fixed.macs == found.fixed.macs == wanted.fixed.macs
    assert wanted.per_roi.macs - found.per_roi.macs == 4 * 1024


@needed
def test_a_file_of_weights_says_itself_how_many_classes_it_is_of(retina, tmp_path):
    older = {"pixel_mean": torch.zeros(3, 1, 1), "anchor_generator.cell_anchors.0": torch.zeros(9, 4)}  # what older files keep
    torch.save({"model": retina.model.state_dict() | older}, tmp_path / "mine.pth")
    again = built(RETINA, classes=None, weights=tmp_path / "mine.pth")
    assert again.model.num_classes == CLASSES
    image = photograph(*SIZE)
    with torch.inference_mode():
        assert torch.equal(detect(again, [image])[0].scores, detect(retina, [image])[0].scores)
    for name, wanted, said in (
        (RETINA, {"classes": 7}, "of 3 classes and the data has 7"),
        (FASTER, {}, "a checkpoint of another model than detectron2's COCO-Detection/faster_rcnn"),
    ):
        with pytest.raises(UserError, match=said) as error:
            built(name, weights=tmp_path / "mine.pth", **wanted)
        assert "\n" not in str(error.value)


@needed
def test_the_zoos_own_pickles_and_its_trainers_checkpoints_are_read(retina, tmp_path):
    """As its zoo publishes them, arrays of numpy; and as its own checkpointer saves them beside an optimizer and a schedule."""
    from detectron2.checkpoint import DetectionCheckpointer

    arrays = {name: tensor.numpy() for name, tensor in retina.model.state_dict().items()}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    optimizer = torch.optim.SGD(retina.model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    DetectionCheckpointer(retina.model, str(tmp_path), optimizer=optimizer, scheduler=schedule).save("model_0000009", iteration=9)
    with torch.inference_mode():
        (wanted,) = detect(retina, [photograph(*SIZE)])
        assert len(wanted.scores) > 0
        for file in ("model_final.pkl", "model_0000009.pth"):
            (found,) = detect(built(RETINA, classes=None, weights=tmp_path / file), [photograph(*SIZE)])
            assert torch.equal(found.scores, wanted.scores), file
            assert torch.equal(found.boxes, wanted.boxes), file


# ---- through the command line


@needed
def test_it_trains_in_leandets_own_loop(monkeypatch, capsys, tmp_path):
    stored, _ = trained(monkeypatch, capsys, tmp_path, f"detectron2:{FASTER}")
    learns(stored)


@needed
def test_one_that_learns_from_masks_says_so_in_its_record(monkeypatch, capsys, tmp_path):
    stored, out = trained(monkeypatch, capsys, tmp_path, "detectron2:COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    assert stored.record.status == "skipped"
    assert "learns from masks" in stored.record.reason
    assert "learns from masks" in out


@needed
def test_its_measures_are_a_row_of_the_leaderboard(faster, monkeypatch, capsys, tmp_path):
    row = measured(monkeypatch, capsys, tmp_path, f"detectron2:{FASTER}")
    assert row["status"] == "counted, not run"
    assert float(row["macs_g"]) > 0
    assert float(row["params_m"]) > sum(parameter.numel() for parameter in faster.model.backbone.parameters()) / 1e6


# ---- mistakes


@needed
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_2x.yaml", "did you mean COCO-Detection/faster_rcnn_R_50_FPN"),
        ("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml", "reads them from a file; name a Faster R-CNN"),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", "gives no boxes of classes; name a detector"),
        ("Misc/semantic_R_50_FPN_1x.yaml", "gives no boxes of classes"),
        ("Misc/torchvision_imagenet_R_50.py", "gives no boxes of classes|does not say how many classes"),
        ("Misc/mmdet_mask_rcnn_R_50_FPN_1x.py", "needs a package that is not here|does not say how many classes"),
    ],
)
def test_what_cannot_be_built_says_why_in_one_line(name, said):
    with pytest.raises(UserError, match=said) as error:
        built(name)
    assert "\n" not in str(error.value)
