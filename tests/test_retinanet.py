"""RetinaNet against torchvision's: the same weights find the same, the same targets give the same loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.ops import sigmoid_focal_loss
from torchvision_pair import photograph, share_weights

from bench.datasets import open_split, parse_data
from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import Target, detect
from implementations.baselines.retinanet import OCTAVE, focal_loss, retinanet
from implementations.layers.jitter import jittered
from implementations.layers.matching import match
from implementations.layers.targets import collate

CLASSES = 20
SETTING = Setting("coco", CLASSES, 800, 1333, "R50")
RENAMED = {  # torchvision's prefix -> ours; every tensor falls under exactly one
    "backbone.body.": "backbone.",
    "backbone.fpn.extra_blocks.": "neck.",
    "backbone.fpn.inner_blocks.": "neck.fpn.inner_blocks.",
    "backbone.fpn.layer_blocks.": "neck.fpn.layer_blocks.",
    "head.classification_head.conv.": "head.class_subnet.convs.",
    "head.classification_head.cls_logits.": "head.class_subnet.predict.",
    "head.regression_head.conv.": "head.box_subnet.convs.",
    "head.regression_head.bbox_reg.": "head.box_subnet.predict.",
}


def renamed(name):
    (prefix,) = [prefix for prefix in RENAMED if name.startswith(prefix)]
    rest = name.removeprefix(prefix)
    return RENAMED[prefix] + (rest.replace(".0.", ".") if prefix.endswith("head.conv.") else rest)  # a Conv2dNormActivation has its parts numbered


def enliven(model):
    """Random weights that give spread scores and boxes: norms with statistics of their own, damped branches."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif ".bn" in name and name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=generator)
        elif name.endswith("bn3.weight"):
            tensor.uniform_(0.1, 0.3, generator=generator)
        elif name.startswith("head.") and name.endswith("weight"):
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)


def scale_outputs(model, images):
    """Divide each prediction's weights by what it gives on the images, so that scores and offsets are those of a trained net in size."""
    for name, deviation, shift in (("head.classification_head.cls_logits", 1.5, -4.0), ("head.regression_head.bbox_reg", 0.3, 0.0)):
        layer, seen = model.get_submodule(name), []
        hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.flatten()))
        model(images)
        hook.remove()
        layer.weight.mul_(deviation / torch.cat(seen).std())
        layer.bias.fill_(shift)


@pytest.fixture(scope="module")
def pair():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, detections_per_img=100).eval()
    with torch.device("meta"):
        ours = retinanet(Request(SETTING, SCALES["paper"], CLASSES)).eval()
    share_weights(ours, theirs, renamed, lambda image: (enliven(theirs), scale_outputs(theirs, [image])))
    return ours, theirs


def assert_same(ours, theirs, images):
    with torch.no_grad():
        found, wanted = detect(ours, images), theirs(images)
    for mine, other in zip(found, wanted, strict=True):
        assert len(other["boxes"]) >= 20
        assert other["scores"].max() > 0.3
        assert mine.labels.tolist() == other["labels"].tolist()
        torch.testing.assert_close(mine.scores, other["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(mine.boxes, other["boxes"], atol=1e-2, rtol=0)


def test_finds_what_torchvisions_finds(pair):
    """At 800 px on a narrow photograph; full size is the slow session's."""
    assert_same(*pair, [photograph(400, 200)])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[(400, 608)], [(300, 301), (250, 420)], [(1333, 800)]])
def test_finds_what_torchvisions_finds_at_more_sizes(pair, sizes):
    assert_same(*pair, [photograph(*size) for size in sizes])


def some_targets():
    none = torch.zeros(3, dtype=torch.bool)
    first = Target(torch.tensor([[10.0, 20, 90, 140], [50, 30, 75, 60], [0, 0, 150, 150]]), torch.tensor([3, 0, 19]), none, none)
    return [first, Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), none[:0], none[:0])]


def test_levels_are_torchvisions(pair):
    """All five: what P7 is made of loses its negative half first."""
    ours, theirs = pair
    pixels = torch.rand(1, 3, 256, 320, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        levels, wanted = ours.neck(*ours.backbone(pixels)), list(theirs.backbone(pixels).values())
    assert len(levels) == len(wanted) == 5
    assert float(levels[3].min()) < -0.01 * float(levels[3].max())
    for level, other in zip(levels, wanted, strict=True):
        torch.testing.assert_close(level, other, atol=1e-4 * float(other.abs().max()), rtol=0)


def test_what_scores_no_more_than_a_twentieth_is_dropped(pair):
    score, anchor, label = pair[0]._best(torch.tensor([[0.04, 0.06], [0.05, 0.5], [0.01, 0.02]]))
    assert score.tolist() == pytest.approx([0.5, 0.06])
    assert (anchor.tolist(), label.tolist()) == ([1, 0], [1, 1])


def test_losses_are_torchvisions(pair):
    ours, theirs = pair
    sizes, ours_config, theirs_size = (160, 224), ours.config, theirs.transform.min_size
    theirs.transform.min_size = (160,)
    targets, images = some_targets(), [photograph(*sizes), photograph(*sizes)]
    theirs.training = theirs.transform.training = True  # these alone: norms keep their statistics
    with torch.no_grad():
        wanted = theirs(images, [{"boxes": one.boxes, "labels": one.labels} for one in targets])
    theirs.eval()
    theirs.transform.min_size = theirs_size
    with torch.no_grad():
        ours.config = replace(ours_config, shorter=160)
        found = ours(images, targets)
        ours.config = ours_config
    assert float(found["class"]) == pytest.approx(float(wanted["classification"]), rel=1e-4)
    assert float(found["box"]) == pytest.approx(float(wanted["bbox_regression"]), rel=1e-4)


def test_focal_loss_is_torchvisions():
    torch.manual_seed(0)
    logits, wanted = torch.randn(50, 7) * 4, (torch.rand(50, 7) > 0.7).float()
    torch.testing.assert_close(focal_loss(logits, wanted, 0.25, 2.0), sigmoid_focal_loss(logits, wanted))


def test_half_right_costs_what_equation_5_says():
    """p = 0.5: 0.25 * 0.5^2 * log 2 of a positive, three times that of a negative."""
    found = focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), 0.25, 2.0)
    assert found.tolist() == pytest.approx([0.25 * 0.25 * 0.693147, 0.75 * 0.25 * 0.693147], rel=1e-5)


def small(**options):
    torch.manual_seed(0)
    return retinanet(Request(SETTING, SCALES["smoke"], 4), **options)


def test_anchors_are_the_papers_at_its_scale():
    with torch.device("meta"):
        sizes = retinanet(Request(SETTING, SCALES["paper"], CLASSES)).config.anchor_sizes
    assert sizes[0] == (32, 40, 50)
    assert [level[0] for level in sizes] == [32, 64, 128, 256, 512]
    assert len(OCTAVE) * 3 == 9


@pytest.mark.parametrize("tier", ["smoke", "proxy"])
def test_nearly_every_object_has_a_positive_anchor(tier):
    detector = retinanet(Request(SETTING, SCALES[tier], 10))
    split = open_split(parse_data("scenes-v1"), "val")
    targets = [split.target(index) for index in range(100)]
    size = tuple(split.image(0).shape[1:])
    batch = detector.prepare([split.image(0)])
    grids = tuple((-(-batch.pixels.shape[2] // stride), -(-batch.pixels.shape[3] // stride)) for stride in detector.config.strides)
    anchors = detector.anchors(grids, tuple(batch.pixels.shape[2:]), torch.device("cpu"))
    whole = type(batch)(batch.pixels, batch.sizes * 100, (size,) * 100)
    truth = collate(targets, whole)
    matches = match(anchors, truth, detector.config.thresholds)
    places = torch.arange(truth.boxes.shape[1]).view(1, -1, 1)
    met = ((matches.index.unsqueeze(1) == places) & (matches.label == 1).unsqueeze(1)).any(2)
    assert float((met & truth.valid).sum() / truth.valid.sum()) >= 0.95


def test_jitter_draws_a_side_for_each_image_from_its_own_seed():
    images = [torch.rand(3, 60, 80) for _ in range(8)]
    none = torch.zeros(0, dtype=torch.bool)
    targets = [Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), none, none, seed=seed) for seed in range(8)]
    seeds = [target.seed for target in targets]
    batch = jittered(images, seeds, (48, 64, 96), 1000)
    assert {min(size) for size in batch.sizes} == {48, 64, 96}
    again = jittered(images[3:4], seeds[3:4], (48, 64, 96), 1000)
    assert again.sizes[0] == batch.sizes[3]
    assert max(max(size) for size in jittered(images, seeds, (96,), 100).sizes) <= 100
    detector = small(jitter=(400, 800))
    assert detector.config.jitter == tuple(round(side * SCALES["smoke"].size) for side in (400, 800))
    assert all(torch.isfinite(loss) for loss in detector.train()(images, targets).values())


def test_a_detector_with_jitter_learns_at_the_sides_that_are_drawn(monkeypatch):
    request = Request(SETTING, SCALES["smoke"], CLASSES)
    detector = retinanet(request, jitter=(640, 800))
    images = [torch.rand(3, 60, 80) for _ in range(6)]
    none = torch.zeros(1, dtype=torch.bool)
    targets = [Target(torch.tensor([[5.0, 5, 40, 40]]), torch.zeros(1, dtype=torch.int64), none, none.clone(), seed) for seed in range(6)]
    seen, network = [], detector.network
    monkeypatch.setattr(detector, "network", lambda batch: (seen.append(batch), network(batch))[1])
    detector(images, targets)
    (batch,) = seen
    assert batch.sizes == jittered(images, range(6), detector.config.jitter, detector.config.longer).sizes
    assert {min(size) for size in batch.sizes} == {round(SCALES["smoke"].pixels(side)) for side in (640, 800)}
