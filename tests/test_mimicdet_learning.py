"""How MimicDet learns: which loss reaches which part, from bad input, from images of drawn sizes, and what weights start from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from mimicdet_detectors import OBJECTS, PAPER, build, pictures, target
from safetensors.torch import load_file, save_file

from bench.scales import SCALES
from bench.spec import Request
from bench.types import detect
from implementations.layers.backbones import load_body
from implementations.layers.deformable import DeformableConv
from implementations.layers.jitter import jittered
from implementations.layers.regions import flatten
from implementations.layers.targets import collate
from implementations.mimicdet.heads import SHead, Widths, teacher_head
from implementations.mimicdet.labels import Ranges
from implementations.mimicdet.model import Settings, build_mimicdet, sizes_of
from implementations.mimicdet.pyramid import StaggeredPyramid
from implementations.mimicdet.refinement import Refinement, RefinementConfig

LOSSES = {
    "no-t-head": {"refine_class", "refine_box", "student_class", "student_box"},
    "with-t-head": {"refine_class", "refine_box", "student_class", "student_box", "teacher_class", "teacher_box"},
    "mimicdet": {"refine_class", "refine_box", "student_class", "student_box", "teacher_class", "teacher_box", "mimic"},
    "teacher-r50": {"refine_class", "refine_box", "teacher_class", "teacher_box"},
    "separated-r50": {"refine_class", "refine_box", "student_class", "student_box", "mimic"},
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def reached(detector, *names):
    """Which parts the gradient of these losses alone reaches."""
    detector.zero_grad()
    losses = detector(pictures((96, 96), (96, 96)), OBJECTS)
    sum(losses[name] for name in names).backward()
    return {
        part
        for part in ("backbone", "neck", "refinement", "regions.student", "regions.teacher", "regions.fixed")
        for name, p in detector.named_parameters()
        if name.startswith(f"{part}.") and p.grad is not None and p.grad.abs().sum() > 0
    }


# ---- the total loss


@pytest.mark.parametrize("key", LOSSES)
def test_the_total_loss_has_the_parts_of_its_row(key):
    losses = build(key).train()(pictures((96, 96)), OBJECTS[:1])
    assert set(losses) == LOSSES[key]
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_what_each_loss_reaches():
    """Mimicking teaches the S-head and, through the pyramid, the backbone; the T-head is a fixed target, or it could make itself easy to mimic."""
    detector = build().train()
    shared = {"backbone", "neck"}
    assert reached(detector, "mimic") == shared | {"regions.student"}
    assert reached(detector, "teacher_class", "teacher_box") == shared | {"regions.teacher"}
    assert reached(detector, "student_class", "student_box") == shared | {"regions.student"}
    assert reached(detector, "refine_class", "refine_box") == shared | {"refinement"}


def test_a_row_may_say_that_the_teacher_learns_to_be_mimicked():
    assert reached(build(both_learn=True).train(), "mimic") == {"backbone", "neck", "regions.student", "regions.teacher"}


def test_mimicking_reaches_the_micro_network():
    detector = build().train()
    detector(pictures((96, 96), (96, 96)), OBJECTS)["mimic"].backward()
    layer = detector.regions.student.aligned3
    assert all(p.grad.abs().sum() > 0 for p in layer.offsets.parameters())


def test_a_separated_teacher_never_learns_and_has_its_own_weights(tmp_path):
    teacher = build("teacher-r50")
    torch.nn.init.constant_(teacher.neck.output2.bias, 0.25)
    save_file({name: tensor.contiguous() for name, tensor in teacher.state_dict().items()}, tmp_path / "t.safetensors")
    detector = build("separated-r50", inputs={"teacher-r50": tmp_path / "t.safetensors"}).train()
    assert all(torch.equal(tensor, detector.teacher.state_dict()[name]) for name, tensor in teacher.state_dict().items())
    assert not any(p.requires_grad for p in detector.teacher.parameters())
    assert reached(detector, "mimic") == {"backbone", "neck", "regions.student"}
    assert len(detector.neck.levels) == 3
    assert len(detector.teacher.neck.levels) == 4


def test_a_separated_teacher_looks_at_the_image_with_a_backbone_of_its_own():
    """What it says follows its own backbone and pyramid, and only its boxes come from the student."""
    detector = build("separated-r50").train()
    batch = detector.prepare(pictures((96, 96)))
    with torch.no_grad():
        maps = detector.maps(batch.pixels, fine=False)
        refined = detector.refinement(maps, sizes_of(batch))
        adjusted = detector.refinement.proposals(refined)
        rois, position = flatten(adjusted.boxes, adjusted.valid), adjusted.position[adjusted.valid]
        wanted = detector.teacher.teach(detector.teacher.maps(batch.pixels, fine=True), refined)(rois, position)
        first = detector.teaching(maps, refined, batch)(rois, position)
        blind = detector.teaching([torch.zeros_like(x) for x in maps], refined, batch)(rois, position)
        detector.teacher.backbone.conv1.weight.add_(0.5)
        moved = detector.teaching(maps, refined, batch)(rois, position)
    assert torch.equal(first.scores, wanted.scores)
    assert torch.equal(first.scores, blind.scores)
    assert not torch.equal(first.scores, moved.scores)


BODIED = [row.key for row in PAPER.rows if row.body]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Files of a body of each backbone and of each fixed teacher, every weight of them other than it is drawn."""
    files = {}
    for key in ("body-r50", "body-r101", "teacher-r50", "teacher-r101"):
        files[key] = tmp_path_factory.mktemp("trained") / f"{key}.safetensors"
        save_file({name: tensor + 1 for name, tensor in build(key).state_dict().items()}, files[key])
    return files


@pytest.mark.parametrize("key", BODIED)
def test_a_row_takes_all_but_its_heads_from_its_body(key, trained):
    detector = build(key, inputs={name: trained[name] for name in PAPER.row(key).needs})
    heads = {name: tensor.clone() for name, tensor in detector.regions.state_dict().items()}
    load_body(detector, trained[PAPER.row(key).body])
    body = load_file(trained[PAPER.row(key).body])
    taken = {name: tensor for name, tensor in detector.state_dict().items() if not name.startswith("regions.")}
    assert {name.split(".")[0] for name in taken} == {"backbone", "neck", "refinement"}
    assert all(torch.equal(tensor, body[name]) for name, tensor in taken.items())
    assert all(torch.equal(tensor, heads[name]) for name, tensor in detector.regions.state_dict().items())
    learning = {name.split(".")[1] for name, p in detector.named_parameters() if name.startswith("neck.") and p.requires_grad}
    assert learning == {name.split(".")[1] for name in taken if name.startswith("neck.")}, "P2 too, where a T-head reads it"


def test_nobody_reads_p2_of_a_body(monkeypatch):
    detector = build("body-r50").train()
    monkeypatch.setattr(detector.neck.lateral2, "forward", lambda _: pytest.fail("P2 was made"))
    assert set(detector(pictures((96, 96)), OBJECTS[:1])) == LOSSES["no-t-head"]
    assert not any(p.requires_grad for name, p in detector.neck.named_parameters() if name.startswith(("lateral2", "output2")))


@pytest.mark.parametrize("key", ["mimicdet", "separated-r50"])
def test_losses_of_a_batch_are_the_mean_of_its_images(key):
    detector = build(key).train()
    images = pictures((96, 96), (96, 96))
    with torch.no_grad():
        together = detector(images, OBJECTS)
        alone = [detector([image], [one]) for image, one in zip(images, OBJECTS, strict=True)]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2, atol=1e-4, rtol=1e-3)


def test_everything_learns_in_bfloat16():
    detector = build().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(pictures((96, 96), (96, 96)), OBJECTS)
    sum(losses.values()).backward()
    assert [name for name, p in detector.named_parameters() if p.requires_grad and (p.grad is None or not torch.isfinite(p.grad).all())] == []


# ---- bad input


def with_scores(detector, bias):
    """The detector with a refinement module that regresses every box by so much, in width and height."""
    torch.nn.init.zeros_(detector.refinement.head.bbox_pred.weight)
    detector.refinement.head.bbox_pred.bias.data = torch.tensor([0.0, 0.0, bias, bias])
    return detector


BAD = {
    "no object": lambda: (build(), [target(seed=3), target(seed=4)]),
    "every object outside all ranges": lambda: (build(), [target([10, 10, 11, 11], [90, 90, 91.5, 91]), target([50, 50, 51, 50.5], seed=4)]),
    "an object larger than every range": lambda: (build(), [target([-400, -400, 500, 500]), target([0, 0, 96, 96], seed=4)]),
    "one class": lambda: (build(classes=1), [target([8, 8, 60, 60], classes=1), target(seed=4)]),
    "fewer proposals than are sampled": lambda: (with_scores(build(), 4.0), [target([8, 8, 60, 60]), target(seed=4)]),
    "boxes that decode to nothing": lambda: (with_scores(build(), -40.0), [target([8, 8, 60, 60]), target(seed=4)]),
    "objects of no extent": lambda: (build(), [target([0, 0, 0, 0]), target([50, 50, 50, 70], seed=4)]),
}


@pytest.mark.parametrize("name", BAD)
def test_losses_stay_finite_and_the_detector_answers(name):
    detector, targets = BAD[name]()
    images = pictures((96, 96), (60, 96))
    losses = detector.train()(images, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)
    assert [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        found = detect(detector.eval(), images)
    assert len(found) == 2
    assert all(torch.isfinite(one.boxes).all() for one in found)


def test_the_bad_inputs_are_what_they_say():
    detector, _ = BAD["fewer proposals than are sampled"]()
    batch = detector.prepare(pictures((96, 96)))
    with torch.no_grad():
        counts = {}
        for name, bias in (("few", 4.0), ("none", -40.0)):
            refined = with_scores(detector, bias).refinement(detector.maps(batch.pixels, fine=False), sizes_of(batch))
            counts[name] = int(detector.refinement.proposals(refined).valid.sum())
    assert 0 < counts["few"] < detector.config.regions.quota.count
    assert counts["none"] == 0


# ---- scale jitter


def test_each_image_draws_a_side_of_its_own_by_its_seed():
    images = pictures((96, 96), (96, 96), (60, 100))
    batch = jittered(images, (1, 2, 3), range(64, 81), 100)
    assert all(64 <= min(size) <= 80 or max(size) == 100 for size in batch.sizes)
    for i, image in enumerate(images):
        alone = jittered([image], (i + 1,), range(64, 81), 100)
        height, width = alone.sizes[0]
        assert batch.sizes[i] == alone.sizes[0]
        assert torch.equal(batch.pixels[i, :, :height, :width], alone.pixels[0, :, :height, :width])
    drawn = [jittered(images[:1], (seed,), range(64, 68), 200).sizes[0][0] for seed in range(200)]
    assert {side: drawn.count(side) > 25 for side in (64, 65, 66, 67)} == dict.fromkeys((64, 65, 66, 67), True)


def test_a_jittered_row_learns_from_images_of_drawn_sizes_and_objects_scaled_with_them(monkeypatch):
    detector = build("r101-jitter").train()
    assert detector.config.jitter == (68, 86)
    seen = []
    monkeypatch.setattr("implementations.mimicdet.model.collate", lambda targets, batch: seen.append((batch, collate(targets, batch))) or seen[-1][1])
    for seed in range(6):
        losses = detector(pictures((96, 96)), [replace(OBJECTS[0], seed=seed)])
        assert all(torch.isfinite(loss) for loss in losses.values())
    sides = {batch.sizes[0][0] for batch, _ in seen}
    assert len(sides) > 2
    assert all(68 <= side <= 86 for side in sides)
    for batch, truth in seen:
        torch.testing.assert_close(truth.boxes[0, : len(OBJECTS[0].boxes)], OBJECTS[0].boxes * (batch.sizes[0][0] / 96))


@pytest.mark.slow
@pytest.mark.parametrize("key", ["mimicdet", "no-t-head", "light"])
def test_it_learns_two_pictures_by_heart(key):
    detector = build(key).train()
    images = pictures((96, 96), (96, 96))
    targets = [target([8, 8, 60, 60], [30, 50, 90, 80]), target([20, 10, 50, 90])]
    optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], 2e-3)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, 2 * (1 - step / 200))
        optimizer.zero_grad()
        sum(detector(images, [replace(one, seed=2 * step + i) for i, one in enumerate(targets)]).values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
    with torch.inference_mode():
        found = detect(detector.eval(), images)
    for one, wanted in zip(found, targets, strict=True):
        assert one.labels[: len(wanted.labels)].sort().values.tolist() == wanted.labels.sort().values.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("key", ["x101", "deployed-x101", "deployed-r50-400"])
def test_counted_rows_take_a_step_at_paper_scale(key):
    torch.manual_seed(0)
    row = PAPER.row(key)
    detector = build_mimicdet(Request(row.setting, SCALES["paper"], 80), **row.arguments).train()
    losses = detector(pictures((375, 500)), [target([20, 30, 220, 330], [250, 100, 480, 300])])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_settings_travel_into_the_record():
    assert build("light").config.settings == Settings(teacher="light", paths=1)


# ---- section 4.1: what weights start from


def deviations(module, kind):
    """The standard deviation of each weight of that kind, by name."""
    return {name: layer.weight.std().item() for name, layer in module.named_modules() if isinstance(layer, kind)}


def test_pyramid_and_t_head_start_from_he_and_all_else_from_the_gaussian():
    """Section 4.1: He initialisation in FPN and T-head, a Gaussian of 0.01 in the others."""
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    for module in (StaggeredPyramid((256, 512), 256), teacher_head(Widths(), "dual")):
        for name, layer in module.named_modules():
            if isinstance(layer, layers):
                assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / layer.weight[0].numel()), rel=0.1), name
                assert not layer.bias.any()
    student = SHead(Widths(), "guided*", paths=2)
    found = deviations(student, (*layers, DeformableConv))
    assert {"aligned.conv", "aligned3.conv", "project.0", "project.1", "score"} <= set(found)
    assert all(value == pytest.approx(0.01, rel=0.15) for value in found.values()), found
    refinement = Refinement(256, RefinementConfig(256, Ranges(), (2000, 1000), 256, 0.01))
    assert all(value == pytest.approx(0.01, rel=0.15) for value in deviations(refinement, layers).values())
    assert refinement.head.cls_logits.bias.sigmoid().tolist() == pytest.approx([0.01], rel=1e-3)  # each anchor is an object by 1 in 100
    free = SHead(Widths(), "deform", paths=2)
    assert not free.aligned.offsets.weight.any()  # Dai et al.: offsets start at zero


def test_no_batch_norm_learns():
    """Section 4.1: all batch norms, scale and shift too."""
    detector = build()
    assert not any(p.requires_grad for m in detector.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters())
