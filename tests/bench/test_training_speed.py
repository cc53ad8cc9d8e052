"""A training step of the proxy baseline against torchvision's own Faster R-CNN of the same layers, interleaved in one run.

Like with like: the same images, batch, precision, threads, sampled anchors and RoIs, proposal counts, fixed first stages, optimizer; both in a plain
loop; the C library keeps freed memory for both. Not like: our norms are folded and our RoIAlign is two matrix products; that is the point.
Both precisions are printed; the one that this machine trains in is asserted.
"""

import copy
import statistics
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from bench import machine
from bench.datasets import open_split
from bench.datasets.source import parse_data
from bench.scales import SCALES
from bench.schedule import optimizer_for
from bench.spec import Request, Setting
from implementations.baselines.faster_rcnn import faster_rcnn_fpn
from implementations.layers.backbones import freeze

SCALE = SCALES["proxy"]
CLASSES, ROUNDS, STEPS = 10, 12, 4
SPEED_UP = 1.5  # at least so many times as fast on two cores


def ours():
    torch.manual_seed(0)
    model = faster_rcnn_fpn(Request(Setting("voc07+12", 20, 600, 1000, "R50"), SCALE, CLASSES))
    freeze(model.backbone, 2)
    return model


def stage(inplanes, planes, blocks, stride):
    shortcut = nn.Sequential(nn.Conv2d(inplanes, planes * 4, 1, stride, bias=False), FrozenBatchNorm2d(planes * 4))
    first = Bottleneck(inplanes, planes, stride, shortcut, norm_layer=FrozenBatchNorm2d)
    return nn.Sequential(first, *(Bottleneck(planes * 4, planes, norm_layer=FrozenBatchNorm2d) for _ in range(blocks - 1)))


def body(spec):
    layers = OrderedDict(conv1=nn.Conv2d(3, spec.width, 7, 2, 3, bias=False), bn1=FrozenBatchNorm2d(spec.width), relu=nn.ReLU(inplace=True))
    layers["maxpool"] = nn.MaxPool2d(3, 2, 1)
    channels = spec.width
    for i, blocks in enumerate(spec.blocks):
        layers[f"layer{i + 1}"] = stage(channels, spec.width << i, blocks, 1 if i == 0 else 2)
        channels = (spec.width << i) * 4
    for name in ("conv1", "layer1"):
        layers[name].requires_grad_(False)
    return nn.Sequential(layers)


def proposal_head(channels, hidden, anchors):
    """torchvision's own, with as many hidden channels as ours: it knows only as many as the maps have."""
    head = RPNHead(hidden, anchors)
    head.conv[0][0] = nn.Conv2d(channels, hidden, 3, padding=1)
    return head


def theirs(config, fc):
    spec, rpn, roi = SCALE.backbones["R50"], config.rpn, config.regions[0]
    widths = [(spec.width << i) * 4 for i in range(4)]
    backbone = BackboneWithFPN(body(spec), {f"layer{i + 1}": str(i) for i in range(4)}, widths, config.roi_features[0])
    return FasterRCNN(
        backbone,
        min_size=config.shorter,
        max_size=config.longer,
        rpn_anchor_generator=AnchorGenerator(rpn.anchor_sizes, (rpn.ratios,) * len(rpn.anchor_sizes)),
        rpn_head=proposal_head(config.roi_features[0], rpn.channels, len(rpn.ratios)),
        rpn_pre_nms_top_n_train=rpn.candidates[0],
        rpn_post_nms_top_n_train=rpn.proposals[0],
        rpn_batch_size_per_image=rpn.quota.count,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        box_head=TwoMLPHead(config.roi_features[0] * 49, fc),
        box_predictor=FastRCNNPredictor(fc, CLASSES + 1),
        box_batch_size_per_image=roi.quota.count,
        box_positive_fraction=roi.quota.positive,
    )


def batches():
    split = open_split(parse_data("scenes-v1"), "train")
    count = SCALE.schedule.batch
    for first in range(0, STEPS * count, count):
        yield [split.image(i) for i in range(first, first + count)], [split.target(i) for i in range(first, first + count)]


def as_torchvision(targets):
    return [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]


def timed(model, optimizer, work, precision):
    began = time.perf_counter()
    for images, targets in work:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            losses = model(images, targets)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), SCALE.schedule.clip_norm)
        optimizer.step()
    return time.perf_counter() - began


def ratio_interval(slow, fast, rng):
    picks = rng.integers(0, len(slow), (2000, len(slow)))
    return np.percentile(np.median(np.array(slow)[picks], 1) / np.median(np.array(fast)[picks], 1), [2.5, 97.5])


@pytest.mark.bench
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_ours_trains_faster_than_torchvision(precision, threads, capsys):
    machine.keep_memory()
    torch.set_num_threads(threads)
    mine = ours()
    other = theirs(mine.config, SCALE.channels(1024, least=64))
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad and p.ndim > 1) for model in (mine, other)]
    assert counts[0] == counts[1], "not the same layers"
    work = list(batches())
    contenders = [(mine, work), (other, [(images, as_torchvision(copy.copy(targets))) for images, targets in work])]
    optimizers = [optimizer_for(model, SCALE.schedule) for model, _ in contenders]
    seconds = ([], [])
    for turn in range(ROUNDS + 2):
        for (model, given), optimizer, kept in zip(contenders, optimizers, seconds, strict=True):
            model.train()
            taken = timed(model, optimizer, given, precision)
            if turn >= 2:  # warm
                kept.append(taken)
    low, high = ratio_interval(seconds[1], seconds[0], np.random.default_rng(0))
    rates = [STEPS * SCALE.schedule.batch / statistics.median(each) for each in seconds]
    told = f"ours {rates[0]:.1f} images/s, torchvision {rates[1]:.1f}, ratio {rates[0] / rates[1]:.2f} [{low:.2f}, {high:.2f}]"
    with capsys.disabled():
        print(f"\n{precision}, {threads} threads: {told}")
    if threads == 2 and precision == machine.precision():
        assert rates[0] / rates[1] >= SPEED_UP
