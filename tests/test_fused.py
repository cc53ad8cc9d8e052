"""A fused detector answers as the one it was made from; RoIAlign by rows is torchvision's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import roi_align
from torchvision_pair import photograph, torchvision_pair

from bench.assemble import build_detector
from bench.catalogue import built
from bench.cost import WHOLE
from bench.meters import METERS
from bench.meters.counted import count
from bench.scales import SCALES
from bench.types import UserError, detect
from implementations.layers import fused as module
from implementations.layers.fused import FusedBottleneck, FusedLinear, FusedTopDown, available, fused
from implementations.layers.row_align import row_align

needs_kernels = pytest.mark.skipif(not available(), reason="this build of torch has no oneDNN")
ROWS = (("condensing", "fpn-r50"), ("condensing", "faster-c4"), ("condensing", "cascade"), ("condensing", "k16-l5"), ("light_head", "pyramid"))


def rois_of(draw: torch.Generator, count: int, side: float) -> torch.Tensor:
    """Boxes of all sizes, some beyond the image, some of no extent."""
    corner = torch.rand(count, 2, generator=draw) * side * 1.4 - 0.2 * side
    extent = torch.rand(count, 2, generator=draw) ** 3 * side
    extent[::7] = 0
    image = torch.randint(0, 2, (count, 1), generator=draw).float()
    return torch.cat((image, corner, corner + extent), 1)


def clear_of_the_rim(rois: torch.Tensor, scale: float, side: int, samples: int, shape: tuple[int, int]) -> torch.Tensor:
    """Which RoIs have no sample within rounding of one cell outside the map, where RoIAlign jumps to nothing; elsewhere it is continuous."""
    grid = torch.arange(side * samples, dtype=torch.float64).add(0.5) / (side * samples)
    clear = torch.ones(len(rois), dtype=torch.bool)
    for axis, length in ((1, shape[1]), (2, shape[0])):
        start, extent = rois[:, axis].double() * scale, ((rois[:, axis + 2] - rois[:, axis]).double() * scale).clamp_min(1)
        place = start[:, None] + grid * extent[:, None]
        clear &= (((place + 1).abs() > 1e-4) & ((place - length).abs() > 1e-4)).all(1)
    return clear


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), side=st.sampled_from((1, 2, 7)), samples=st.sampled_from((1, 2, 3)), scale=st.sampled_from((0.25, 1 / 16)))
def test_roi_align_by_rows_is_torchvisions(seed: int, side: int, samples: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 5, 11, 17, generator=draw).contiguous(memory_format=torch.channels_last)
    rois = rois_of(draw, 20, 17 / scale)
    rois = rois[clear_of_the_rim(rois, scale, side, samples, (11, 17))]
    assert len(rois)
    torch.testing.assert_close(
        row_align(features, rois, side, scale, samples), roi_align(features, rois, (side, side), scale, samples), atol=2e-4, rtol=0
    )


def test_no_roi_has_no_features() -> None:
    assert row_align(torch.randn(1, 4, 8, 8), torch.empty(0, 5), 7, 0.25, 2).shape == (0, 4, 7, 7)


@needs_kernels
@pytest.mark.parametrize(("paper", "row"), ROWS)
def test_a_fused_detector_answers_as_the_one_it_was_made_from(paper: str, row: str) -> None:
    found = built()[paper].row(row)
    detector = build_detector(found, SCALES["smoke"], 10, seed=1).eval()
    for layer in detector.modules():  # statistics that a forgotten norm would show
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            assert layer.running_mean is not None
            layer.running_mean.normal_(std=0.1)
    images = [torch.rand(3, 96, 128), torch.rand(3, 128, 96)]
    with torch.inference_mode():
        batch = detector.prepare(images)
        before, after = detector.network(batch).answers, fused(detector).network(batch).answers
    torch.testing.assert_close(after.rois, before.rois, atol=1e-3, rtol=0)
    torch.testing.assert_close(after.scores, before.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(after.deltas, before.deltas, atol=1e-4, rtol=1e-4)


@needs_kernels
def test_a_fused_detector_has_the_multiply_adds_of_the_one_it_was_made_from() -> None:
    detector = build_detector(built()["condensing"].row("fpn-r50"), SCALES["smoke"], 10, seed=1).eval()
    told = [count(one.to("meta").parts(96, 128), WHOLE) for one in (fused(detector), detector)]
    assert [METERS["macs_g"](each) for each in told] == pytest.approx([METERS["macs_g"](told[1])] * 2)
    assert METERS["macs_fixed_g"](told[0]) > 0
    assert list(told[0].total.unknown) == []


@needs_kernels
@pytest.mark.slow
def test_at_full_size_scores_and_boxes_are_torchvisions() -> None:
    ours, theirs = torchvision_pair()
    image = photograph(480, 640)
    with torch.inference_mode():
        mine, other = detect(fused(ours), [image])[0], theirs([image])[0]
    torch.testing.assert_close(mine.scores, other["scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(mine.boxes, other["boxes"], atol=1e-2, rtol=0)


@needs_kernels
def test_what_is_fused_and_that_the_original_is_left_alone() -> None:
    detector = build_detector(built()["condensing"].row("fpn-r50"), SCALES["smoke"], 10, seed=1).eval()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    made = fused(detector, torch.bfloat16)
    kinds = {type(part) for part in made.modules()}
    assert {FusedBottleneck, FusedTopDown, FusedLinear} <= kinds
    assert nn.BatchNorm2d not in kinds
    assert {tensor.dtype for part in made.modules() if isinstance(part, FusedLinear) for tensor in part.parameters()} == {torch.bfloat16}
    assert all(torch.equal(before[name], tensor) for name, tensor in detector.state_dict().items())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        image = torch.rand(3, 96, 128)
        answers = made.network(made.prepare([image])).answers
        assert answers.scores.dtype == torch.float32
        assert torch.isfinite(answers.deltas).all()


def test_what_is_unknown_or_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="nothing of Linear is known here"):
        fused(nn.Linear(2, 2))
    with pytest.raises(UserError, match="its kernels are the CPU's; allowed: --device cpu"):
        fused(nn.Linear(2, 2, device="meta"))
    monkeypatch.setattr(module, "available", lambda: False)
    with pytest.raises(UserError, match="no oneDNN"):
        fused(nn.Linear(2, 2))
