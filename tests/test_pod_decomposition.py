"""POD's scale decomposition and weight transfer: the text's examples, and properties that hold for any scale."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from bench.meters.macs import count_macs
from bench.types import UserError
from implementations.pod.decomposition import DecomposedConv, decompose, transferred
from implementations.pod.global_scale import sampled_conv

SCALE = st.floats(0.01, 12.0)
QUICK = settings(max_examples=60, deadline=None)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def told(scales, channels=100):
    plan = decompose(scales, channels)
    return [(part.dilation, part.channels) for part in plan.parts], round(plan.alpha, 9)


@pytest.mark.parametrize(("scales", "parts", "alpha"), [
    ((1.7, 2.9), [((1, 2), 20), ((2, 3), 80)], 0.8),  # Figure 3
    ((2.02, 1.7), [((2, 1), 30), ((2, 2), 70)], 0.7),  # section 3.2
    ((1.98, 1.7), [((2, 1), 30), ((2, 2), 70)], 0.7),  # from below
    ((2.02, 0.98), [((2, 1), 100)], 0.0),  # both near: no split
    ((1.0, 1.0), [((1, 1), 100)], 0.0),
    ((0.88, 0.95), [((0, 1), 12), ((1, 1), 88)], 0.88),  # Table 3, R31 of C4: 0.95 counts as near, the lower part is 1 x 3
    ((0.46, 0.89), [((0, 0), 32), ((1, 1), 68)], 0.675),  # R51 of FPN: 67.5 of 100 are 68, a half upwards
    ((0.03, 1.5), [((0, 1), 50), ((0, 2), 50)], 0.5),  # near 0: a kernel side of 1 in both
    ((8.49, 9.34), [((8, 9), 58), ((9, 10), 42)], 0.415),  # 41.5, a half upwards
    ((1.125, 1.125), [((1, 1), 87), ((2, 2), 13)], 0.125),  # 12.5, upwards to an odd number too
])  # fmt: skip
def test_the_rules_of_section_3_2(scales, parts, alpha):
    assert told(scales) == (parts, pytest.approx(alpha))


def test_a_dilation_of_0_is_a_kernel_side_of_1():
    plain = nn.Conv2d(4, 20, 3, padding=1, bias=False)
    kernels = {scales: [tuple(part.kernel_size) for part in DecomposedConv(plain, decompose(scales, 20)).parts] for scales in (
        (0.5, 0.5), (0.5, 1.0), (1.0, 0.5), (0.5, 2.5))}  # fmt: skip
    assert kernels == {
        (0.5, 0.5): [(1, 1), (3, 3)],
        (0.5, 1.0): [(1, 3), (3, 3)],
        (1.0, 0.5): [(3, 1), (3, 3)],
        (0.5, 2.5): [(1, 3), (3, 3)],
    }


@pytest.mark.parametrize(("scales", "channels", "said"), [
    ((float("nan"), 1.0), 16, r"R46: scales \(nan, 1\); allowed: finite and positive"),
    ((1.0, float("inf")), 16, "finite and positive"),
    ((-0.2, 1.0), 16, "finite and positive"),
    ((1.0, 0.0), 16, "finite and positive"),
    ((1.06, 1.0), 4, r"R46: scales \(1.06, 1\) split 4 channels into 4 and 0; allowed: at least one each"),
])  # fmt: skip
def test_what_cannot_be_decomposed_names_the_block(scales, channels, said):
    with pytest.raises(UserError, match=said) as caught:
        decompose(scales, channels, name="R46")
    assert "\n" not in str(caught.value)


@QUICK
@given(SCALE, SCALE, st.sampled_from([16, 48, 128, 512]))
def test_all_channels_are_shared_out_and_dilations_are_the_neighbours(down, right, channels):
    plan = decompose((down, right), channels)
    assert sum(part.channels for part in plan.parts) == channels
    assert all(part.channels > 0 for part in plan.parts)
    for at, scale in enumerate((down, right)):
        dilations = [part.dilation[at] for part in plan.parts]
        near = abs(scale - round(scale)) <= 0.05 + 1e-6
        assert dilations == ([round(scale)] * len(dilations) if near else [math.floor(scale), math.floor(scale) + 1])


def connections(plan, channels_in, position):
    """Weights set to 1: how many paths an output at 0 has to the input at this relative position (down, right), all channels together."""
    total = 0
    for part in plan.parts:
        taps = [(i * part.dilation[0], j * part.dilation[1]) for i in ((-1, 0, 1) if part.kernel[0] == 3 else (0,)) for j in (
            (-1, 0, 1) if part.kernel[1] == 3 else (0,))]  # fmt: skip
        total += taps.count(position) * part.channels * channels_in
    return total


@QUICK
@given(st.floats(1.0, 12.0), st.integers(1, 9), st.sampled_from([16, 128]))
def test_density_is_kept_in_one_direction(scale, other, channels):
    """With the other direction an integer: (1 - alpha) C_in C_out at the lower dilation, alpha C_in C_out at the upper, up to half a channel."""
    low, fraction = math.floor(scale), scale - math.floor(scale)
    assume(0.06 < fraction < 0.94)
    plan, inputs = decompose((scale, float(other)), channels), 3
    for sign in (-1, 1):
        for dilation, share in ((low, 1 - fraction), (low + 1, fraction)):
            wanted = share * inputs * channels
            assert abs(connections(plan, inputs, (sign * dilation, other)) - wanted) <= 0.5 * inputs + 1e-6


@QUICK
@given(st.floats(1.0, 12.0), st.floats(1.0, 12.0))
def test_density_as_a_whole_is_kept_in_two(down, right):
    """Footnote 1: in two directions single positions change; the number of all connections does not, while no dilation is 0."""
    plan = decompose((down, right), 64)
    assert sum(part.channels * part.kernel[0] * part.kernel[1] for part in plan.parts) == 64 * 9


@QUICK
@given(SCALE, SCALE, st.integers(1, 2), st.integers(5, 12))
def test_never_costs_more_than_the_plain_convolution(down, right, stride, side):
    with torch.device("meta"):
        plain = nn.Conv2d(8, 32, 3, stride=stride, padding=1, bias=False)
        parts = DecomposedConv(plain, decompose((down, right), 32)).parts
        x = torch.empty(1, 8, side, side + 3)
    params = sum(p.numel() for part in parts for p in part.parameters())
    macs = sum(count_macs(part, x).macs for part in parts)
    whole = count_macs(plain, x).macs
    assert params <= plain.weight.numel()
    assert macs <= whole
    if min(down, right) >= 1:
        assert (params, macs) == (plain.weight.numel(), whole)


@pytest.mark.parametrize(("scales", "share"), [((0.46, 0.89), 0.71), ((0.77, 0.82), 0.82), ((0.89, 0.93), 0.92)])
def test_printed_scales_below_1_keep_the_stated_share_of_weights(scales, share):
    """Of R50-FPN's strided convolutions: 71, 82 and 92 % by arithmetic on Table 3."""
    plan = decompose(scales, 512)
    kept = sum(part.channels * part.kernel[0] * part.kernel[1] for part in plan.parts) / (512 * 9)
    assert kept == pytest.approx(share, abs=0.005)


def norm(channels):
    layer = nn.BatchNorm2d(channels).eval()
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    nn.init.uniform_(layer.weight)
    return layer


@QUICK
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 2))
def test_transfer_at_integral_scales_changes_nothing(down, right, stride):
    plain = nn.Conv2d(6, 12, 3, stride=stride, padding=1, bias=False)
    x, fixed = torch.randn(2, 6, 11, 13), norm(12)
    with torch.no_grad():
        scales = torch.tensor([[down, right]] * 2, dtype=torch.float32)
        learnt = fixed(sampled_conv(x, plain.weight, scales, stride))
        found = DecomposedConv(plain, decompose((float(down), float(right)), 12))(x, fixed)
    torch.testing.assert_close(found, learnt, atol=1e-5, rtol=0)


def test_split_convolutions_are_their_halves_at_their_own_dilations():
    """Figure 4: the lower part has the first weights at the lower dilations, the upper part the last at the upper."""
    plain, fixed = nn.Conv2d(6, 20, 3, padding=1, bias=False), norm(20)
    x = torch.randn(2, 6, 11, 13)
    with torch.no_grad():
        found = DecomposedConv(plain, decompose((1.7, 2.9), 20))(x, fixed)
        lower = F.conv2d(x, plain.weight[:4], padding=(1, 2), dilation=(1, 2))
        upper = F.conv2d(x, plain.weight[4:], padding=(2, 3), dilation=(2, 3))
        torch.testing.assert_close(found, fixed(torch.cat((lower, upper), 1)), atol=1e-5, rtol=1e-5)


def test_narrow_kernels_inherit_the_corresponding_position_or_the_sum():
    """Figure 5: 1 x 3 takes the middle row, 3 x 1 the middle column, 1 x 1 the centre."""
    weight = torch.arange(2 * 9.0).view(2, 1, 3, 3)
    row, column, centre = (decompose(scales, 2) for scales in ((0.5, 1.0), (1.0, 0.5), (0.5, 0.5)))
    assert transferred(weight, row)[0].flatten().tolist() == [3, 4, 5]
    assert transferred(weight, column)[0].flatten().tolist() == [1, 4, 7]
    assert transferred(weight, centre)[0].flatten().tolist() == [4]
    assert transferred(weight, centre)[1].flatten().tolist() == list(range(9, 18))
    assert transferred(weight, row, inherit="sum")[0].flatten().tolist() == [9, 12, 15]
    assert transferred(weight, centre, inherit="sum")[0].flatten().tolist() == [36]


def test_the_sum_keeps_the_function_at_a_scale_of_0():
    plain = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    x = torch.randn(1, 3, 7, 7)
    plan = decompose((0.01, 2.0), 4)  # near 0
    with torch.no_grad():
        (weight,) = transferred(plain.weight, plan, inherit="sum")
        learnt = sampled_conv(x, plain.weight, torch.tensor([[0.0, 2.0]]))
        torch.testing.assert_close(F.conv2d(x, weight, padding=(0, 2), dilation=(1, 2)), learnt, atol=1e-5, rtol=1e-5)


def test_an_unknown_way_to_inherit_is_said():
    with pytest.raises(UserError, match=r"inherit is 'mean'; allowed: 'centre', 'sum'"):
        transferred(torch.zeros(2, 1, 3, 3), decompose((1.5, 1.5), 2), inherit="mean")
