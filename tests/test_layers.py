"""The formulas that detectors share, against hand arithmetic and against slow references written from their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from bench.types import Batch, Target
from implementations.layers import images
from implementations.layers.anchors import Anchors, cell_anchors
from implementations.layers.boxes import clip, decode, encode, iou, large_enough
from implementations.layers.matching import Thresholds, match, matched
from implementations.layers.pooling import PyramidAlign
from implementations.layers.regions import with_objects
from implementations.layers.rpn import Proposals, best_of_levels
from implementations.layers.sampling import Quota, lots, sample
from implementations.layers.targets import Truth, collate

UNIT = (1.0, 1.0, 1.0, 1.0)
CPU = torch.device("cpu")


def random_boxes(count: int, generator: torch.Generator, side: float = 100.0) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=generator) * side
    return torch.cat((corner, corner + 2 + torch.rand(count, 2, generator=generator) * side), 1)


def truth_of(boxes: torch.Tensor, crowd: torch.Tensor | None = None) -> Truth:
    """One image's objects, all of class 1."""
    crowd = torch.zeros(len(boxes), dtype=torch.bool) if crowd is None else crowd
    return Truth(boxes[None], torch.ones(1, len(boxes), dtype=torch.int64), ~crowd[None], crowd[None], (0,))


def target_of(boxes: list[list[float]], *, seed: int = 0) -> Target:
    no = torch.zeros(len(boxes), dtype=torch.bool)
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.zeros(len(boxes), dtype=torch.int64), no, no, seed)


# boxes


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 0, 0]])
    b = torch.tensor([[5.0, 5, 15, 15], [20, 20, 30, 30], [0, 0, 10, 10], [0, 0, 0, 0]])
    assert iou(a, b)[0].tolist() == pytest.approx([25 / 175, 0, 1, 0])
    assert iou(a, b)[1].tolist() == [0, 0, 0, 0]


def test_encode_by_hand():
    reference = torch.tensor([10.0, 10, 30, 50])  # 20 wide, 40 high, centre 20 30
    box = torch.tensor([15.0, 20, 55, 60])  # 40 x 40, centre 35 40
    assert encode(box, reference, (10, 10, 5, 5)).tolist() == pytest.approx([10 * 15 / 20, 10 * 10 / 40, 5 * math.log(2), 0])


def test_decode_undoes_encode():
    generator = torch.Generator().manual_seed(1)
    boxes, references = random_boxes(500, generator), random_boxes(500, generator)
    for weights in (UNIT, (10.0, 10.0, 5.0, 5.0)):
        torch.testing.assert_close(decode(encode(boxes, references, weights), references, weights), boxes, atol=1e-3, rtol=1e-5)


def test_decode_bounds_growth():
    grown = decode(torch.tensor([[0.0, 0, 50, 50]]), torch.tensor([[0.0, 0, 16, 16]]), UNIT)
    assert (grown[0, 2:] - grown[0, :2]).tolist() == pytest.approx([1000, 1000], rel=1e-5)


def test_clip_and_least_side():
    boxes = clip(torch.tensor([[-5.0, -5, 50, 50], [40, 40, 60, 60]]), torch.tensor([30.0, 45]))
    assert boxes.tolist() == [[0, 0, 45, 30], [40, 30, 45, 30]]
    assert large_enough(boxes, 1e-3).tolist() == [True, False]


def test_clip_each_image_to_its_own_size():
    boxes = torch.tensor([[[0.0, 0, 99, 99]], [[0, 0, 99, 99]]])
    assert clip(boxes, torch.tensor([[10.0, 20], [30, 40]]).unsqueeze(1)).tolist() == [[[0, 0, 20, 10]], [[0, 0, 40, 30]]]


# anchors


def test_cell_anchors_by_hand():
    assert cell_anchors((32.0,), (1.0, 4.0)).tolist() == [[-16, -16, 16, 16], [-8, -32, 8, 32]]


def test_anchors_stand_at_every_cell_of_every_level():
    anchors = Anchors(((8.0,), (16.0,)), (1.0,))
    found = anchors(((2, 3), (1, 2)), (32, 48), CPU)
    centres = ((found[:, :2] + found[:, 2:]) / 2).tolist()
    assert centres == [[x, y] for y in (0, 16) for x in (0, 16, 32)] + [[0, 0], [24, 0]]
    assert (found[:, 2] - found[:, 0]).tolist() == [8] * 6 + [16] * 2
    assert anchors(((2, 3), (1, 2)), (32, 48), CPU) is found


# matching


def slow_match(candidates: torch.Tensor, truth: Truth, thresholds: Thresholds) -> tuple[list[int], list[int]]:
    """Faster R-CNN, section 3.1.2, candidate by candidate; the objects' own best candidates last, object by object."""
    objects = [g for g in range(truth.boxes.shape[1]) if truth.valid[0, g]]
    crowds = [g for g in range(truth.boxes.shape[1]) if truth.crowd[0, g]]
    table = [[slow_iou(truth.boxes[0, g].tolist(), c.tolist()) for c in candidates] for g in range(truth.boxes.shape[1])]
    labels, index = [], []
    for n, candidate in enumerate(candidates.tolist()):
        overlaps = [table[g][n] for g in objects]
        best = max(overlaps, default=0.0)
        labels.append(1 if best >= thresholds.high else 0 if best < thresholds.low else -1)
        index.append(objects[overlaps.index(best)] if objects else -1)
        inside = [slow_shared(truth.boxes[0, g].tolist(), candidate) / slow_area(candidate) for g in crowds]
        if labels[-1] == 0 and max(inside, default=0) > 0.5:
            labels[-1] = -1
    for g in objects if thresholds.rescue else []:
        top = max(table[g])
        for n in range(len(candidates)):
            if top > 0 and table[g][n] == top:
                labels[n], index[n] = 1, g
    return labels, index


def slow_area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def slow_shared(a: list[float], b: list[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def slow_iou(a: list[float], b: list[float]) -> float:
    shared = slow_shared(a, b)
    return shared / (slow_area(a) + slow_area(b) - shared)


@pytest.mark.parametrize("thresholds", [Thresholds(0.5, 0.5), Thresholds(0.7, 0.3), Thresholds(0.7, 0.3, rescue=True)])
@pytest.mark.parametrize("seed", range(8))
def test_match_is_the_definition(thresholds, seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(5, generator).round()
    truth = truth_of(boxes, torch.rand(5, generator=generator) < 0.2)
    jitter = (torch.randn(60, 4, generator=generator) * 6).round()
    candidates = torch.cat((random_boxes(60, generator).round(), boxes.repeat(12, 1) + jitter, boxes[:2]))
    candidates = candidates[large_enough(candidates, 1)]
    found = match(candidates, truth, thresholds)
    labels, index = slow_match(candidates, truth, thresholds)
    assert found.label[0].tolist() == labels
    assert [i for i, label in zip(found.index[0].tolist(), labels, strict=True) if label == 1] == [
        i for i, label in zip(index, labels, strict=True) if label == 1
    ]


def test_match_treats_each_image_alone():
    generator = torch.Generator().manual_seed(3)
    candidates = random_boxes(50, generator)
    several = [random_boxes(count, generator) for count in (1, 4, 2)]
    batch = Batch(torch.zeros(3, 3, 224, 224), ((224, 224),) * 3, ((224, 224),) * 3)
    together = match(candidates, collate([target_of(boxes.tolist()) for boxes in several], batch), Thresholds(0.7, 0.3, rescue=True))
    for i, boxes in enumerate(several):
        alone = match(candidates, truth_of(boxes), Thresholds(0.7, 0.3, rescue=True))
        assert together.label[i].tolist() == alone.label[0].tolist()
        positive = alone.label[0] == 1
        assert together.index[i][positive].tolist() == alone.index[0][positive].tolist()


def test_every_object_is_rescued():
    generator = torch.Generator().manual_seed(5)
    anchors = Anchors(((16.0,), (32.0,)), (0.5, 1.0, 2.0))(((8, 8), (4, 4)), (128, 128), CPU)
    corner = torch.rand(6, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + 9), 1)
    found = match(anchors, truth_of(boxes), Thresholds(0.7, 0.3, rescue=True))
    assert set(found.index[0][found.label[0] == 1].tolist()) == set(range(6))


def test_no_object_makes_all_negative():
    batch = Batch(torch.zeros(2, 3, 32, 32), ((32, 32),) * 2, ((32, 32),) * 2)
    found = match(
        random_boxes(9, torch.Generator().manual_seed(0)), collate([target_of([]), target_of([])], batch), Thresholds(0.7, 0.3, rescue=True)
    )
    assert found.label.tolist() == [[0] * 9] * 2


def test_matched_gathers_rows():
    values = torch.arange(12).view(2, 3, 2)
    assert matched(values, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    assert matched(values[..., 0], torch.tensor([[2, 0], [1, 1]])).tolist() == [[4, 0], [8, 8]]


# sampling


def draw(labels: torch.Tensor, seeds: tuple[int, ...], quota: Quota):
    return sample(labels, lots(seeds, labels.shape[1], purpose=0, device=CPU), quota)


def test_sample_keeps_the_quota():
    labels = torch.zeros(3, 200, dtype=torch.int8)
    labels[0, :80], labels[1, :5], labels[2, :190] = 1, 1, -1
    chosen = draw(labels, (1, 2, 3), Quota(64, 0.25))
    taken = labels.gather(1, chosen.index)
    assert [int(((taken[i] == 1) & chosen.valid[i]).sum()) for i in range(3)] == [16, 5, 0]
    assert [int(((taken[i] == 0) & chosen.valid[i]).sum()) for i in range(3)] == [48, 59, 10]
    assert not (taken[chosen.valid] == -1).any()
    assert all(len(set(row[ok].tolist())) == int(ok.sum()) for row, ok in zip(chosen.index, chosen.valid, strict=True))
    assert (taken[0, :16] == 1).all()


def test_sample_is_fair():
    labels = torch.zeros(1, 40, dtype=torch.int8)
    labels[0, :20] = 1
    counts = torch.zeros(40)
    for seed in range(1000):
        chosen = draw(labels, (seed,), Quota(10, 0.5))
        counts[chosen.index[0]] += 1
    assert counts.sum() == 10_000
    assert (counts - 250).abs().max() < 5 * math.sqrt(1000 * 0.25 * 0.75)  # five deviations of a fair draw


def test_sample_repeats_and_ignores_batch_mates():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 2, (4, 120), generator=generator).to(torch.int8)
    together = draw(labels, (10, 11, 12, 13), Quota(32, 0.5))
    for i in (2, 0, 3, 1):
        alone = draw(labels[i : i + 1], (10 + i,), Quota(32, 0.5))
        assert alone.index[0].tolist() == together.index[i].tolist()
    assert together.index[0].tolist() != together.index[1].tolist()


def test_lots_do_not_depend_on_padding():
    torch.testing.assert_close(lots((5,), 300, purpose=1, device=CPU)[:, :37], lots((5,), 37, purpose=1, device=CPU), rtol=0, atol=0)
    assert not torch.equal(lots((5,), 37, purpose=1, device=CPU), lots((5,), 37, purpose=0, device=CPU))


def test_global_randomness_stays_untouched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    lots((1, 2), 50, purpose=0, device=CPU)
    assert torch.equal(before, torch.get_rng_state())


# ground truth and proposals


def test_collate_scales_and_pads():
    batch = Batch(torch.zeros(2, 3, 64, 64), ((40, 60), (64, 32)), ((20, 20), (64, 32)))
    truth = collate([target_of([[1, 2, 3, 4]], seed=7), target_of([[0, 0, 8, 8], [1, 1, 9, 9]], seed=8)], batch)
    assert truth.boxes[0, 0].tolist() == [3, 4, 9, 8]
    assert truth.boxes[1].tolist() == [[0, 0, 8, 8], [1, 1, 9, 9]]
    assert truth.valid.tolist() == [[True, False], [True, True]]
    assert truth.labels.tolist() == [[1, 0], [1, 1]]
    assert truth.seeds == (7, 8)


def test_collate_sets_crowds_apart():
    batch = Batch(torch.zeros(1, 3, 32, 32), ((32, 32),), ((32, 32),))
    no = torch.tensor([False, False])
    truth = collate([Target(torch.tensor([[0.0, 0, 8, 8], [0, 0, 9, 9]]), torch.tensor([0, 3]), torch.tensor([True, False]), no)], batch)
    assert truth.valid.tolist() == [[False, True]]
    assert truth.crowd.tolist() == [[True, False]]


def test_objects_follow_the_proposals():
    proposals = Proposals(torch.zeros(1, 3, 4), torch.tensor([[True, True, False]]), torch.tensor([[32.0, 32]]))
    both = with_objects(proposals, truth_of(torch.tensor([[1.0, 1, 5, 5]])))
    assert both.valid.tolist() == [[True, True, False, True]]
    assert both.boxes[0, 3].tolist() == [1, 1, 5, 5]


def test_best_of_each_level():
    logits = torch.tensor([[1.0, 3, 2, 9, 8], [5, 4, 6, 0, 1]])
    index, level = best_of_levels(logits, (3, 2), 2)
    assert index.tolist() == [[1, 2, 3, 4], [2, 0, 4, 3]]
    assert level.tolist() == [0, 0, 1, 1]


def test_pyramid_level_by_hand():
    pool = PyramidAlign(7, (4, 8, 16, 32), 224)
    sides = torch.tensor([20.0, 111, 112, 223, 224, 447, 448, 2000])
    rois = torch.stack((torch.zeros(8), torch.zeros(8), torch.zeros(8), sides, sides), 1)
    assert pool.level(rois).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


# images


def test_prepare_resizes_normalises_pads():
    white, black = torch.ones(3, 20, 30), torch.zeros(3, 40, 40)
    batch = images.prepare([white, black], 40, 50)
    assert batch.sizes == ((33, 50), (40, 40))
    assert batch.originals == ((20, 30), (40, 40))
    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.pixels[0, :, 5, 5].tolist() == pytest.approx([(1 - m) / s for m, s in zip(images.MEAN, images.STD, strict=True)], rel=1e-5)
    assert batch.pixels[1, :, 39, 39].tolist() == pytest.approx([-m / s for m, s in zip(images.MEAN, images.STD, strict=True)], rel=1e-5)
    assert batch.pixels[0, :, 33:].abs().max() == 0
    assert batch.pixels[1, :, :, 40:].abs().max() == 0


def test_prepare_does_not_depend_on_the_company():
    generator = torch.Generator().manual_seed(0)
    one, two, other = (
        torch.rand(3, 32, 48, generator=generator),
        torch.rand(3, 32, 48, generator=generator),
        torch.rand(3, 64, 64, generator=generator),
    )
    alone, mixed = images.prepare([one, two], 64, 200), images.prepare([one, two, other], 64, 200)
    torch.testing.assert_close(mixed.pixels[:2, :, :64, :96], alone.pixels)
