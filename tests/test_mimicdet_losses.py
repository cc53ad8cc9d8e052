"""What MimicDet's losses are: which boxes are sampled and mined, and each loss by a slow ranking or sum."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from mimicdet_detectors import OBJECTS, build, pictures

from implementations.layers.boxes import encode, iou
from implementations.layers.regions import RegionConfig
from implementations.layers.sampling import Quota
from implementations.layers.targets import Truth, collate
from implementations.mimicdet.heads import Answer
from implementations.mimicdet.labels import assign
from implementations.mimicdet.learning import Mining, hardest, labelled, student_losses, taught, teacher_losses
from implementations.mimicdet.model import sizes_of
from implementations.mimicdet.refinement import Adjusted


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


# ---- sampling and mining


def proposals(count=40, valid=None):
    """Proposals of two images around two objects each, some exact, some beside, and their truth."""
    generator = torch.Generator().manual_seed(7)
    objects = torch.tensor([[[10.0, 10, 50, 50], [60, 60, 90, 95]], [[5.0, 5, 30, 40], [0, 0, 0, 0]]])
    labels = torch.tensor([[2, 1], [3, 0]])
    truth = Truth(objects, labels, labels > 0, torch.zeros(2, 2, dtype=torch.bool), (11, 12))
    boxes = objects[:, :1] + torch.rand(2, count, 4, generator=generator) * 20 - 10
    position = torch.stack([torch.randperm(500, generator=generator)[:count] for _ in range(2)])
    return Adjusted(boxes, position, torch.ones(2, count, dtype=torch.bool) if valid is None else valid), truth


CONFIG = RegionConfig(3, 1, Quota(8, 0.25), threshold=0.6, score=0.005, nms=0.6)


def test_labels_are_by_the_overlap_of_0_6():
    adjusted, truth = proposals()
    found = labelled(adjusted, truth, CONFIG)
    overlap = iou(truth.boxes, adjusted.boxes).masked_fill(~truth.valid.unsqueeze(-1), 0)
    for i in range(2):
        for j in range(adjusted.boxes.shape[1]):
            best = float(overlap[i, :, j].max())
            assert int(found.label[i, j]) == (best >= 0.6)
            assert int(found.classes[i, j]) == (int(truth.labels[i, overlap[i, :, j].argmax()]) if best >= 0.6 else 0)


def test_hard_negatives_are_those_with_the_largest_loss():
    """A slow ranking, image by image; what is no candidate is never chosen."""
    loss = torch.tensor([[0.5, 3.0, 0.1, 2.0], [1.0, 1.0, 0.0, 9.0]])
    usable = torch.tensor([[True, True, True, True], [True, True, True, False]])
    assert hardest(loss, usable, 2).tolist() == [[False, True, False, True], [True, True, False, False]]
    assert hardest(loss, usable, 9).tolist() == usable.tolist()


def test_the_students_losses_by_a_slow_ranking():
    adjusted, truth = proposals()
    found, mining = labelled(adjusted, truth, CONFIG), Mining(6, 3)
    generator = torch.Generator().manual_seed(1)
    answer = Answer(torch.randn(2, 40, 4, generator=generator), torch.randn(2, 40, 4, generator=generator), ())
    losses = student_losses(answer, found, truth, CONFIG, mining)
    total = 0.0
    for i in range(2):
        each = sorted((float(F.cross_entropy(answer.scores[i, j], found.classes[i, j])) for j in range(40)), reverse=True)
        total += sum(each[:6])
    assert float(losses["student_class"]) == pytest.approx(total / 12, rel=1e-5)
    positives = [(i, j) for i in range(2) for j in range(40) if found.label[i, j] == 1]
    each = [float((answer.deltas[at] - encode(found.objects[at], adjusted.boxes[at], CONFIG.weights)).abs().sum()) for at in positives]
    assert len(positives) > 6  # so that some are left out
    assert min(each) / 12 < float(losses["student_box"]) < 6 * max(each) / 12
    lots_of = [student_losses(answer, found, replace(truth, seeds=(seed, seed + 50)), CONFIG, mining)["student_box"] for seed in range(8)]
    assert len({round(float(each), 6) for each in lots_of}) > 4  # which positives stay is drawn, by the seeds of the images
    everyone = student_losses(answer, found, truth, CONFIG, Mining(6, 40))["student_box"]
    assert float(everyone) == pytest.approx(sum(each) / 12, rel=1e-5)


def test_the_teacher_sees_a_quarter_of_positives_and_each_where_it_was():
    adjusted, truth = proposals()
    found, seen = labelled(adjusted, truth, CONFIG), []

    def teach(rois, position):
        seen.append((rois, position))
        return Answer(torch.zeros(len(rois), 4), rois[:, 1:], (rois[:, :1],))

    chosen = taught(teach, found, truth, CONFIG)
    rois, position = seen[0]
    assert len(rois) == 16
    label = found.label.gather(1, chosen.chosen.index)
    assert (label == 1).sum(1).tolist() == [2, 2]
    assert rois[:, 0].tolist() == [0.0] * 8 + [1.0] * 8
    for roi, at in zip(rois, position, strict=True):
        image = int(roi[0])
        where = (adjusted.position[image] == at).nonzero()[0, 0]
        assert torch.equal(adjusted.boxes[image, where], roi[1:])
    student = Answer(torch.zeros(2, 40, 4), adjusted.boxes, (adjusted.position.unsqueeze(-1).float(),))
    traced = chosen.student(student)
    assert torch.equal(traced.deltas, rois[:, 1:])
    assert torch.equal(traced.features[0][:, 0].long(), position)


def test_the_dense_student_is_read_at_the_positions_of_the_proposals():
    detector = build().train()
    batch = detector.prepare(pictures((96, 96), (96, 80)))
    with torch.no_grad():
        maps = detector.maps(batch.pixels, fine=True)
        refined = detector.refinement(maps[-5:], sizes_of(batch))
        adjusted = detector.refinement.proposals(refined)
        few = detector.student_answer(maps[-5:], refined, adjusted)
        dense = detector.regions.student(*maps[-5:], refined.deltas)
    torch.testing.assert_close(few.scores, dense.at(adjusted.position).scores)


# ---- the losses of refinement module and T-head, term by term


def offsets_by_hand(box, anchor, weights=(1.0, 1.0, 1.0, 1.0)):
    """Faster R-CNN's parametrisation: shift of the centre by the anchor's sides, logarithm of the ratio of sides."""
    (x, y, w, h), (ax, ay, aw, ah) = (((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]) for b in (box, anchor))
    plain = ((x - ax) / aw, (y - ay) / ah, math.log(w / aw), math.log(h / ah))
    return [weight * one for weight, one in zip(weights, plain, strict=True)]


def test_the_refinement_modules_loss_by_a_slow_sum():
    """Section 3.2: binary cross entropy over all anchors of the image, L1 over the positive ones, both divided by 256 an image (here the tier's)."""
    detector = build()
    module = detector.refinement
    batch = detector.prepare(pictures((96, 96), (96, 64)))
    truth = collate(OBJECTS, batch)
    refined = module(detector.maps(batch.pixels, fine=False), sizes_of(batch))
    refined = replace(refined, logits=torch.randn_like(refined.logits), deltas=torch.randn_like(refined.deltas))
    found = module.losses(refined, truth)
    matches = assign(refined.anchors, truth, refined.sizes, module.config.ranges)
    crossed, apart, positives = 0.0, 0.0, 0
    for image in range(2):
        for place, anchor in enumerate(refined.anchors.boxes.tolist()):
            label = int(matches.label[image, place])
            if label < 0:  # padding
                continue
            chance = 1 / (1 + math.exp(-float(refined.logits[image, place])))
            crossed -= math.log(chance if label else 1 - chance)
            if label:
                wanted = offsets_by_hand(truth.boxes[image, int(matches.index[image, place])].tolist(), anchor)
                apart += sum(abs(one - float(other)) for one, other in zip(wanted, refined.deltas[image, place], strict=True))
                positives += 1
    assert positives > 3
    assert int((matches.label < 0).sum()) > 0
    assert found["refine_class"].item() == pytest.approx(crossed / (2 * module.config.normaliser), rel=1e-4)
    assert found["refine_box"].item() == pytest.approx(apart / (2 * module.config.normaliser), rel=1e-4)


def test_the_t_heads_loss_by_a_slow_sum():
    """Section 3.3: cross entropy of each sampled box, L1 of the positive ones' offsets (weights 10 10 5 5), both divided by 128 an image."""
    torch.manual_seed(0)
    config = RegionConfig(3, 1, Quota(8, 0.25), threshold=0.6)
    boxes = torch.tensor([[[10.0, 10, 50, 50], [12, 8, 52, 48], [60, 60, 90, 90], [5, 50, 30, 90], [0, 0, 20, 20]]])
    none = torch.zeros(1, 1, dtype=torch.bool)
    truth = Truth(torch.tensor([[[11.0, 9, 51, 50]]]), torch.tensor([[2]]), ~none, none, (5,))
    adjusted = Adjusted(boxes, torch.arange(5)[None], torch.ones(1, 5, dtype=torch.bool))
    proposals = labelled(adjusted, truth, config)
    asked = []

    def teach(rois, position):
        asked.append(position.tolist())
        return Answer(torch.randn(len(rois), 4), torch.randn(len(rois), 4), ())

    sampled = taught(teach, proposals, truth, config)
    found = teacher_losses(sampled, proposals, config)
    crossed, apart, positives = 0.0, 0.0, 0
    for row, place in enumerate(asked[0]):
        label = int(proposals.classes[0, place])
        scores = sampled.answer.scores[row].tolist()
        crossed += math.log(sum(map(math.exp, scores))) - scores[label]
        if label:
            wanted = offsets_by_hand(truth.boxes[0, 0].tolist(), boxes[0, place].tolist(), (10.0, 10.0, 5.0, 5.0))
            apart += sum(abs(one - float(other)) for one, other in zip(wanted, sampled.answer.deltas[row], strict=True))
            positives += 1
    assert positives == 2
    assert len(asked[0]) == 5
    assert found["teacher_class"].item() == pytest.approx(crossed / 8, rel=1e-4)
    assert found["teacher_box"].item() == pytest.approx(apart / 8, rel=1e-4)
