"""The drawings of key parts against geometry worked out by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.types import UserError
from implementations.condensing import drawings
from implementations.condensing.model import CondensedHead, Condensing, Explanation
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
