"""The drawings of key parts against geometry worked out by hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import UserError
from implementations.condensing import drawings
from implementations.condensing.model import CondensedHead, Condensing, Explanation, build_fpn
from implementations.layers.heads import HeadShape


def _explanation(peaks, side=7, length=3):
    """One RoI; each peak (row, column, confidence) is the only value of its map."""
    confidence = torch.zeros(1, len(peaks), side, side)
    for part, (row, column, value) in enumerate(peaks):
        confidence[0, part, row, column] = value
    positions = torch.tensor([[row * side + column for row, column, _ in peaks]])
    return Explanation(confidence, positions, torch.arange(length**2).float().view(1, length, length))


def test_cells_are_laid_over_the_box():
    """A box of 70 x 140 pixels at (10, 20): cells are 10 x 20; row 2, column 3 is (40, 60)-(50, 80)."""
    boxes = torch.tensor([[10.0, 20.0, 80.0, 160.0]])
    assert drawings.cells(boxes, torch.tensor([[0, 2 * 7 + 3, 48]]), 7).tolist() == [[[10, 20, 20, 40], [40, 60, 50, 80], [70, 140, 80, 160]]]


def test_views_keep_the_most_confident_parts_in_order():
    peaks = [(0, 0, 0.2), (1, 1, 0.9), (2, 2, 0.05), (3, 3, 0.5)]
    (view,) = drawings.views(_explanation(peaks), torch.tensor([[0.0, 0.0, 7.0, 7.0]]))
    assert view.parts.tolist() == [[1, 1, 2, 2], [3, 3, 4, 4], [0, 0, 1, 1]]  # 0.05 is not above 0.1
    torch.testing.assert_close(view.confidence, torch.tensor([0.9, 0.5, 0.2]))
    many = [(row, column, 0.2 + row / 20 + column / 200) for row in range(4) for column in range(4)]
    (view,) = drawings.views(_explanation(many), torch.tensor([[0.0, 0.0, 7.0, 7.0]]))
    assert len(view.parts) == 8
    assert view.parts[0].tolist() == [3, 3, 4, 4]


def test_activation_is_moved_to_the_unit_range():
    maps = torch.tensor([[[2.0, 4.0], [6.0, 10.0]], [[3.0, 3.0], [3.0, 3.0]]])
    assert drawings.unit_range(maps).tolist() == [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]]]


def test_drawing_shows_key_parts_left_and_heat_right(tmp_path):
    """On a grey image the key part's outline is yellow on the left half only; the right half is red at the hottest corner."""
    image = torch.full((3, 100, 100), 0.5)
    objects = drawings.views(_explanation([(3, 3, 0.9)]), torch.tensor([[15.0, 15.0, 85.0, 85.0]]))
    drawings.draw(image, objects, tmp_path / "parts.png")
    with Image.open(tmp_path / "parts.png") as opened:
        pixels = torch.from_numpy(np.asarray(opened.convert("RGB")).copy()).float()
    left, right = pixels.chunk(2, dim=1)

    def yellow(half):
        return ((half[..., 0] > 230) & (half[..., 1] > 230) & (half[..., 2] < 60)).sum().item()

    assert yellow(left) > 20
    assert yellow(right) == 0
    place = torch.nonzero((left[..., 0] > 230) & (left[..., 1] > 230) & (left[..., 2] < 60)).float().mean(dim=0) / torch.tensor(left.shape[:2])
    torch.testing.assert_close(place, torch.tensor([0.5, 0.5]), atol=0.03, rtol=0)  # the middle cell
    redness = right[..., 0] - right[..., 2]
    height, width = redness.shape
    assert redness[int(0.8 * height), int(0.8 * width)] > 60  # bottom right is the largest of 0..8
    assert redness[int(0.2 * height), int(0.2 * width)] < -30


def test_a_detector_without_condensed_head_is_named(tmp_path):
    with pytest.raises(UserError, match="condensed head"):
        drawings.draw_key_parts(torch.nn.Linear(1, 1), torch.zeros(3, 8, 8), tmp_path / "x.png")


def test_explanations_of_a_head_become_views():
    head = CondensedHead(HeadShape(64, 7, 3, 4, 32), Condensing(16, 5)).eval()
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [5.0, 5.0, 40.0, 30.0]])
    seen = drawings.views(head.explain(torch.randn(2, 64, 7, 7)), boxes)
    for view in seen:
        assert len(view.parts) == 8
        assert (view.parts[:, :2] >= view.box[:2] - 1e-4).all()
        assert (view.parts[:, 2:] <= view.box[2:] + 1e-4).all()
        assert view.activation.shape == (5, 5)


SETTING = Setting("voc07+12", 20, 600, 1000, "R50")


def test_explain_sees_the_features_of_the_boxes_as_given():
    """The boxes reach the pooling in the network's pixels: half of the image's here, as an image twice the size is halved."""
    torch.manual_seed(0)
    detector = build_fpn(Request(SETTING, SCALES["smoke"], 3), key_parts=4, length=3).eval()
    image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[10.0, 20.0, 90.0, 100.0], [0.0, 0.0, 60.0, 30.0]])
    with torch.no_grad():
        maps = detector.features(detector.prepare([image]).pixels)
        rois = torch.cat([torch.zeros(2, 1), boxes / 2], dim=1)
        wanted = detector.regions.head.explain(detector.regions.pool(maps, rois))
        told = drawings.explain(detector, image, boxes)
    torch.testing.assert_close(told.confidence, wanted.confidence)
    assert torch.equal(told.positions, wanted.positions)
    assert told.activation.shape == (2, 3, 3)


def test_a_real_photograph_is_drawn(tmp_path):
    """At score 0 even an untrained detector finds something in a photograph."""
    shared = Path(os.environ.get("LEANDET_SHARED", Path(__file__).parents[2] / "shared"))
    photographs = sorted((shared / "data" / "bccd" / "images").rglob("*.jpg"))
    if not photographs:
        pytest.skip("the BCCD photographs are not beside the repository")
    with Image.open(photographs[0]) as opened:
        image = torch.from_numpy(np.asarray(opened.convert("RGB")).copy()).permute(2, 0, 1) / 255
    torch.manual_seed(0)
    detector = build_fpn(Request(SETTING, SCALES["smoke"], 3)).eval()
    assert drawings.draw_key_parts(detector, image, tmp_path / "photograph.png", score=0.0) == 6
    assert drawings.draw_key_parts(detector, image, tmp_path / "empty.png", score=1.1) == 0
    for name in ("photograph.png", "empty.png"):
        with Image.open(tmp_path / name) as written:
            assert written.width > 1000
