"""Hard example mining against a slow search, and that a second look teaches what one pass would."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from implementations.layers.boxes import encode, iou
from implementations.layers.heads import HeadOutput, HeadShape, Predictor
from implementations.layers.regions import RegionConfig, RegionStage
from implementations.layers.rpn import Proposals
from implementations.layers.sampling import Quota
from implementations.layers.targets import Truth
from implementations.light_head.hard_examples import Hard, HardStage, each_loss, every_region, hardest, looking

CONFIG = RegionConfig(3, 1, Quota(4, 1.0))


def pool(maps, rois):
    """Features that any RoI gives, without a map: its corners."""
    return (rois[:, 1:] / 50).view(-1, 4, 1, 1) * maps[-1].mean()


class Head(nn.Module):
    """A layer on four numbers."""

    def __init__(self, boxes=1):
        super().__init__()
        self.predictor = Predictor(4, HeadShape(4, 1, 3, boxes, 0))
        nn.init.normal_(self.predictor.cls_score.weight)
        nn.init.normal_(self.predictor.bbox_pred.weight)

    def forward(self, features, labels=None):
        return self.predictor(features.flatten(1))


def scene(seed=0, proposals=20):
    """Two images, the second with fewer proposals and one object, which is a crowd region besides."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, proposals, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 5 + torch.rand(2, proposals, 2, generator=generator) * 40), 2)
    valid = torch.ones(2, proposals, dtype=torch.bool)
    valid[1, proposals // 2 :] = False
    objects = torch.tensor([[[5.0, 5, 40, 40], [30, 30, 80, 70]], [[10, 10, 60, 60], [0, 0, 90, 20]]])
    crowd = torch.tensor([[False, False], [False, True]])
    truth = Truth(objects, torch.tensor([[1, 3], [2, 1]]), ~crowd, crowd, (0, 1))
    return Proposals(boxes, valid, torch.tensor([[100.0, 100], [100, 100]])), truth


def stage(count=4, weight=2.0, boxes=1):
    torch.manual_seed(1)
    return HardStage(RegionStage(replace(CONFIG, box_classes=boxes), pool, Head(boxes)), Hard(count, weight))


def slow_loss(logits, deltas, roi, truth, image):
    """One RoI's class loss and box loss from their definitions; None where it is neither positive nor negative."""
    overlaps = iou(truth.boxes[image][truth.valid[image]], roi[None])[:, 0]
    best = int(overlaps.argmax())
    label = int(truth.labels[image][truth.valid[image]][best]) if overlaps[best] >= 0.5 else 0
    for region in truth.boxes[image][truth.crowd[image]]:
        wide = max(0.0, float(min(region[2], roi[2]) - max(region[0], roi[0])))
        high = max(0.0, float(min(region[3], roi[3]) - max(region[1], roi[1])))
        if label == 0 and wide * high > 0.5 * float((roi[2] - roi[0]) * (roi[3] - roi[1])):
            return None
    classes = float(logits.logsumexp(0) - logits[label])
    if label == 0:
        return classes, 0.0
    wanted = encode(truth.boxes[image][truth.valid[image]][best], roi, CONFIG.weights)
    away = (deltas[:4] - wanted).abs()
    return classes, float(torch.where(away < 1, 0.5 * away**2, away - 0.5).sum())


@torch.no_grad()
def slow(detector, proposals, truth):
    """Losses of the four hardest of each image, one RoI after another."""
    totals = [0.0, 0.0]
    for image in range(2):
        rois = [*proposals.boxes[image][proposals.valid[image]], *truth.boxes[image][truth.valid[image]]]
        found = []
        for roi in rois:
            output = detector.stage.head(pool([torch.ones(1)], torch.cat((torch.tensor([float(image)]), roi))[None]))
            loss = slow_loss(output.scores[0].double(), output.deltas[0].double(), roi, truth, image)
            found += [loss] if loss else []
        for classes, box in sorted(found, key=lambda pair: -(pair[0] + 2 * pair[1]))[:4]:
            totals[0] += classes / 8
            totals[1] += 2 * box / 8
    return totals


@pytest.mark.parametrize("seed", range(4))
def test_the_hardest_of_all_against_a_slow_search(seed):
    detector, (proposals, truth) = stage(), scene(seed)
    losses = detector.losses([torch.ones(1)], proposals, truth)
    assert [losses["class"].item(), losses["box"].item()] == pytest.approx(slow(detector, proposals, truth), rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(0, 10, width=32), min_size=0, max_size=7), min_size=1, max_size=4), st.integers(1, 9))
def test_hardest_takes_the_largest_of_each_image(images, count):
    most = max(1, *(len(one) for one in images))
    valid = torch.tensor([[i < len(one) for i in range(most)] for one in images])
    loss = torch.tensor([value for one in images for value in one], dtype=torch.float32)
    kept = hardest(loss, valid, count)
    first = 0
    for one in images:
        mine = kept[first : first + len(one)].tolist()
        assert sum(mine) == min(count, len(one))
        dropped = [value for value, taken in zip(one, mine, strict=True) if not taken]
        assert all(value >= max(dropped, default=0) for value, taken in zip(one, mine, strict=True) if taken)
        first += len(one)


def test_nothing_is_sampled_away_and_crowds_are():
    proposals, truth = scene()
    regions = every_region(proposals, truth, CONFIG)
    assert regions.valid.shape == (2, 22)
    assert regions.valid[0].sum() == 22  # twenty proposals and both objects
    assert regions.valid[1].sum() <= 11
    assert (regions.labels[-1], regions.labels.max()) == (2, 3)  # the last is the second image's object itself


def test_a_second_look_teaches_what_one_pass_would():
    """Gradients equal those of a single pass over everything whose easy losses are dropped."""
    detector, (proposals, truth) = stage(), scene()
    sum(detector.losses([torch.ones(1)], proposals, truth).values()).backward()
    mine = [p.grad.clone() for p in detector.parameters()]
    detector.zero_grad()
    regions = every_region(proposals, truth, CONFIG)
    classes, boxes = each_loss(detector.answer([torch.ones(1)], regions), regions, CONFIG)
    total = classes + 2 * boxes
    (total * hardest(total.detach(), regions.valid, 4)).sum().div(8).backward()
    for one, p in zip(mine, detector.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad)


def test_the_look_leaves_no_copies_to_the_pass_that_learns():
    """In bfloat16 autocast would otherwise reuse weights that it copied without gradients: the head would learn nothing."""
    detector, (proposals, truth) = stage(), scene()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sum(detector.losses([torch.ones(1)], proposals, truth).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.parameters())
    with looking(torch.device("cpu")):
        assert not torch.is_grad_enabled()


def test_boxes_for_each_class_and_the_weight_of_the_box_loss():
    proposals, truth = scene()
    assert set(stage(boxes=4).losses([torch.ones(1)], proposals, truth)) == {"class", "box"}
    config = replace(CONFIG, box_classes=4)
    regions = every_region(proposals, truth, config)
    output = HeadOutput(torch.zeros(len(regions.labels), 4), torch.arange(16.0).expand(len(regions.labels), -1))
    where = int(regions.labels.argmax())  # an object of class 3: its offsets stand in columns 12 to 15, and are wanted to be 0
    assert regions.labels[where] == 3
    wanted = encode(regions.objects[where], regions.rois[where, 1:], config.weights)
    expected = ((torch.arange(12.0, 16.0) - wanted).abs() - 0.5).sum()
    torch.testing.assert_close(each_loss(output, regions, config)[1][where], expected)


def test_images_without_proposals_or_objects_teach_nothing_wrong():
    proposals, truth = scene()
    nothing = replace(truth, valid=torch.zeros_like(truth.valid), crowd=torch.zeros_like(truth.crowd), labels=torch.zeros_like(truth.labels))
    losses = stage().losses([torch.ones(1)], proposals, nothing)
    assert losses["box"] == 0
    assert losses["class"] > 0
    bare = replace(proposals, valid=torch.zeros_like(proposals.valid))
    assert all(loss == 0 for loss in stage().losses([torch.ones(1)], bare, nothing).values())
