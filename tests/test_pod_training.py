"""How POD's detectors learn: what shares a scale in training, in which precision it is predicted, which choices the rows are trained by."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from noise import photographs, target
from pod_detectors import CLASSES

from bench.scales import SCALES as TIERS
from bench.spec import Request
from implementations.pod.averages import TYPES, _listening, printed_averages
from implementations.pod.global_scale import ScalePredictor
from implementations.pod.model import Pod, build_pod
from implementations.pod.paper import JITTER, PAPER, SCALES

ROW = PAPER.row("c4-r50")


def build(detector, phase, tier="smoke", **options):
    torch.manual_seed(3)
    return build_pod(Request(ROW.setting, TIERS[tier], CLASSES, {}), detector=detector, phase=phase, **options)


def spread(detector):
    """Predictors whose scales differ from region to region."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if name.endswith("predictor.linear.weight"):
                tensor.normal_(0, 0.05, generator=generator)
    return detector


@pytest.mark.parametrize("sharing", ["image", "roi"])
def test_regions_share_the_scale_of_their_image_while_they_learn(sharing):
    """As in a test: where training shared otherwise, the weights would be of another net than the one tested."""
    detector = spread(build("c4", "gsl", sharing=sharing)).train()
    heard = []
    detector.regions.head.layer4[0].conv2.predictor.register_forward_hook(lambda _, given, out: heard.append((given[1], out.detach())))
    losses = detector(photographs((90, 128), (128, 96)), [target((10, 10, 50, 60)), target((30, 20, 90, 70), seed=1)])
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
    ((members, scales),) = heard
    assert set(members.tolist()) == {0, 1}
    apart = [len(scales[members == image].round(decimals=5).unique(dim=0)) for image in (0, 1)]
    assert apart == [1, 1] if sharing == "image" else min(apart) > 1
    assert not torch.allclose(scales[members == 0][0], scales[members == 1][0])


def test_the_choices_that_the_rows_are_trained_by_are_the_first_that_are_listed():
    assert Pod("c4", "gsl") == Pod("c4", "gsl", sharing="image", start="plain", inherit="centre")


@pytest.mark.parametrize("tier", ["smoke", "proxy", "paper"])
def test_a_c4_head_learns_from_half_of_the_regions_below_the_papers_scale(tier):
    with torch.device("meta"):
        detector = build_pod(Request(ROW.setting, TIERS[tier], CLASSES, {}), detector="c4", phase="gsl")
    assert detector.regions.config.quota.count == (512 if tier == "paper" else TIERS[tier].rois // 2)


def test_scales_are_predicted_in_float32_where_all_else_is_bfloat16():
    """Every record is of mixed precision: a scale of 8.49 rounded to bfloat16 is 8.5."""
    predictor = ScalePredictor(16)
    with torch.no_grad():
        predictor.linear.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    maps = torch.rand(3, 16, 9, 7, generator=torch.Generator().manual_seed(1))
    exact = predictor(maps)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = predictor(maps)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, exact)


@pytest.mark.parametrize(("kind", "block", "printed"), [
    ("c4", "R46", (8.49, 9.34)),
    ("fpn", "R51", (0.46, 0.89)),
    ("retina", "R51", (0.65, 0.91)),
])  # fmt: skip
def test_each_detector_is_counted_with_its_own_line_of_table_3(kind, block, printed):
    assert printed_averages(kind, (3, 4, 6, 3))[block] == printed
    assert set(TYPES) == {"c4", "fpn", "retina"}


def test_an_image_weighs_one_however_many_regions_it_has():
    predictor = ScalePredictor(4)
    with torch.no_grad():
        predictor.linear.weight.fill_(0.25)
    regions = torch.tensor([1.0, 2.0, 3.0, 6.0])[:, None, None, None].expand(4, 4, 2, 2)
    with torch.no_grad(), _listening({"R51": predictor}) as heard:
        predictor(regions, torch.tensor([0, 0, 0, 1]))
    (scales,) = heard["R51"]
    assert scales.tolist() == [[3.0, 3.0], [7.0, 7.0]], "1 + the mean of an image's regions"


def test_averages_are_of_as_many_images_as_the_text_names():
    assert SCALES.images >= 500


def test_a_jittered_row_learns_from_all_shorter_sides_that_are_named():
    row = PAPER.row("retina-r101-fd-wt-jitter")
    assert row.arguments["jitter"] == JITTER
    assert (JITTER[0], JITTER[-1], {after - before for before, after in pairwise(JITTER)}) == (640, 800, {32})
