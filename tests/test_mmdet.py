"""Detectors of mmdet, where it is installed (nox -s mmdet): the contract, mmdet's own answers and losses, files, costs, and what a mistake says."""

from __future__ import annotations

import csv
import importlib.util
import pickle
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import learns, measured, trained

from bench.adapters import Wanted, build_adapted, find_adapter, known_name
from bench.contract import examine, photograph
from bench.meters.counted import count
from bench.meters.rois import count_rois, hold_rois
from bench.spec import CostRule
from bench.types import Target, Unavailable, UserError, detect
from implementations.adapters import mmdet as adapter
from implementations.adapters import zoo
from implementations.adapters.mmdet_configs import GAP, own_classes, pipeline_steps, read_config, whole

CLASSES, SIZE = 3, (96, 128)
QUICK = ("faster-rcnn_r50_fpn_1x_coco", "cascade-rcnn_r50_fpn_1x_coco", "retinanet_r18_fpn_1x_coco", "yolox_tiny_8xb8-300e_coco", "ssd300_coco")
MORE = (
    "atss_r50_fpn_1x_coco",
    "centernet_r18_8xb16-crop512-140e_coco",
    "conditional-detr_r50_8xb2-50e_coco",
    "deformable-detr_r50_16xb2-50e_coco",
    "double-heads_faster-rcnn_r50_fpn_1x_coco",
    "faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco",
    "fcos_r50-caffe_fpn_gn-head_1x_coco",
    "gfl_r50_fpn_1x_coco",
    "mask-rcnn_r50_fpn_1x_coco",
    "rtmdet_tiny_8xb32-300e_coco",
    "sparse-rcnn_r50_fpn_1x_coco",
    "yolov3_d53_8xb8-320-273e_coco",
)
needed = pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="mmdet is not installed; nox -s mmdet has it")
pytestmark = pytest.mark.filterwarnings("ignore")  # of somebody else's packages


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def built(name, **wanted):
    return build_adapted(f"mmdet:{name}", **{"classes": CLASSES, "size": SIZE, "score": 0.0} | wanted)


@pytest.fixture(scope="module")
def faster():
    return built("faster-rcnn_r50_fpn_1x_coco")


@pytest.fixture(scope="module")
def retina():
    return built("retinanet_r18_fpn_1x_coco")


def target(image, *corners, crowd=()):
    crowds = torch.tensor([place in crowd for place in range(len(corners))])
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    return Target(boxes, torch.arange(len(corners)) % CLASSES, crowds, torch.zeros_like(crowds), seed=int(image[0, 0, 0] * 100))


# ---- what can be said without it


def test_where_it_is_not_installed_the_next_step_is_said():
    lacking = replace(find_adapter("mmdet"), needs=("mmdet", "nonesuch"))
    assert lacking.unfit().endswith("not installed")
    assert "nox -s mmdet" in lacking.install
    assert [whole(side) for side in (1, 47, 49, 800, 1333)] == [GAP, 32, 64, 800, 1344]


@needed
def test_a_version_that_is_too_new_is_said(monkeypatch):
    monkeypatch.setattr("bench.adapters.installed", lambda package: {"mmcv": "2.2.0"}.get(package, "3.3.0" if package == "mmdet" else "0.10.7"))
    with pytest.raises(UserError, match=r"mmcv 2\.2\.0 is installed; allowed: from 2\.0 to below 2\.2; next: nox -s mmdet"):
        known_name("mmdet:faster-rcnn_r50_fpn_1x_coco")


# ---- the contract


@needed
def test_every_configuration_of_the_wheel_has_a_name():
    names = find_adapter("mmdet").names()
    assert len(names) > 700
    assert {"faster-rcnn_r50_fpn_1x_coco", "yolox_s_8xb8-300e_coco", "dino-4scale_r50_8xb2-12e_coco"} <= set(names)
    assert not any("tracker" in name or "bytetrack" in name for name in names)


@needed
def test_the_published_table_names_what_is_installed():
    """Each configuration of this version once; those that the adapter does not offer stand in it as refused."""
    head, columns, *rows = csv.reader((Path(zoo.__file__).with_name("mmdet_zoo.csv")).read_text().splitlines())
    assert f"mmdet {metadata.version('mmdet')}" in head[1], "nox -s zoo publishes those of this version"
    assert tuple(columns) == zoo.HEAD
    wanted = dict(zoo.every_name("mmdet"))
    assert sorted(row[0] for row in rows) == sorted(wanted)
    assert {row[0]: row[-1] for row in rows if wanted[row[0]]} == {name: why for name, why in wanted.items() if why}
    assert {row[1] for row in rows} <= {zoo.BUILDS, zoo.REFUSED, zoo.FAILS}
    assert all(row[-1] for row in rows if row[1] != zoo.BUILDS)


@needed
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_its_detectors_keep_it(name):
    found = examine(built(name, size=None if "ssd" in name else SIZE), CLASSES, SIZE)
    states = {each.rule: each.state for each in found}
    assert "broken" not in states.values(), [each for each in found if each.state == "broken"]
    assert states["labels 0..C-1"] == states["boxes inside the image"] == "ok"
    assert ("losses reach every trainable parameter" in states) == ("mask" not in name)


@needed
def test_answers_and_losses_are_those_of_its_own_predict_and_loss(retina):
    """The same images and objects through mmdet's own transforms, put together here."""
    from mmdet.structures.bbox import HorizontalBoxes

    image = photograph(90, 120)
    corners = [[10.0, 20, 50, 60], [0, 0, 120, 90], [5, 5, 30, 30]]
    shape = {"img_shape": (90, 120), "ori_shape": (90, 120), "img_id": 0, "img_path": "", "scale_factor": (1.0, 1.0)}
    truth = {
        "gt_bboxes": HorizontalBoxes(corners),
        "gt_bboxes_labels": torch.tensor([0, 1, 2]).numpy(),
        "gt_ignore_flags": torch.tensor([False, False, True]).numpy(),
    }
    pixels = (image.flip(0) * 255).permute(1, 2, 0).numpy()  # BGR
    packed = retina.pipeline({"img": pixels.copy(), **shape, **truth})
    assert packed["data_samples"].gt_instances.bboxes.tensor[1].tolist() == pytest.approx([0, 0, 128, 96])
    data = retina.model.data_preprocessor({"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]})
    with torch.no_grad():
        (wanted,) = retina.model.predict(data["inputs"], data["data_samples"], rescale=True)
        (found,) = detect(retina, [image])
        losses = retina.model.loss(data["inputs"], data["data_samples"])
        given = retina([image], [target(image, *corners, crowd={2})])
    order = wanted.pred_instances.scores.argsort(descending=True, stable=True)
    assert torch.equal(found.scores, wanted.pred_instances.scores[order])
    assert torch.equal(found.labels, wanted.pred_instances.labels[order])
    inside = wanted.pred_instances.bboxes[order].clamp(min=0).minimum(torch.tensor([120.0, 90, 120, 90]))
    torch.testing.assert_close(found.boxes, inside, atol=1e-3, rtol=0)
    assert {name: float(loss) for name, loss in given.items()} == {name: pytest.approx(float(sum(each))) for name, each in losses.items()}


@needed
def test_colours_come_in_the_order_that_it_reads_files_in(retina):
    red = torch.zeros(3, 96, 128)
    red[0] = 1
    pixels = retina.prepare([red]).pixels[0, :, 40, 40]
    wanted = [(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375]  # its configuration's own mean and deviation, RGB
    assert pixels.tolist() == pytest.approx(wanted, rel=1e-5)


@needed
def test_resizing_is_its_own_and_bytes_where_it_takes_nothing_else(faster):
    batch = faster.prepare([photograph(75, 100)])
    assert batch.sizes == ((96, 128),)
    assert tuple(batch.pixels.shape[-2:]) == (96, 128)
    steps = pipeline_steps(
        "x", {"test_dataloader": {"pipeline": [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (640, 640)}]}}, (96, 200)
    )
    assert steps == [{"type": "Resize", "scale": (192, 96)}]  # a fixed input: width, height


@needed
def test_masks_are_needed_and_the_reason_is_said():
    with pytest.raises(Unavailable, match="learns from masks"):
        built("mask-rcnn_r50_fpn_1x_coco")([], [])


@needed
def test_regions_can_be_held_equal(faster):
    detector = built("faster-rcnn_r50_fpn_1x_coco")
    with torch.inference_mode():
        hold_rois(detector, 17)
        assert count_rois(detector.network(detector.prepare([photograph(96, 128)]))) == 17
        assert len(detect(faster, [photograph(96, 128)])[0].scores) > 0
    with pytest.raises(UserError, match="no proposals"):
        built("retinanet_r18_fpn_1x_coco").propose([], None)


@needed
def test_its_cost_is_that_of_ours_but_for_the_box_of_background(faster):
    from bench.scales import SCALES
    from bench.spec import Request, Setting
    from implementations.baselines.faster_rcnn import faster_rcnn_fpn

    with torch.device("meta"):
        ours = faster_rcnn_fpn(Request(Setting("", CLASSES, *SIZE, "R50"), SCALES["paper"], CLASSES))
    found, wanted = (count(detector.parts(128, 160), CostRule(scope="model")) for detector in (faster, ours))
    assert found.fixed.macs == wanted.fixed.macs
    assert wanted.per_roi.macs - found.per_roi.macs == 4 * 1024  # mmdet's box layer has no row for background
    assert found.total.unknown == ()


# ---- files


@needed
def test_a_file_of_weights_says_itself_how_many_classes_it_is_of(retina, tmp_path):
    torch.save({"state_dict": retina.model.state_dict(), "meta": {"epoch": 1}}, tmp_path / "mine.pth")
    again = built("retinanet_r18_fpn_1x_coco", classes=None, weights=tmp_path / "mine.pth")
    assert again.weights_from == "mine.pth"
    assert again.model.bbox_head.num_classes == CLASSES
    image = photograph(*SIZE)
    with torch.inference_mode():
        assert torch.equal(detect(again, [image])[0].scores, detect(retina, [image])[0].scores)
    torch.save(retina.state_dict(), tmp_path / "ours.pth")  # as leandet's training leaves it
    built("retinanet_r18_fpn_1x_coco", weights=tmp_path / "ours.pth")
    for name, wanted, said in (
        ("retinanet_r18_fpn_1x_coco", {"classes": 7}, "of 3 classes and the data has 7"),
        ("faster-rcnn_r50_fpn_1x_coco", {}, "a checkpoint of another model than mmdet's faster-rcnn_r50_fpn_1x_coco"),
    ):
        with pytest.raises(UserError, match=said) as error:
            built(name, weights=tmp_path / "mine.pth", **wanted)
        assert "\n" not in str(error.value)


@needed
def test_a_checkpoint_of_mmengines_runner_is_read_as_it_is(retina, tmp_path):
    """Its message hub's histories, numpy's numbers, and the state of its optimizer, as its hook saves them."""
    from mmengine.logging import MessageHub
    from mmengine.runner.checkpoint import save_checkpoint, weights_to_cpu

    hub = MessageHub.get_instance("leandet")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("lr", np.float64(0.01))
    optimizer = torch.optim.SGD(retina.model.parameters(), lr=0.01, momentum=0.9)
    meta = {"epoch": 1, "iter": 7, "dataset_meta": {"classes": ("a", "b", "c")}, "mmengine_version": "0.10.7"}
    kept = {
        "meta": meta,
        "state_dict": weights_to_cpu(retina.model.state_dict()),
        "message_hub": hub.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    save_checkpoint(kept, str(tmp_path / "epoch_1.pth"))
    with pytest.raises(pickle.UnpicklingError):  # so that this file shows something
        torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    again = built("retinanet_r18_fpn_1x_coco", classes=None, weights=tmp_path / "epoch_1.pth")
    with torch.inference_mode():
        found, wanted = (detect(each, [photograph(*SIZE)])[0] for each in (again, retina))
    assert len(wanted.scores) > 0
    assert torch.equal(found.scores, wanted.scores)
    assert torch.equal(found.boxes, wanted.boxes)


@needed
def test_what_several_levels_share_is_kept_and_comes_back(tmp_path):
    """RTMDet shares its heads' convolutions between levels, which safetensors refuses to keep as one tensor of two names."""
    from safetensors.torch import save_file

    first = built("rtmdet_tiny_8xb32-300e_coco")
    assert len(list(first.parameters())) < len([name for name, _ in first.named_parameters(remove_duplicate=False)])
    save_file(first.state_dict(), tmp_path / "weights.safetensors")
    again = built("rtmdet_tiny_8xb32-300e_coco", weights=tmp_path / "weights.safetensors")
    for (name, one), other in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@needed
def test_under_autocast_heads_decode_and_learn_in_float32(faster, retina):
    """As leandet trains and scores where the processor has bfloat16, which mmcv's operators do not take; the network itself stays in it."""
    image = photograph(*SIZE)
    for detector in (faster, retina):
        with torch.inference_mode():
            (wanted,) = detect(detector, [image])
            with torch.autocast("cpu", torch.bfloat16):
                (found,) = detect(detector, [image])
        assert len(found.scores) > 0
        assert float((found.scores[:5] - wanted.scores[:5]).abs().max()) < 0.05
        assert not torch.equal(found.scores[:5], wanted.scores[:5])
        with torch.autocast("cpu", torch.bfloat16):
            losses = detector([image], [target(image, [10.0, 20, 50, 60], [0, 0, 120, 90])])
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        assert all(bool(torch.isfinite(loss)) for loss in losses.values())
        assert not {"predict_by_feat", "loss_by_feat"} & {name for module in detector.model.modules() for name in module.__dict__}


# ---- through the command line


@needed
def test_it_trains_in_leandets_own_loop(monkeypatch, capsys, tmp_path):
    stored, _ = trained(monkeypatch, capsys, tmp_path, "mmdet:retinanet_r18_fpn_1x_coco")
    learns(stored)


@needed
def test_one_that_learns_from_masks_says_so_in_its_record(monkeypatch, capsys, tmp_path):
    stored, out = trained(monkeypatch, capsys, tmp_path, "mmdet:mask-rcnn_r50_fpn_1x_coco")
    assert stored.record.status == "skipped"
    assert "learns from masks" in stored.record.reason
    assert "learns from masks" in out


@needed
def test_its_measures_are_a_row_of_the_leaderboard(retina, monkeypatch, capsys, tmp_path):
    row = measured(monkeypatch, capsys, tmp_path, "mmdet:retinanet_r18_fpn_1x_coco")
    assert row["status"] == "counted, not run"
    assert float(row["macs_g"]) > 0
    assert float(row["params_m"]) > sum(parameter.numel() for parameter in retina.model.backbone.parameters()) / 1e6


# ---- mistakes


@needed
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("faster-rcnn_r50_fpn_1x_cocoo", r"did you mean faster-rcnn_r50_fpn_1x_coco"),
        ("soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco", "unlabelled images"),
        ("lad_r50-paa-r101_fpn_2xb8_coco_1x", "teacher's checkpoint would have to be downloaded"),
        ("fast-rcnn_r50_fpn_1x_coco", "reads them from a file; name a Faster R-CNN"),
        ("rpn_r50_fpn_1x_coco", "gives proposals and no boxes"),
        ("glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365", "would need a download|needs|not installed"),
    ],
)
def test_what_cannot_be_built_says_why_in_one_line(name, said):
    with pytest.raises(UserError, match=said) as error:
        built(name, classes=None)
    assert "\n" not in str(error.value)


@needed
def test_no_configuration_keeps_what_would_be_fetched():
    from implementations.adapters.mmdet_configs import model_config

    config = read_config("faster-rcnn_r50_fpn_1x_coco")
    assert config.model.backbone.init_cfg.type == "Pretrained"
    described = model_config("faster-rcnn_r50_fpn_1x_coco", config, Wanted("", score=0.3), 7)
    assert described.backbone.init_cfg is None
    assert own_classes(described) == 7
    assert described.test_cfg.rcnn.score_thr == 0.3
    assert adapter.names() == find_adapter("mmdet").names()
