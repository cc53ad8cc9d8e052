"""MimicDet's anchors: one a position, what each is to learn by a slow reference written from section 3.2, and that objects have enough of them."""

from __future__ import annotations

import math
import random

import pytest
import torch

from bench.datasets import open_split, parse_data
from bench.scales import SCALES
from bench.types import Batch
from implementations.layers.images import padded, resized
from implementations.layers.matching import Matches
from implementations.layers.targets import Truth, collate
from implementations.mimicdet.labels import AnchorGrid, Ranges, anchor_grid, assign, inside_image, levels_of
from implementations.mimicdet.model import ranges_at

STRIDES = Ranges().strides


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def grids(height, width):
    return tuple((math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES)


def truth(*images, crowd=()):
    """Ground truth of a batch from lists of boxes; `crowd` holds (image, place) of crowd regions."""
    most = max(1, *(len(boxes) for boxes in images))
    boxes, labels = torch.zeros(len(images), most, 4), torch.zeros(len(images), most, dtype=torch.int64)
    regions = torch.zeros(len(images), most, dtype=torch.bool)
    for i, given in enumerate(images):
        for j, box in enumerate(given):
            boxes[i, j], labels[i, j] = torch.tensor(box), 1 + j % 3
    for at in crowd:
        regions[at] = True
    return Truth(boxes, labels, (labels > 0) & ~regions, regions, tuple(range(len(images))))


# ---- anchors


@pytest.mark.parametrize(("size", "count"), [((800, 1333), 22_300), ((800, 1344), 22_400)])
def test_one_anchor_a_position(size, count):
    anchors = anchor_grid(grids(*size), Ranges(), "cpu")
    assert anchors.boxes.shape == (count, 4)
    assert [int((anchors.level == i).sum()) for i in range(5)] == [h * w for h, w in grids(*size)]


def test_of_the_padded_positions_those_of_the_image_count():
    anchors = anchor_grid(grids(800, 1344), Ranges(), "cpu")
    assert int(inside_image(anchors, torch.tensor([[800.0, 1333.0]])).sum()) == 22_300


def test_anchors_are_squares_of_32_to_512_at_their_strides():
    anchors = anchor_grid(grids(256, 256), Ranges(), "cpu")
    sides = anchors.boxes[:, 2:] - anchors.boxes[:, :2]
    assert (sides == torch.tensor([32.0, 64, 128, 256, 512])[anchors.level][:, None]).all()
    assert anchors.centres[:3].tolist() == [[0, 0], [8, 0], [16, 0]]
    assert anchors.centres[anchors.level == 4].tolist() == [[0, 0], [128, 0], [0, 128], [128, 128]]


def test_the_anchor_grid_is_made_for_training_even_where_testing_asked_first():
    with torch.inference_mode():
        found = anchor_grid(((3, 5), (2, 3), (1, 2), (1, 1), (1, 1)), Ranges(central=0.31), "cpu")
    assert isinstance(found, AnchorGrid)
    assert not found.boxes.is_inference()


# ---- labels


def slow_labels(boxes, size, ranges):
    """Section 3.2 word by word, for one image: anchor -> place of its object, or None. An anchor in two positive areas goes to the smaller box."""
    answers = []
    for level, stride in enumerate(ranges.strides):
        low, high = ranges.basic[level] * ranges.eta[0], ranges.basic[level] * ranges.eta[1]
        for row in range(math.ceil(size[0] / stride)):
            for column in range(math.ceil(size[1] / stride)):
                wanted = []
                for place, (x1, y1, x2, y2) in enumerate(boxes):
                    scale = math.sqrt((x2 - x1) * (y2 - y1))
                    valid = low <= scale <= high
                    valid = valid or (level == 0 and scale < ranges.basic[0] * ranges.eta[0])
                    valid = valid or (level == len(ranges.strides) - 1 and scale > ranges.basic[-1] * ranges.eta[1])
                    across = abs(column * stride - (x1 + x2) / 2) <= ranges.central * (x2 - x1) / 2
                    down = abs(row * stride - (y1 + y2) / 2) <= ranges.central * (y2 - y1) / 2
                    if valid and across and down:
                        wanted.append(((x2 - x1) * (y2 - y1), place))
                answers.append(min(wanted)[1] if wanted else None)
    return answers


def drawn_boxes(seed, count, size):
    rng = random.Random(seed)
    boxes = []
    for _ in range(count):
        w, h = (math.exp(rng.uniform(math.log(6), math.log(side))) for side in (size[1], size[0]))
        x, y = rng.uniform(0, size[1] - w), rng.uniform(0, size[0] - h)
        boxes.append([round(v * 64) / 64 for v in (x, y, x + w, y + h)])  # exact in float32
    return boxes


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ranges", [Ranges(), ranges_at(0.32), Ranges(eta=(0.8, 2.5), central=0.5)], ids=["paper", "proxy", "wide"])
def test_labels_are_those_of_the_text(seed, ranges):
    size = (352, 416)
    images = [drawn_boxes(10 * seed + i, count, size) for i, count in enumerate((7, 1, 12))]
    sizes = torch.tensor([[352.0, 416.0]] * 3)
    found = assign(anchor_grid(grids(*size), ranges, "cpu"), truth(*images), sizes, ranges)
    for label, index, boxes in zip(found.label.tolist(), found.index.tolist(), images, strict=True):
        ours = [place if one == 1 else None for one, place in zip(label, index, strict=True)]
        assert ours == slow_labels(boxes, size, ranges)
    assert set(found.label.unique().tolist()) == {0, 1}


def test_an_object_on_the_border_of_two_ranges_is_learnt_on_both():
    """64 px is both the end of P3's range and the start of P4's; both ends belong."""
    scale = torch.tensor([10.0, 32, 63, 64, 65, 1024, 5000])
    wanted = [{0}, {0}, {0}, {0, 1}, {1}, {4}, {4}]
    assert [set(row.nonzero()[:, 0].tolist()) for row in levels_of(scale, Ranges())] == wanted


def test_objects_outside_all_ranges_go_to_the_ends():
    found = labels_of([[24.0, 24, 34, 34]], [[-1244.0, -1244, 1756, 1756]], size=(512, 512))
    small, large = (found.label[i] == 1 for i in (0, 1))
    anchors = anchor_grid(grids(512, 512), Ranges(), "cpu")
    assert anchors.level[large].unique().tolist() == [4]
    assert small.sum() == 0  # its positive area, 27.5 to 30.5, holds no multiple of 8
    assert labels_of([[27.0, 27, 37, 37]], size=(512, 512)).label.sum() == 1  # 30.5 to 33.5 holds 32


def labels_of(*images, size, crowd=()) -> Matches:
    anchors = anchor_grid(grids(*size), Ranges(), "cpu")
    return assign(anchors, truth(*images, crowd=crowd), torch.tensor([[float(side) for side in size]] * len(images)), Ranges())


def test_the_smaller_of_two_objects_has_the_anchor():
    big, little = [0.0, 0, 60, 60], [16.0, 16, 49, 49]
    for boxes in ([big, little], [little, big]):
        found = labels_of(boxes, size=(64, 64))
        centre = 4 * 8 + 4  # (32, 32) on P3, in both positive areas
        assert boxes[int(found.index[0, centre])] == little


def test_crowds_and_padding_are_neither():
    found = labels_of([[0.0, 0, 128, 128], [40.0, 40, 88, 88]], size=(256, 256), crowd=[(0, 0)])
    anchors = anchor_grid(grids(256, 256), Ranges(), "cpu")
    drowned = (anchors.centres <= 128).all(1)
    assert (found.label[0][~drowned] == 0).all()
    assert set(found.label[0][drowned].tolist()) == {-1, 1}
    cut = assign(anchors, truth([]), torch.tensor([[100.0, 256.0]]), Ranges())
    assert ((cut.label[0] == -1) == (anchors.centres[:, 1] >= 100)).all()


def test_objects_of_no_extent_label_nothing():
    """The first lies on an anchor's centre; no offsets mean it, their logarithm would be infinite."""
    found = labels_of([[32.0, 32, 32, 32], [30.0, 50, 20, 40], [16.0, 0, 16, 60]], size=(64, 64))
    assert found.label.unique().tolist() == [0]


# ---- enough positives


def coverage(targets, min_px, data_size=(128, 128)):
    """Share 0..1 of the objects that some anchor stands for at the proxy tier, and the mean number of their anchors."""
    scale = SCALES["proxy"]
    inside = resized(data_size, round(scale.pixels(min_px)), 10_000)
    canvas = tuple(padded(side) for side in inside)
    batch = Batch(torch.empty(0, 3, *canvas), (inside,) * len(targets), (data_size,) * len(targets))
    objects, ranges = collate(targets, batch), ranges_at(scale.size)
    anchors = anchor_grid(grids(*canvas), ranges, "cpu")
    met = anchors_count = 0
    for g in range(objects.boxes.shape[1]):  # each object alone: another may not take its only anchor from it
        alone = Truth(
            objects.boxes[:, g : g + 1], objects.labels[:, g : g + 1], objects.valid[:, g : g + 1], objects.crowd[:, g : g + 1], objects.seeds
        )
        found = (assign(anchors, alone, torch.tensor([inside] * len(targets)), ranges).label == 1).sum(1)
        met, anchors_count = met + int((found > 0).sum()), anchors_count + int(found.sum())
    return met / int(objects.valid.sum()), anchors_count / int(objects.valid.sum())


@pytest.mark.parametrize("data", ["scenes-v1", "scenes-v1-crowded"])
def test_objects_have_a_positive_anchor(data):
    scenes = open_split(parse_data(data), "train")
    share, each = coverage([scenes.target(i) for i in range(200)], 800)
    assert share >= 0.95
    assert 1.5 < each < 6  # an object of the paper's ranges has 1.4 to 5.8


def test_smaller_images_lose_small_objects_as_the_papers_do():
    """S_l does not follow the image: at 400 px objects are half as large, so more of them fall between the positions of P3."""
    scenes = open_split(parse_data("scenes-v1"), "train")
    shares = [coverage([scenes.target(i) for i in range(200)], side)[0] for side in (400, 600, 800)]
    assert shares == pytest.approx([0.836, 0.940, 0.98], abs=0.005)


def test_at_proxy_size_an_object_of_its_level_still_holds_a_position():
    for size in (0.107, 0.32, 0.4, 1.0):
        ranges = ranges_at(size)
        assert ranges.strides == STRIDES
        for side, stride in zip(ranges.basic, ranges.strides, strict=True):
            assert ranges.central * side * ranges.eta[0] == pytest.approx(1.2 * stride)  # the paper's own 0.3 x 4 strides
    assert ranges_at(1.0) == Ranges()
