"""One contract over every row of every paper: what a detector must do at the smoke tier, and one training step of each at paper scale."""

from dataclasses import replace

import pytest
import torch
from noise import photographs
from safetensors.torch import save_file

from bench.catalogue import built
from bench.derive import keep
from bench.plan import owner_of
from bench.scales import SCALES
from bench.spec import Derive, Request, Train
from bench.types import Detector, Target, Trainable, detect

ROWS = [(paper, row) for paper in built().values() for row in paper.rows if row.build is not None and row.recipe]
IDS = [f"{paper.key}.{row.key}" for paper, row in ROWS]
CLASSES = 4
HEADS = ("regions", "head")  # what the second stage, or a one-stage detector's predictions, are called


def build(paper, row, tier, classes, folder):
    """The row's detector; what it starts from is made here with random weights, and what those runs derive is derived from two images."""
    inputs = {}
    for owner, key in (owner_of(paper, need) for need in row.needs):
        needed = build(owner, owner.row(key), tier, classes, folder)
        save_file({name: tensor.contiguous() for name, tensor in needed.state_dict().items()}, folder / f"{key}.safetensors")
        inputs[key] = folder / f"{key}.safetensors"
        steps = [step for step in owner.row(key).recipe if isinstance(step, Derive)]
        if steps:
            values = {step.name: {name: step.measure(needed.eval(), [photographs((64, 64), (64, 64))]) for name in step.splits} for step in steps}
            keep(values, folder)
    torch.manual_seed(0)
    detector = row.build(Request(row.setting, SCALES[tier], classes, inputs), **row.arguments)
    if hasattr(detector, "compression"):
        detector.compression.calibrate(detector, photographs((96, 128), (96, 128)))
    return detector


def target(*boxes):
    count = len(boxes)
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    none = torch.zeros(count, dtype=torch.bool)
    return Target(corners, torch.arange(count) % CLASSES, none, none.clone(), seed=5)


@pytest.fixture(scope="module", params=range(len(ROWS)), ids=IDS)
def small(request, tmp_path_factory):
    torch.set_num_threads(1)
    paper, row = ROWS[request.param]
    return row, build(paper, row, "smoke", CLASSES, tmp_path_factory.mktemp("needs"))


def test_it_is_a_detector(small):
    row, detector = small
    assert isinstance(detector, Detector)
    assert isinstance(detector, Trainable)
    assert row.title


def test_answers_stay_inside_each_image_best_first(small):
    _, detector = small
    images = photographs((90, 128), (128, 70))
    with torch.inference_mode():
        answers = detect(detector.eval(), images)
    assert len(answers) == 2
    for image, found in zip(images, answers, strict=True):
        height, width = image.shape[1:]
        assert found.boxes.shape == (len(found.scores), 4)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([width, height, width, height])).all()
        assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
        assert (found.scores.diff() <= 0).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert found.labels.dtype == torch.int64
        assert ((found.labels >= 0) & (found.labels < CLASSES)).all()


def test_an_image_alone_and_in_company_is_answered_alike(small):
    _, detector = small
    images = photographs((96, 96), (96, 96))
    with torch.inference_mode():
        alone, company = detect(detector.eval(), images[:1])[0], detect(detector, images)[0]
    assert torch.allclose(alone.scores, company.scores, atol=1e-4)
    assert torch.allclose(alone.boxes, company.boxes, atol=1e-2)


def test_losses_are_finite_and_reach_every_parameter(small):
    row, detector = small
    if not any(isinstance(step, Train) for step in row.recipe):
        pytest.skip(f"{row.key} is a transform: it does not learn")
    images = photographs((128, 128), (100, 128), (128, 128))
    targets = [target([10, 10, 60, 70], [40, 30, 120, 90]), target([5, 5, 25, 25]), target()]
    detector.train().zero_grad()
    losses = detector(images, targets)
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    unreached = [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == []


def test_images_without_objects_can_be_learnt_from(small):
    row, detector = small
    if not any(isinstance(step, Train) for step in row.recipe):
        pytest.skip(f"{row.key} is a transform: it does not learn")
    losses = detector.train()(photographs((64, 64)), [target()])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_parts_add_up_to_the_whole(small):
    _, detector = small
    parts = detector.parts(96, 128)
    named = {id(p): p.numel() for part in parts for p in part.module.parameters()}
    assert sum(named.values()) == sum(p.numel() for p in detector.parameters())
    assert any(part.head for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(ROWS)), ids=IDS)
def test_one_step_at_paper_scale(place, tmp_path):
    paper, row = ROWS[place]
    detector = build(paper, row, "paper", row.setting.classes, tmp_path)
    images = photographs((375, 500))
    objects = replace(target([20, 30, 220, 330], [250, 100, 480, 300]))
    if not any(isinstance(step, Train) for step in row.recipe):
        with torch.inference_mode():
            assert len(detect(detector.eval(), images)) == 1
        return
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-4)
    losses = detector.train()(images, [objects])
    total = sum(losses.values())
    total.backward()
    before = {name: p.detach().clone() for name, p in detector.named_parameters() if p.requires_grad and name.startswith(HEADS)}
    optimizer.step()
    assert torch.isfinite(total)
    assert any(not torch.equal(before[name], p) for name, p in detector.named_parameters() if name in before)
