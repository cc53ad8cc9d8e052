"""Every baseline: it learns as a whole, its losses do not depend on the batch, it takes any images, and its parts are those of the papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from bench.datasets import open_split
from bench.datasets.source import parse_data
from bench.scales import SCALES
from bench.spec import Request, Setting, Tier
from bench.types import Target, Trainable, detect
from implementations.baselines.cascade_rcnn import cascade_rcnn
from implementations.baselines.faster_rcnn import faster_rcnn_c4, faster_rcnn_fpn
from implementations.baselines.rfcn import rfcn
from implementations.layers.boxes import iou
from implementations.layers.coverage import near_candidates, positive_candidates
from implementations.layers.heads import HeadOutput, HeadShape, two_fc_head
from implementations.layers.rpn import Proposals
from implementations.layers.two_stage import TwoStage

CLASSES = 10
DETECTORS: dict[str, Callable[[Request], TwoStage]] = {
    "fpn": faster_rcnn_fpn,
    "c4": faster_rcnn_c4,
    "c4, head of its own": lambda request: faster_rcnn_c4(request, head=two_fc_head, pooled=7),
    "rfcn": rfcn,
    "rfcn, head of its own": lambda request: rfcn(request, head=two_fc_head),
    "cascade": cascade_rcnn,
}


def request(tier: Tier = "smoke", *, classes: int = CLASSES) -> Request:
    return Request(Setting("scenes", classes, 600, 1000, "R50"), SCALES[tier], classes)


def build(name: str) -> TwoStage:
    torch.manual_seed(0)
    return DETECTORS[name](request()).train()


def picture(index: int, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(index))


def target(boxes: list[tuple[float, ...]], *, seed: int = 0) -> Target:
    no = torch.zeros(len(boxes), dtype=torch.bool)
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)) % CLASSES, no, no, seed)


def batch() -> tuple[list[torch.Tensor], list[Target]]:
    targets = [target([(4, 4, 30, 30), (20, 24, 60, 44)], seed=1), target([(10, 8, 22, 50)], seed=2)]
    return [picture(0), picture(1)], targets


@pytest.fixture(params=DETECTORS, scope="module")
def detector(request) -> TwoStage:
    return build(request.param)


def test_it_is_what_the_bench_trains(detector):
    assert isinstance(detector, Trainable)
    assert detector.config.shorter in (64, 128)


def test_gradient_reaches_everything_that_learns(detector):
    detector.train().zero_grad()
    losses = detector(*batch())
    assert all(loss.dim() == 0 and torch.isfinite(loss) and loss > 0 for loss in losses.values()), losses
    sum(losses.values()).backward()
    silent = [name for name, p in detector.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert silent == []


def test_losses_of_a_batch_are_the_mean_of_its_images(detector):
    images, targets = batch()
    with torch.no_grad():
        together = detector.train()(images, targets)
        alone = [detector([image], [one]) for image, one in zip(images, targets, strict=True)]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2, atol=1e-4, rtol=1e-4)


def test_the_seed_of_an_image_decides_its_draws(detector):
    images, targets = batch()
    with torch.no_grad():
        first, again = detector.train()(images, targets), detector(images, targets)
        other = detector(images, [replace(one, seed=one.seed + 100) for one in targets])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_images_without_objects_and_of_two_sizes(detector):
    detector.train().zero_grad()
    losses = detector([picture(3, 60, 90), picture(4, 80, 50)], [target([]), target([(5, 5, 40, 60)])])
    assert all(torch.isfinite(loss) for loss in losses.values())
    losses = detector([picture(3), picture(4)], [target([]), target([])])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(losses[name] == 0 for name in losses if "box" in name)
    sum(losses.values()).backward()


def test_crowds_and_only_crowds(detector):
    crowd = replace(target([(0, 0, 64, 64)]), crowd=torch.tensor([True]))
    losses = detector.train()([picture(5), picture(6)], [crowd, target([(4, 4, 30, 30)])])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_detections_lie_in_the_image_as_given(detector):
    detector.eval()
    images = [picture(7, 100, 150), picture(8, 40, 33)]
    with torch.no_grad():
        found = detect(detector, images)
    for image, one in zip(images, found, strict=True):
        height, width = image.shape[1:]
        assert one.boxes.dtype == torch.float32
        assert len(one.boxes) == len(one.scores) == len(one.labels) <= 100
        assert (one.boxes >= 0).all()
        assert (one.boxes[:, [0, 2]] <= width + 1e-3).all()
        assert (one.boxes[:, [1, 3]] <= height + 1e-3).all()
        assert (one.scores.diff() <= 0).all()
        assert ((one.scores >= 0) & (one.scores <= 1)).all()
        assert ((one.labels >= 0) & (one.labels < CLASSES)).all()


def test_proposals_can_be_given(detector):
    detector.eval()
    prepared = detector.prepare([picture(9)])
    sizes = torch.tensor(prepared.sizes, dtype=torch.float32)
    given = Proposals(torch.tensor([[[4.0, 4, 30, 30], [8, 8, 60, 60], [1, 2, 20, 40]]]), torch.ones(1, 3, dtype=torch.bool), sizes)
    with torch.no_grad():
        raw = detector.network(prepared, given)
    assert raw.answers.scores.shape == (3, CLASSES + 1)
    torch.testing.assert_close(raw.answers.scores.sum(1), torch.ones(3))


def test_parts_are_the_whole_and_run(detector):
    parts = detector.eval().parts(64, 96)
    named = {id(p) for part in parts for p in part.module.parameters()}
    assert named == {id(p) for p in detector.parameters()}
    for part in parts:
        with torch.no_grad():
            part.module(*[torch.zeros(shape) for shape in part.inputs])


@pytest.mark.parametrize("name", ["fpn", pytest.param("rfcn", marks=pytest.mark.slow), pytest.param("cascade", marks=pytest.mark.slow)])
def test_it_learns_two_pictures_by_heart(name):
    images, targets = batch()
    model = build(name)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    steps = 80 if name == "fpn" else 120
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, 2 * (1 - step / steps))
        optimizer.zero_grad()
        sum(model(images, [replace(one, seed=step * 2 + i) for i, one in enumerate(targets)]).values()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = detect(model, images)
    for one, wanted in zip(found, targets, strict=True):
        best, labels = one.boxes[: len(wanted.boxes)], one.labels[: len(wanted.boxes)]
        assert labels.sort().values.tolist() == wanted.labels.sort().values.tolist()
        assert (iou(best[labels.argsort()], wanted.boxes[wanted.labels.argsort()]).diagonal() >= 0.75).all()


# published and hand-counted sizes


def head_millions(model: TwoStage) -> float:
    return sum(p.numel() for part in model.parts(600, 1000) if part.head for p in part.module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("builder", "voc", "coco"),
    [(faster_rcnn_fpn, 14.0, 14.3), (faster_rcnn_c4, 15.2, 15.8), (cascade_rcnn, 41.8, 41.9)],
)
def test_heads_have_the_printed_size(builder, voc, coco):
    with torch.device("meta"):
        sizes = [head_millions(builder(request("paper", classes=classes))) for classes in (20, 80)]
    assert [round(size, 1) for size in sizes] == [voc, coco]


def test_rfcn_head_by_hand():
    with torch.device("meta"):
        model = rfcn(request("paper", classes=20))
    reduction, scores, boxes = 2048 * 1024 + 1024, (1024 + 1) * 21 * 49, (1024 + 1) * 4 * 49
    assert head_millions(model) * 1e6 == pytest.approx(reduction + scores + boxes)


def test_two_fc_by_hand():
    head = two_fc_head(HeadShape(channels=256, side=7, classes=20, box_classes=21, fc=1024))
    fc6, fc7, scores, boxes = (256 * 49 + 1) * 1024, 1025 * 1024, 1025 * 21, 1025 * 84
    assert sum(p.numel() for p in head.parameters()) == fc6 + fc7 + scores + boxes
    output = head(torch.zeros(3, 256, 7, 7))
    assert isinstance(output, HeadOutput)
    assert (output.scores.shape, output.deltas.shape) == ((3, 21), (3, 84))


# enough positives


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_objects_of_scenes_have_a_positive_candidate(name, split):
    scenes = open_split(parse_data("scenes-v1"), split)
    targets = [scenes.target(i) for i in range(200)]
    size = (int(scenes.image(0).shape[1]), int(scenes.image(0).shape[2]))
    model = DETECTORS[name](request("proxy"))
    assert positive_candidates(model, targets, size) >= 0.95
    assert near_candidates(model, targets, size, 0.3) >= 0.9  # without the rescue: no nearest anchor of these is taught to be background


def test_objects_of_any_place_and_size_have_a_positive_candidate():
    generator = torch.Generator().manual_seed(0)
    side = 8 * (100 / 8) ** torch.rand(500, 2, generator=generator)
    corner = torch.rand(500, 2, generator=generator) * (128 - side)
    boxes = torch.cat((corner, corner + side), 1)
    targets = [target([tuple(box) for box in part.tolist()]) for part in boxes.split(5)]
    assert positive_candidates(faster_rcnn_fpn(request("proxy")), targets, (128, 128)) >= 0.95


def test_paper_scale_uses_the_papers_anchors():
    with torch.device("meta"):
        model = faster_rcnn_fpn(request("paper"))
    assert model.config.rpn.anchor_sizes == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    assert (model.config.rpn.thresholds.high, model.config.rpn.quota.count) == (0.7, 256)
    assert (model.config.shorter, model.config.longer, model.config.canonical) == (600, 1000, 224)
