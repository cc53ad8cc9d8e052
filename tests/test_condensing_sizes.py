"""Parameters and multiply-adds of the condensed heads, by hand arithmetic."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from implementations.condensing.model import CondensedHead, Condensing, condensed_head
from implementations.layers.heads import HeadShape


def _params(module):
    return sum(parameter.numel() for parameter in module.parameters())


# ---- parameters, by hand arithmetic


def _condensed_by_hand(channels, key_parts, length, blocks, *, classes, boxes, fc=1024):
    """The sizes of the paper's text: 3x3 group convolutions of 64 inputs an output, 1x1 back, maps, global part, linear layers."""
    narrow = channels // 8
    block = (narrow * 64 * 9 + narrow) + (channels * narrow + channels)
    maps = channels * key_parts + key_parts
    whole = channels * (channels // 4) + channels // 4
    vector = channels // 4 * length**2 + 49 * key_parts + channels * key_parts
    outputs = (classes + 1) + 4 * boxes
    linear = vector * fc + fc + fc * outputs + outputs if fc else vector * outputs + outputs
    return blocks * block + maps + whole + linear


@pytest.mark.parametrize(
    ("setting", "classes", "printed"),
    [
        ((256, 16, 5, 2), 20, 6.819),
        ((256, 16, 5, 2), 80, 7.126),
        ((1024, 4, 3, 4), 20, 7.953),
        ((1024, 4, 3, 4), 80, 8.261),
        ((256, 1, 1, 2), 20, 0.557),
    ],
)
def test_parameters_of_the_condensed_head(setting, classes, printed):
    channels, key_parts, length, blocks = setting
    head = condensed_head(key_parts, length, blocks=blocks)(HeadShape(channels, 7, classes, classes + 1, 1024))
    assert _params(head) == _condensed_by_hand(channels, key_parts, length, blocks, classes=classes, boxes=classes + 1)
    assert _params(head) / 1e6 == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize(("classes", "printed"), [(20, 20.290), (80, 20.475)])
def test_parameters_of_the_cascade(classes, printed):
    """Three heads of 2, 3 and 4 blocks; one set of four box deltas each."""
    heads = [condensed_head(16, 5, blocks=blocks)(HeadShape(256, 7, classes, 1, 1024)) for blocks in (2, 3, 4)]
    assert sum(map(_params, heads)) == sum(_condensed_by_hand(256, 16, 5, blocks, classes=classes, boxes=1) for blocks in (2, 3, 4))
    assert sum(map(_params, heads)) / 1e6 == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize(("classes", "printed"), [(20, 1.172), (80, 2.809)])
def test_parameters_of_rfcn(classes, printed):
    """No fully connected layer; the 1x1 convolution 2048 -> 256 of the detector counts with the head."""
    head = condensed_head(16, 3, fully_connected=False)(HeadShape(256, 7, classes, classes + 1, 1024))
    assert head.fc is None
    assert _params(head) == _condensed_by_hand(256, 16, 3, 2, classes=classes, boxes=classes + 1, fc=0)
    assert (_params(head) + 2048 * 256 + 256) / 1e6 == pytest.approx(printed, abs=6e-4)


def test_one_key_part_and_one_cell_save_ninety_six_percent():
    baseline = 12544 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 105 + 105
    assert baseline == 14_003_305
    assert 1 - _condensed_by_hand(256, 1, 1, 2, classes=20, boxes=21) / baseline == pytest.approx(0.9602, abs=5e-5)


@pytest.mark.parametrize("change", [{"key_parts": 17}, {"length": 4}, {"blocks": 1}, {"fully_connected": False}])
def test_a_broken_setting_changes_the_parameters(change):
    shape = HeadShape(256, 7, 20, 21, 1024)
    right = condensed_head(16, 5)(shape)
    wrong = CondensedHead(shape, Condensing(**({"key_parts": 16, "length": 5} | change)))
    assert _params(right) != _params(wrong)


# ---- multiply-adds, by hand arithmetic, against torch's own counter


def _macs(head, channels):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        head.eval().to("meta")(torch.zeros(1, channels, 7, 7, device="meta"))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("setting", "printed"),
    [((256, 16, 5, 2), 10.36), ((1024, 4, 3, 4), 60.05)],
)
def test_multiply_adds_with_the_convolution_first(setting, printed):
    """1,000 RoIs; every weight of a convolution acts on 49 cells, a linear layer's once. Eq. 9's order saves the cells that the pooling drops."""
    channels, key_parts, length, blocks = setting
    shape = HeadShape(channels, 7, 20, 21, 1024)
    block = channels // 8 * 64 * 9 + channels * channels // 8
    whole = channels * channels // 4
    linear = (channels // 4 * length**2 + key_parts * (49 + channels)) * 1024 + 1024 * 105
    by_hand = 49 * (blocks * block + channels * key_parts + whole) + linear
    first = condensed_head(key_parts, length, blocks=blocks, channel_first=True)(shape)
    pooled = condensed_head(key_parts, length, blocks=blocks)(shape)
    assert _macs(first, channels) == by_hand
    assert by_hand / 1e6 == pytest.approx(printed, abs=6e-3)
    assert _macs(first, channels) - _macs(pooled, channels) == (49 - length**2) * whole
