"""The small net of Light-Head R-CNN, Table 7: its cost in every reading, its shapes, and that it pretrains, loads and freezes as a ResNet does."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.meters.macs import count_macs
from bench.scales import SCALES
from bench.spec import Xception
from bench.types import UserError
from implementations.layers.backbones import load_backbone
from implementations.layers.xception import READINGS, Block, XceptionClassifier, XceptionLike

SMALL = Xception((8, 16, 32, 64), (1, 2, 1))
# reading: (stride in the first 1x1, 1x1 behind the 3x3, ends separable, entry); the whole in MFLOPs at 224, by the arithmetic below
PLANS = {
    "A": (False, False, False, "concat"),
    "B": (True, True, False, "concat"),
    "C": (True, False, False, "separable"),
    "D": (True, False, False, "pointwise"),
    "E": (False, False, False, "pointwise"),
    "F": (True, True, True, "separable"),
}
STATED = {"A": 143.08, "B": 145.11, "C": 153.11, "D": 152.56, "E": 166.79, "F": 179.57}


def separable(inputs, outputs, cells):
    return (9 * inputs + inputs * outputs) * cells


def block(plan, inputs, outputs, step, cells):
    """Multiply-adds of a block on `cells` input positions."""
    early, pointed, separate, entry = plan
    inner, after = outputs // 4, cells // step**2
    branch = outputs - inputs if step == 2 and entry == "concat" else outputs
    first = separable(inputs, inner, after) if separate else inputs * inner * (after if early else cells)
    last = separable(inner, branch, after) if separate else inner * branch * after
    middle = separable(inner, inner, after) if pointed else 9 * inner * after
    beside = {"concat": 0, "pointwise": inputs * outputs * after, "separable": separable(inputs, outputs, after)}[entry] if step == 2 else 0
    return first + middle + last + beside


def table_7(plan):
    """Conv1 3x3 to 24 on 112 x 112, max pooling, 1 + 3, 1 + 7 and 1 + 3 blocks, FC of 1000."""
    total, inputs, side = 27 * 24 * 112**2 + 576 * 1000, 24, 56
    for outputs, repeated in ((144, 3), (288, 7), (576, 3)):
        total += block(plan, inputs, outputs, 2, side**2)
        side //= 2
        total += repeated * block(plan, outputs, outputs, 1, side**2)
        inputs = outputs
    return total


def counted(reading):
    with torch.device("meta"):
        net = XceptionClassifier(Xception(reading=reading), 1000)
    return sum(count_macs(part.module, torch.empty(part.inputs[0], device="meta")).macs for part in net.parts(224, 224))


@pytest.mark.parametrize("reading", READINGS)
def test_each_reading_costs_what_arithmetic_says(reading):
    assert counted(reading) == table_7(PLANS[reading])
    assert counted(reading) / 1e6 == pytest.approx(STATED[reading], abs=0.005)


def test_the_default_is_within_two_per_cent_of_what_is_printed():
    assert Xception().reading == "A"
    assert abs(counted("A") / 145e6 - 1) < 0.02


def test_body_at_the_sizes_of_table_8():
    """2.73 GMAC at 800 x 1200, 2.19 at 700 x 1100 (sides that 32 does not divide round up: one per cent); with FC 1.52 M weights."""
    with torch.device("meta"):
        net = XceptionLike(Xception())
        whole = XceptionClassifier(Xception(), 1000)
    for size, macs in (((800, 1200), 2.73), ((700, 1100), 2.19)):
        assert count_macs(net, torch.empty(1, 3, *size, device="meta")).macs / 1e9 == pytest.approx(macs, rel=0.011)
    weights = sum(p.numel() for p in whole.parameters() if p.dim() > 1)
    assert weights / 1e6 == pytest.approx(1.52, abs=0.005)


@pytest.mark.parametrize("reading", READINGS)
def test_maps_at_strides_16_and_32(reading):
    net = XceptionLike(Xception(SMALL.channels, SMALL.blocks, reading))
    assert [tuple(x.shape) for x in net(torch.rand(2, 3, 96, 64))] == [(2, 32, 6, 4), (2, 64, 3, 2)]
    assert net.channels == (32, 64)


def test_an_entry_keeps_its_pooled_input_beside_the_bottleneck():
    entry = Block(8, 16, 2, reading=READINGS["A"], norm="frozen").eval()
    x = torch.rand(1, 8, 6, 6)
    torch.testing.assert_close(entry(x)[:, :8], nn.functional.avg_pool2d(x, 3, 2, 1))


def test_fixed_norms_fold_into_the_convolutions_and_learn_their_scale():
    frozen, plain = XceptionLike(SMALL), XceptionLike(SMALL, norm="batch")
    generator = torch.Generator().manual_seed(0)
    for layer in frozen.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    plain.load_state_dict(frozen.state_dict())
    x = torch.rand(2, 3, 64, 64)
    for mine, other in zip(frozen.train()(x), plain.eval()(x), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    sum(one.square().mean() for one in frozen(x)).backward()
    assert all(p.grad is not None for p in frozen.parameters())


def test_a_detector_takes_a_pretrained_body_and_fixes_stages_one_and_two(tmp_path):
    classifier = XceptionClassifier(SMALL, 5)
    loss = classifier([torch.rand(3, 48, 48) for _ in range(4)], torch.tensor([0, 1, 2, 3]))["class"]
    loss.backward()
    assert torch.isfinite(loss)
    save_file({name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}, tmp_path / "w.safetensors")
    detector = nn.Module()
    detector.backbone = XceptionLike(SMALL)
    load_backbone(detector, tmp_path / "w.safetensors")
    for name, tensor in detector.backbone.state_dict().items():
        assert torch.equal(tensor, classifier.backbone.state_dict()[name])
    fixed = {name.split(".")[0] for name, p in detector.backbone.named_parameters() if not p.requires_grad}
    assert fixed == {"conv1", "layer1"}


def test_an_unknown_reading_is_named():
    with pytest.raises(UserError, match=r"'Z'.*A, B"):
        XceptionLike(Xception(reading="Z"))


def test_every_tier_has_a_small_net_of_its_own():
    plans = [scale.backbones["X145"] for scale in SCALES.values()]
    assert all(isinstance(plan, Xception) for plan in plans)
    assert SCALES["paper"].backbones["X145"] == Xception((24, 144, 288, 576), (4, 8, 4))
