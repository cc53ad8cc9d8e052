"""The student aligns at the kept positions alone and answers as if it had aligned everywhere; its deployed form answers as it does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.assemble import build_detector
from bench.catalogue import built
from bench.meters.rois import count_rois, hold_equal
from bench.scales import SCALES
from bench.types import Target, UserError, detect
from implementations.layers import deformable
from implementations.layers.deformable import sampled, sampled_at
from implementations.layers.fused import available
from implementations.mimicdet.deployment import kept

PAPER = built()["mimicdet"]
needs_kernels = pytest.mark.skipif(not available(), reason="this build of torch has no oneDNN")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def student(key: str) -> nn.Module:
    """A detector whose heads say something, whose offsets reach over several cells, and whose norms are none that could be forgotten."""
    detector: nn.Module = build_detector(PAPER.row(key), SCALES["smoke"], 5, seed=3).eval()
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
    for parameter in (*detector.refinement.parameters(), *detector.regions.student.parameters()):  # type: ignore[union-attr, operator]
        nn.init.normal_(parameter, std=0.15)
    return detector


def pictures() -> list[torch.Tensor]:
    return [torch.rand(3, 96, 128), torch.rand(3, 128, 90)]


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_samples_of_some_positions_are_those_of_all(kernel: int) -> None:
    torch.manual_seed(0)
    x, offsets = torch.randn(2, 4, 6, 9), 3 * torch.randn(2, 54, kernel**2, 2)
    image, place = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 53, 7, 20, 7])
    assert torch.equal(sampled_at(x, offsets[image, place], image, place), sampled(x, offsets, kernel)[image, place])


@needs_kernels
@pytest.mark.parametrize("key", ["conv", "deform", "guided", "mimicdet", "light", "deployed-r101-800"])
def test_the_form_answers_as_the_detector(key: str) -> None:
    torch.manual_seed(1)
    detector, images = student(key), pictures()
    with torch.inference_mode():
        batch = detector.prepare(images)  # type: ignore[operator]
        before, form = detector.network(batch).answers, kept(detector)  # type: ignore[operator]
        after = form.network(batch).answers  # type: ignore[operator]
        assert after.counts == before.counts
        torch.testing.assert_close(after.rois, before.rois, atol=1e-3, rtol=0)
        torch.testing.assert_close(after.scores, before.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(after.deltas, before.deltas, atol=1e-4, rtol=1e-3)  # free offsets reach far here, and carry the maps' rounding on
        assert after.scores.std() > 1e-3
        assert len(form.finish(form.network(batch))) == len(images)  # type: ignore[operator]


@needs_kernels
def test_only_kept_positions_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, looked = student("mimicdet"), []

    def counted(x: torch.Tensor, offsets: torch.Tensor, image: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        looked.append(len(place))
        return sampled_at(x, offsets, image, place)

    monkeypatch.setattr(deformable, "sampled_at", counted)
    with torch.inference_mode():
        detect(kept(detector), pictures()[:1])  # type: ignore[arg-type]
    assert sum(looked) == SCALES["smoke"].proposals[1]


@pytest.mark.parametrize("key", ["mimicdet", "guided", "deform"])
def test_training_looks_at_the_proposals_alone(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counted(x: torch.Tensor, offsets: torch.Tensor, image: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        looked.append(len(place))
        return sampled_at(x, offsets, image, place)

    monkeypatch.setattr(deformable, "sampled_at", counted)
    images = pictures()
    none = torch.zeros(1, dtype=torch.bool)
    targets = [Target(torch.tensor([[8.0, 8.0, 70.0, 80.0]]), torch.tensor([1]), none, none.clone(), seed) for seed in range(len(images))]
    student(key).train()(images, targets)
    assert sum(looked) == SCALES["smoke"].proposals[0] * len(images)


@needs_kernels
def test_it_answers_in_bfloat16_and_its_detector_stays_as_it_was() -> None:
    detector = student("mimicdet")
    names = set(detector.state_dict())
    form = kept(detector, torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(detect(form, pictures())) == 2  # type: ignore[arg-type]
    assert set(detector.state_dict()) == names
    assert not [name for name in form.state_dict() if "teacher" in name or "lateral2" in name]


@pytest.mark.parametrize("detector", [nn.Linear(2, 2), "teacher-r50"])
def test_what_has_no_student_is_refused(detector: nn.Module | str) -> None:
    given = build_detector(PAPER.row(detector), SCALES["smoke"], 5, seed=0) if isinstance(detector, str) else detector
    with pytest.raises(UserError, match="no S-head that answers"):
        kept(given)


@needs_kernels
def test_boxes_that_decode_to_nothing_leave_nothing_to_answer() -> None:
    detector = student("mimicdet")
    head = detector.refinement.head  # type: ignore[union-attr]
    nn.init.zeros_(head.bbox_pred.weight)  # type: ignore[union-attr, arg-type]
    nn.init.constant_(head.bbox_pred.bias, -40.0)  # type: ignore[union-attr, arg-type]
    with torch.inference_mode():
        assert [len(one.boxes) for one in detect(kept(detector), pictures())] == [0, 0]  # type: ignore[arg-type]


@needs_kernels
@pytest.mark.parametrize("form", ["as it learns", "kept"])
def test_a_student_can_be_told_how_many_boxes_it_answers_for(form: str) -> None:
    """As the latency meter does: with random weights hardly a box may be good, and rows with more boxes would be timed against rows with none."""
    detector = student("deployed")
    nn.init.constant_(detector.refinement.head.bbox_pred.bias, -30.0)  # type: ignore[union-attr, arg-type]  # every box decodes to nothing
    detector = kept(detector) if form == "kept" else detector
    with torch.inference_mode():
        assert count_rois(detector.network(detector.prepare(pictures()))) == 0
        hold_equal(detector, 7)
        assert count_rois(detector.network(detector.prepare(pictures()))) == 14
    with pytest.raises(UserError, match=r"--rois 100000: more than the model gives, which keeps \d+ an image"):
        hold_equal(detector, 100000)


def test_more_boxes_than_an_image_has_positions() -> None:
    detector = student("deployed")
    detector.refinement.config = replace(detector.refinement.config, proposals=(10, 10**6))  # type: ignore[type-var]
    hold_equal(detector, 10**5)
    with torch.inference_mode(), pytest.raises(UserError, match=r"--rois 100000: an image has \d+ positions"):
        detector.network(detector.prepare([torch.rand(3, 8, 8)]))
