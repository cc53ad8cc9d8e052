"""MimicDet whole: which loss reaches which part, what is sampled, deployment bit for bit, and bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torchvision.ops import batched_nms, roi_align

from bench.catalogue import find_paper
from bench.scales import SCALES
from bench.spec import Request
from bench.types import Target, UserError, detect
from implementations.layers.backbones import load_body
from implementations.layers.boxes import clip, decode, encode, iou
from implementations.layers.deformable import DeformableConv
from implementations.layers.jitter import jittered
from implementations.layers.regions import RegionConfig, flatten
from implementations.layers.sampling import Quota
from implementations.layers.targets import Truth, collate
from implementations.mimicdet.heads import Answer, SHead, Widths, teacher_head
from implementations.mimicdet.labels import Ranges, assign
from implementations.mimicdet.learning import Mining, hardest, labelled, student_losses, taught, teacher_losses
from implementations.mimicdet.model import Settings, build_mimicdet, deployed, sizes_of
from implementations.mimicdet.pyramid import StaggeredPyramid
from implementations.mimicdet.refinement import Adjusted, Refinement, RefinementConfig

PAPER = find_paper("mimicdet")
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


def request(key="mimicdet", tier="smoke", classes=3, **inputs):
    return Request(PAPER.row(key).setting, SCALES[tier], classes, inputs)


def build(key="mimicdet", *, classes=3, inputs=None, **changes):
    torch.manual_seed(0)
    return build_mimicdet(request(key, classes=classes, **(inputs or {})), **{**PAPER.row(key).arguments, **changes})


def livened(detector):
    """With first and second regressions that move boxes, refinement scores that differ, and classes that differ."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in detector.named_parameters():
        if name.endswith((".score.weight", ".box.weight", "cls_logits.weight", "bbox_pred.weight")):
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 / parameter[0].numel() ** 0.5))
    return detector


def target(*boxes, seed=0, classes=3):
    none = torch.zeros(len(boxes), dtype=torch.bool)
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)) % classes, none, none.clone(), seed)


def pictures(*sizes):
    generator = torch.Generator().manual_seed(4)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


OBJECTS = [target([8, 8, 60, 60], [30, 40, 90, 70], seed=1), target([20, 10, 50, 90], seed=2)]


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


# ---- section 4.2


def by_hand(detector, image, ask):
    """Boxes, scores and classes of one image by section 4.2's text: first regression, the best by the refinement's score, second regression, NMS at
    0.6 within a class, score above 0.005, 100 boxes. `ask(refined, order, first)` gives scores and offsets of the best."""
    batch = detector.prepare([image])
    refined = detector.refinement(detector.maps(batch.pixels, fine=False), sizes_of(batch))
    size = torch.tensor(batch.sizes[0]).float()
    first = clip(decode(refined.deltas[0], refined.anchors.boxes, (1.0, 1.0, 1.0, 1.0)), size)
    good = (first[:, 2:] - first[:, :2] > 1e-3).all(1) & (refined.anchors.centres < batch.sizes[0][0]).all(1)
    order = refined.logits[0].sigmoid().masked_fill(~good, -1).argsort(descending=True)[: detector.config.refinement.proposals[1]]
    logits, deltas = ask(batch, refined, order, first[order])
    second = clip(decode(deltas, first[order], (10.0, 10.0, 5.0, 5.0)), size)
    scores = logits.softmax(1)[:, 1:]
    box, label = (scores > 0.005).nonzero(as_tuple=True)
    kept = batched_nms(second[box], scores[box, label], label, 0.6)[:100]
    return second[box][kept] * image.shape[1] / batch.sizes[0][0], scores[box, label][kept], label[kept]


def by_student(detector):
    def ask(batch, refined, order, _first):
        dense = detector.regions.student(*detector.maps(batch.pixels, fine=False), refined.deltas)
        return dense.scores[0, order], dense.deltas[0, order]

    return ask


def by_teacher(detector, finest):
    """RoIAlign of each box on the level below its anchor's (the same where the pyramid is not staggered), one after another."""

    def ask(batch, refined, order, first):
        maps = detector.maps(batch.pixels, fine=True)
        pooled = [
            roi_align(maps[level], torch.cat([torch.zeros(1), box])[None], 7, 1 / (finest * 2**level), 2)
            for box, level in zip(first, refined.anchors.level[order].tolist(), strict=True)
        ]
        said = detector.regions.teacher(torch.cat(pooled))
        return said.scores, said.deltas

    return ask


@pytest.mark.parametrize(
    ("key", "ask"), [("mimicdet", by_student), ("light-t", partial(by_teacher, finest=4)), ("teacher-r50", partial(by_teacher, finest=4))]
)
def test_inference_by_its_own_definition(key, ask):
    """The S-head's, and the T-head's where that is tested, on P2 to P6."""
    detector = livened(build(key)).eval()
    (image,) = pictures((96, 96))
    with torch.inference_mode():
        found = detect(detector, [image])[0]
        boxes, scores, labels = by_hand(detector, image, ask(detector))
    assert len(labels) > 20
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.scores, scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.boxes, boxes, atol=1e-3, rtol=1e-4)


def test_the_deployed_student_answers_bit_for_bit_without_p2_and_t_head():
    trained = build()
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=1e-2)
    sum(trained.train()(pictures((96, 96), (96, 96)), OBJECTS).values()).backward()
    optimizer.step()
    small = deployed(trained.eval(), request())
    assert small.regions.teacher is None
    assert not [name for name in small.state_dict() if "teacher" in name or name.startswith(("neck.lateral2", "neck.output2"))]
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in trained.parameters())
    images = pictures((96, 96), (70, 96))
    with torch.inference_mode():
        pairs = zip(detect(trained, images), detect(small, images), strict=True)
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for one, other in pairs for name in ("boxes", "scores", "labels"))
        trained.regions.teacher = None
        removed = zip(detect(trained, images), detect(small, images), strict=True)
        assert all(torch.equal(one.boxes, other.boxes) and len(one.boxes) for one, other in removed)


def test_inference_makes_no_p2_even_where_it_is_built():
    detector = build().eval()
    detector.neck.output2 = detector.neck.lateral2 = detector.regions.teacher = None  # to use them would fail
    with torch.inference_mode():
        assert detect(detector, pictures((96, 96)))


@pytest.mark.parametrize(("key", "source"), [("deployed", "mimicdet"), ("light-t", "light"), ("mimicdet-t", "mimicdet")])
def test_retested_rows_take_the_weights_of_their_source(key, source, tmp_path):
    trained = build(source).eval()
    save_file({name: tensor.contiguous() for name, tensor in trained.state_dict().items()}, tmp_path / "w.safetensors")
    retested = build(key, inputs={source: tmp_path / "w.safetensors"}).eval()
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in retested.state_dict().items())
    images = pictures((96, 96))
    with torch.inference_mode():
        ours, theirs = detect(retested, images)[0], detect(trained, images)[0]
    assert torch.equal(ours.scores, theirs.scores) == (key == "deployed")
    assert PAPER.row(key).needs == (source,)


def test_weights_that_lack_a_part_are_named(tmp_path):
    save_file({"neck.output3.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="missing from the weights"):
        build("deployed", inputs={"mimicdet": tmp_path / "w.safetensors"})


def test_the_t_head_reads_one_level_finer_only_where_the_pyramid_is_staggered():
    torch.manual_seed(0)
    seen = {}
    for key in ("mimicdet", "same-pyramid"):
        detector = build(key).train()
        batch = detector.prepare(pictures((96, 96)))
        with torch.no_grad():
            maps = detector.maps(batch.pixels, fine=True)
        seen[key] = [tuple(x.shape[2:]) for x in maps]
    assert seen["mimicdet"][1:] == seen["same-pyramid"]
    assert seen["mimicdet"][0][0] == 2 * seen["same-pyramid"][0][0]


@pytest.mark.parametrize(("key", "finest"), [("mimicdet", 4), ("same-pyramid", 8)])
def test_what_the_t_head_reads_is_roi_align_on_the_level_below_the_anchors(key, finest):
    """P_(l - 1) at half the stride where the pyramid is staggered, P_l where it is not, whatever the box has become."""
    torch.manual_seed(0)
    detector = build(key).train()
    batch = detector.prepare(pictures((96, 96), (70, 96)))
    with torch.no_grad():
        maps = detector.maps(batch.pixels, fine=True)
        refined = detector.refinement(maps[-5:], sizes_of(batch))
        refined.deltas.normal_(std=0.3)
        refined.logits.normal_()  # so that the best are of every level
        adjusted = detector.refinement.proposals(refined)
        rois, position = flatten(adjusted.boxes, adjusted.valid), adjusted.position[adjusted.valid]
        detector.regions.teacher = torch.nn.Identity()
        found = detector.teach(maps, refined)(rois, position)
    level = refined.anchors.level[position].tolist()
    assert len(set(level)) > 1
    for roi, own, pooled in zip(rois, level, found, strict=True):
        wanted = roi_align(maps[own], roi[None], 7, 1 / (finest * 2**own), 2)[0]
        torch.testing.assert_close(pooled, wanted, atol=1e-4, rtol=1e-4)


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
