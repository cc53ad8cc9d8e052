"""The maps of published checkpoints against real state dicts of mmdet and detectron2, where these are installed: outputs equal to 1e-4."""

from __future__ import annotations

import importlib.util
import re

import pytest
import torch

from bench.adapters import build_adapted
from bench.scales import SCALES
from bench.spec import Request, Setting
from implementations.baselines.faster_rcnn import faster_rcnn_fpn
from implementations.compression.checkpoints import COUNTER, LAYOUTS, load_published, recorded_shapes
from implementations.layers.images import MEAN, STD

NAMES = {"mmdet": "faster-rcnn_r50_fpn_1x_coco", "detectron2": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"}
CLASSES = 80
pytestmark = pytest.mark.filterwarnings("ignore")  # of somebody else's packages


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed; nox -s {name} has it"))
        for name in NAMES
    ],
)
def pair(request):
    """(library, its model with norms that say something, ours with its weights)."""
    torch.set_num_threads(1)
    model = build_adapted(f"{request.param}:{NAMES[request.param]}").model
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
            elif name.endswith(("bn3.weight", "conv3.norm.weight")):
                tensor.uniform_(0.1, 0.3)
    ours = faster_rcnn_fpn(Request(Setting("coco", CLASSES, 800, 1333, "R50"), SCALES["paper"], CLASSES)).eval()
    load_published(ours, model.state_dict(), request.param)
    return request.param, model, ours


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_recorded_layout_is_that_of_the_library(pair):
    library, model, _ = pair
    dropped = LAYOUTS[library].dropped
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    each = (recorded_shapes(library), own)
    recorded, real = ({name: shape for name, shape in shapes.items() if not re.fullmatch(dropped, name)} for shapes in each)
    real = {name: shape for name, shape in real.items() if name in recorded or not name.endswith(COUNTER)}
    assert recorded == real


def test_pixels_give_the_same_maps_and_proposals(pair):
    library, model, ours = pair
    image = torch.rand(1, 3, 128, 160)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    mine = (image - mean) / std
    with torch.inference_mode():
        found = ours.features(mine)
        logits, deltas = ours.rpn.head(*found)
        if library == "mmdet":
            maps = list(model.extract_feat(mine))
            said = model.rpn_head(maps)
        else:
            given = model.preprocess_image([{"image": (255 * image[0]).flip(0)}]).tensor  # BGR in bytes' range
            maps = [model.backbone(given)[f"p{level}"] for level in range(2, 7)]
            said = model.proposal_generator.rpn_head(maps)
    for one, other in zip(found, maps, strict=True):
        close(one, other)
    close(logits, torch.cat([x.permute(0, 2, 3, 1).reshape(1, -1) for x in said[0]], 1))
    close(deltas, torch.cat([x.permute(0, 2, 3, 1).reshape(1, -1, 4) for x in said[1]], 1))


def test_features_of_a_region_give_the_same_answer(pair):
    library, model, ours = pair
    features = torch.randn(4, 256, 7, 7)
    with torch.inference_mode():
        output = ours.regions.head(features)
        if library == "mmdet":
            scores, boxes = model.roi_head.bbox_head(features)
        else:
            scores, boxes = model.roi_heads.box_predictor(model.roi_heads.box_head(features))
    close(output.scores, torch.cat((scores[:, -1:], scores[:, :-1]), 1))  # background is their last class
    close(output.deltas[:, 4:], boxes)
    assert not output.deltas[:, :4].any()
