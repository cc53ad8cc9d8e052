"""MimicDet's parts against slow references written from the paper's text, torch's own operators, and the arithmetic of its costs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import nms, roi_align

from bench.catalogue import find_paper
from bench.cost import build_on_meta
from bench.meters.macs import count_macs
from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import UserError
from implementations.layers.boxes import iou
from implementations.layers.deformable import rows_of
from implementations.mimicdet.heads import (
    Answer,
    GuidedAlignment,
    SHead,
    Widths,
    mimic_loss,
    pool,
    teacher_head,
)
from implementations.mimicdet.labels import Ranges
from implementations.mimicdet.model import RESNEXT, Settings, build_mimicdet
from implementations.mimicdet.pyramid import StaggeredPyramid
from implementations.mimicdet.refinement import RefinementConfig, suppressed

PAPER = find_paper("mimicdet")
SMALL = Widths(channels=8, feature=16, hidden=(4, 6), classes=3, deviation=0.1)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


# ---- the pyramid


def test_the_pyramid_by_its_own_definition():
    torch.manual_seed(0)
    neck = StaggeredPyramid((4, 8, 16, 32), 8)
    maps = [torch.randn(1, count, 32 >> i, 48 >> i) for i, count in enumerate((4, 8, 16, 32))]
    found = neck(*maps)
    p5 = neck.lateral5(maps[3])
    p4 = neck.lateral4(maps[2]) + p5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(found[3], neck.output5(p5))
    torch.testing.assert_close(found[2], neck.output4(p4))
    p6 = F.conv2d(maps[3], neck.output6.weight, neck.output6.bias, stride=2, padding=1)
    torch.testing.assert_close(found[4], p6)
    torch.testing.assert_close(found[5], F.conv2d(p6.relu(), neck.output7.weight, neck.output7.bias, stride=2, padding=1))
    assert [tuple(x.shape[2:]) for x in found] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def test_without_c2_the_coarse_levels_are_the_same_bit_for_bit():
    neck = StaggeredPyramid((4, 8, 16, 32), 8)
    maps = [torch.randn(1, count, 32 >> i, 48 >> i) for i, count in enumerate((4, 8, 16, 32))]
    assert all(torch.equal(one, other) for one, other in zip(neck(*maps[1:]), neck(*maps)[1:], strict=True))
    assert not hasattr(StaggeredPyramid((8, 16, 32), 8), "lateral2")


# ---- S-head


def small_maps(sides=((9, 12), (5, 6), (3, 3), (2, 2), (1, 1)), batch=2, channels=8):
    torch.manual_seed(3)
    maps = [torch.randn(batch, channels, *side) for side in sides]
    return maps, torch.randn(batch, sum(h * w for h, w in sides), 4)


def test_guided_offsets_at_zero_are_the_plain_convolution():
    torch.manual_seed(0)
    head = SHead(SMALL, "guided*", paths=2)
    for layer in (head.aligned, head.aligned3):
        torch.nn.init.zeros_(layer.offsets[-1].weight)
    maps, deltas = small_maps()
    found = head.rows(maps, deltas).split([x.shape[2] * x.shape[3] for x in maps], 1)
    for i, (rows, x) in enumerate(zip(found, maps, strict=True)):
        conv, padding = (head.aligned3.conv, 1) if i == 0 else (head.aligned.conv, 2)
        assert conv.weight.shape[-1] == 2 * padding + 1
        torch.testing.assert_close(rows, rows_of(F.conv2d(x, conv.weight, conv.bias, padding=padding)).relu(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("alignment", ["conv", "deform", "guided", "guided*"])
def test_dense_detection_is_position_by_position(alignment):
    """What the head says of some positions is what it says of them among all, so training may look at the proposals alone."""
    torch.manual_seed(0)
    head = SHead(SMALL, alignment, paths=2)
    maps, deltas = small_maps()
    dense, rows = head(*maps, deltas), head.rows(maps, deltas)
    some = torch.tensor([[5, 100, 141], [0, 7, 140]])
    few = head.answer(rows.gather(1, some.unsqueeze(-1).expand(-1, -1, 8)))
    torch.testing.assert_close(few.scores, dense.at(some).scores)
    torch.testing.assert_close(few.deltas, dense.at(some).deltas)
    assert dense.scores.shape == (2, deltas.shape[1], 4)
    assert [one.shape[-1] for one in dense.features] == [16, 16]


@pytest.mark.parametrize("alignment", ["conv", "deform", "guided", "guided*"])
def test_rows_of_some_positions_are_those_of_all_with_the_same_gradients(alignment):
    torch.manual_seed(0)
    head = SHead(SMALL, alignment, paths=2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    maps = [torch.randn(2, 8, *grid, requires_grad=True) for grid in ((8, 6), (4, 3), (2, 2), (1, 1), (1, 1))]
    deltas = torch.randn(2, 66, 4)
    position = torch.stack([torch.randperm(66)[:12] for _ in range(2)])
    position[0, :3] = torch.tensor([65, 0, 48])  # an end of the first and the last level, and the first place of another
    position[position == 64] = 63  # one level is looked at by nobody
    found = {}
    for name, rows in (("some", head.rows_at(maps, deltas, position)), ("all", head.rows(maps, deltas)[torch.arange(2)[:, None], position])):
        head.zero_grad()
        gradients = torch.autograd.grad((rows * torch.linspace(-1, 1, rows.numel()).view_as(rows)).sum(), [*maps, *head.aligned.parameters()])
        found[name] = (rows, *gradients)
    assert found["some"][0].std() > 0
    for some, every in zip(found["some"], found["all"], strict=True):
        torch.testing.assert_close(some, every, atol=1e-5, rtol=1e-4)


def test_the_micro_network_is_three_pointwise_convolutions():
    torch.manual_seed(0)
    layer = GuidedAlignment(SMALL, 5)
    deltas = torch.randn(1, 12, 4)
    image = deltas.transpose(1, 2).unflatten(2, (3, 4))
    for i, linear in enumerate(layer.offsets):
        image = F.conv2d(image, linear.weight[:, :, None, None], linear.bias)
        image = image.relu() if i < 2 else image
    assert [tuple(linear.weight.shape) for linear in layer.offsets] == [(4, 4), (6, 4), (50, 6)]
    torch.testing.assert_close(layer.guide(deltas).flatten(2), rows_of(image))


def test_free_offsets_start_at_zero_and_guided_ones_follow_the_regression():
    torch.manual_seed(0)
    maps, deltas = small_maps()
    free, guided, plain = (SHead(SMALL, kind, paths=2) for kind in ("deform", "guided", "conv"))
    plain.load_state_dict({name: tensor for name, tensor in free.state_dict().items() if ".offsets." not in name})
    torch.testing.assert_close(free.rows(maps, deltas), plain.rows(maps, deltas), atol=1e-5, rtol=1e-5)
    assert torch.equal(free.rows(maps, deltas), free.rows(maps, deltas + 1))
    assert not torch.allclose(guided.rows(maps, deltas), guided.rows(maps, deltas + 1))


# ---- T-head


def test_each_box_is_pooled_from_the_level_it_is_told():
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 64 >> i, 64 >> i) for i in range(5)]
    strides, level = (4, 8, 16, 32, 64), torch.tensor([4, 0, 2, 0, 1])
    corner = torch.rand(5, 2) * 100
    rois = torch.cat((torch.tensor([[0.0], [1], [0], [0], [1]]), corner, corner + 20 + 100 * torch.rand(5, 2)), 1)
    found = pool(maps, strides, rois, level)
    for i in range(5):
        at = int(level[i])
        torch.testing.assert_close(found[i : i + 1], roi_align(maps[at], rois[i : i + 1], 7, 1 / strides[at], 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "features"), [("light", [16]), ("heavy", [16]), ("dual", [16, 16])])
def test_teachers_answer(kind, features):
    answer = teacher_head(SMALL, kind)(torch.randn(5, 8, 7, 7))
    assert (answer.scores.shape, answer.deltas.shape) == ((5, 4), (5, 4))
    assert [one.shape[-1] for one in answer.features] == features


# ---- Eq. 1


def answer_of(*features, scores):
    return Answer(scores, torch.zeros(len(scores), 4), features)


def test_the_mimic_loss_by_hand():
    """Regression features at a right angle (1), then opposite (2); logits alike (0) up to their length, then at 60 degrees (1/2): (1+0+2+1/2) / 2."""
    half = math.sqrt(3) / 2
    teacher = answer_of(torch.tensor([[1.0, 0], [0, 3]]), torch.zeros(2, 5), scores=torch.tensor([[1.0, 2], [1, 0]]))
    student = answer_of(torch.tensor([[0.0, 7], [0, -1]]), torch.zeros(2, 5), scores=torch.tensor([[2.0, 4], [0.5, half]]))
    assert float(mimic_loss(teacher, student, "logits")) == pytest.approx((1 + 0 + 2 + 0.5) / 2, abs=1e-6)


def test_on_features_the_classification_features_are_compared():
    same = torch.tensor([[1.0, 1]])
    teacher = answer_of(same, torch.tensor([[1.0, 0]]), scores=torch.tensor([[1.0, 0]]))
    student = answer_of(same, torch.tensor([[0.0, 1]]), scores=torch.tensor([[1.0, 0]]))
    assert float(mimic_loss(teacher, student, "features")) == pytest.approx(1)
    assert float(mimic_loss(teacher, student, "logits")) == pytest.approx(0, abs=1e-6)


def test_with_one_path_its_features_are_compared_once():
    teacher, student = (answer_of(torch.tensor([[x, y]]), scores=torch.zeros(1, 3)) for x, y in ((1.0, 0.0), (0.0, 2.0)))
    assert float(mimic_loss(teacher, student, "logits")) == pytest.approx(1)


def test_no_box_mimics_nothing():
    nothing = answer_of(torch.zeros(0, 4), torch.zeros(0, 4), scores=torch.zeros(0, 3))
    assert float(mimic_loss(nothing, nothing, "logits")) == 0


# ---- proposals


@pytest.mark.parametrize("wanted", [1, 5, 40, 500])
def test_suppression_of_the_best_is_that_of_all(wanted):
    generator = torch.Generator().manual_seed(wanted)
    corner = torch.rand(300, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 5 + 60 * torch.rand(300, 2, generator=generator)), 1)
    scores, good = torch.rand(300, generator=generator), torch.rand(300, generator=generator) > 0.2
    config = RefinementConfig(8, Ranges(), (wanted, 10), 64, 0.01)
    whole = good.nonzero()[:, 0]
    assert torch.equal(suppressed(boxes, scores, good, config), whole[nms(boxes[whole], scores[whole], 0.8)][:wanted])
    kept = boxes[suppressed(boxes, scores, good, config)]
    assert (iou(kept, kept).fill_diagonal_(0) <= 0.8).all()


# ---- costs.md, to 0.1 %

COSTS = {  # params M, GMAC at 800 x 1333; one RoI for the T-heads
    ("mimicdet", "refinement"): (0.591365, 22_300 * (256 * 256 * 9 + 256 * 5) / 1e9),
    ("mimicdet", "student"): (2.868249, 32.92),
    ("guided", "student"): (2.267207, 50.50),
    ("mimicdet", "teacher"): (29.189205, 18.23 / 128),
    ("light", "teacher"): (13.982805, None),
    ("heavy", "teacher"): (16.343125, None),
}


@pytest.mark.parametrize(("key", "part"), COSTS, ids=lambda value: value)
def test_parts_cost_what_costs_md_works_out(key, part):
    detector = build_on_meta(PAPER.row(key), SCALES["paper"])
    parts = {one.name: one for one in detector.parts(800, 1333)}
    params, macs = COSTS[key, part]
    assert sum(p.numel() for p in parts[part].module.parameters()) / 1e6 == pytest.approx(params, rel=1e-3)
    counted = count_macs(parts[part].module, *(torch.zeros(shape, device="meta") for shape in parts[part].inputs))
    assert counted.unknown == ()
    assert macs is None or counted.macs / 1e9 == pytest.approx(macs, rel=1e-3)


def test_p2_costs_at_training_only():
    """0.656 M and 43.8 GMAC: a lateral and an output convolution on 200 x 334."""
    counts = {}
    for key in ("mimicdet", "no-t-head"):
        detector = build_on_meta(PAPER.row(key), SCALES["paper"])
        part = next(one for one in detector.parts(800, 1333) if one.name == "neck")
        macs = count_macs(part.module, *(torch.zeros(shape, device="meta") for shape in part.inputs)).macs / 1e9
        counts[key] = sum(p.numel() for p in part.module.parameters()) / 1e6, macs
    assert counts["mimicdet"][0] - counts["no-t-head"][0] == pytest.approx(0.655872, rel=1e-6)
    assert counts["mimicdet"][1] - counts["no-t-head"][1] == pytest.approx(200 * 334 * (256 * 256 * 10) / 1e9, rel=1e-6)


def test_what_is_deployed_has_34_9_million_weights():
    detector = build_on_meta(PAPER.row("deployed-r50-800"), SCALES["paper"])
    norms = sum(p.numel() for m in detector.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters())
    assert (sum(p.numel() for p in detector.parameters()) - norms) / 1e6 == pytest.approx(34.9, rel=1e-3)
    assert not [name for name in detector.state_dict() if "teacher" in name or name.startswith(("neck.lateral2", "neck.output2"))]


# ---- settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"teacher": "huge"},
        {"alignment": "warp"},
        {"paths": 3},
        {"mimicked": "boxes"},
        {"tested": "both"},
        {"student": False, "teacher": ""},
        {"teacher": "", "tested": "teacher"},
        {"taught_by": "teacher-r50"},
        {"with_p2": True, "staggered": False},
        {"paths": 1},
        {"teacher": "light"},
        {"teacher": "", "taught_by": "teacher-r50", "paths": 1},
    ],
)
def test_impossible_settings_are_named(wrong):
    with pytest.raises(UserError, match="MimicDet"):
        Settings(**wrong)


def test_all_batch_norms_are_fixed_and_nets_of_groups_have_the_blocks_of_another():
    for backbone in ("R50", *RESNEXT):
        detector = build_mimicdet(Request(Setting("coco115k", 80, 800, 1333, backbone), SCALES["smoke"], 3))
        norms = [m for m in detector.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert not any(p.requires_grad for m in norms for p in m.parameters())
    grouped = build_on_meta(PAPER.row("x101"), SCALES["paper"]).backbone
    assert [len(grouped.get_submodule(f"layer{i}")) for i in (1, 2, 3, 4)] == [3, 4, 23, 3]
