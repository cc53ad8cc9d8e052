"""MimicDet tested: section 4.2 by its own definition, deployment bit for bit, and what the T-head reads."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from mimicdet_detectors import OBJECTS, PAPER, build, pictures, request
from safetensors.torch import save_file
from torchvision.ops import batched_nms, roi_align

from bench.types import UserError, detect
from implementations.layers.boxes import clip, decode
from implementations.layers.regions import flatten
from implementations.mimicdet.model import deployed, sizes_of


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def livened(detector):
    """With first and second regressions that move boxes, refinement scores that differ, and classes that differ."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in detector.named_parameters():
        if name.endswith((".score.weight", ".box.weight", "cls_logits.weight", "bbox_pred.weight")):
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 / parameter[0].numel() ** 0.5))
    return detector


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
