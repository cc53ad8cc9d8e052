"""Meters against arithmetic by hand, and against two other counters."""

from dataclasses import dataclass

import pytest
import torch
import torchvision.ops as vision
from meta_tensors import META, empty
from ptflops import get_model_complexity_info
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench.cost_table import format_macs
from bench.meters import METERS
from bench.meters.bytes import size_rule
from bench.meters.conventions import CONVENTIONS, convention
from bench.meters.counted import count, count_part, fingerprint
from bench.meters.macs import MacCount, count_macs
from bench.meters.operators import NO_MACS, PRODUCTS
from bench.meters.params import count_params
from bench.spec import CostRule
from bench.types import UserError


def macs(function, *inputs, rule="mac"):
    counted = count_macs(function, *inputs, rule=rule)
    assert not counted.bound, counted.unknown
    return counted.macs


# ---- formulas by hand


def test_convolution_is_weights_times_output_positions():
    layer = nn.Conv2d(3, 8, 5, stride=2, padding=2, device=META)
    assert macs(layer, empty(2, 3, 11, 20)) == 8 * 3 * 25 * (2 * 6 * 10)


def test_groups_and_dilation():
    layer = nn.Conv2d(12, 6, 3, dilation=2, groups=3, device=META)  # 12/3 = 4 channels a filter; 9 - 4 = 5, 10 - 4 = 6 cells
    assert macs(layer, empty(1, 12, 9, 10)) == 6 * 4 * 9 * 5 * 6


def test_one_and_three_dimensions_and_no_batch():
    assert macs(nn.Conv1d(4, 5, 3, device=META), empty(2, 4, 10)) == 5 * 4 * 3 * 2 * 8
    assert macs(nn.Conv3d(2, 3, 2, device=META), empty(1, 2, 4, 4, 4)) == 3 * 2 * 8 * 27
    assert macs(nn.Conv2d(3, 8, 1, device=META), empty(3, 4, 5)) == 8 * 3 * 20


def test_transposed_convolution_is_weights_times_input_positions():
    layer = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, device=META)  # weight (6, 2, 3, 3)
    assert macs(layer, empty(2, 6, 5, 7)) == 6 * 2 * 9 * (2 * 5 * 7)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_on_vectors_and_on_batches_of_rows(bias):
    layer = nn.Linear(7, 11, bias=bias, device=META)
    assert macs(layer, empty(3, 7)) == 3 * 7 * 11
    assert macs(layer, empty(2, 5, 7)) == 10 * 7 * 11
    assert macs(layer, empty(7)) == 77


def test_matrix_products():
    assert macs(torch.mm, empty(2, 3), empty(3, 5)) == 30
    assert macs(torch.bmm, empty(4, 2, 3), empty(4, 3, 5)) == 4 * 30
    assert macs(torch.baddbmm, empty(4, 2, 5), empty(4, 2, 3), empty(4, 3, 5)) == 4 * 30
    assert macs(torch.addmm, empty(2, 5), empty(2, 3), empty(3, 5)) == 30
    assert macs(torch.mv, empty(2, 3), empty(3)) == 6
    assert macs(torch.dot, empty(9), empty(9)) == 9
    assert macs(torch.matmul, empty(6, 1, 2, 3), empty(4, 3, 5)) == 6 * 4 * 30
    assert macs(lambda a, b: torch.einsum("bik,bjk->bij", a, b), empty(4, 2, 3), empty(4, 5, 3)) == 4 * 30


def test_attention_counts_both_products():
    query, key, value = empty(2, 4, 6, 8), empty(2, 4, 9, 8), empty(2, 4, 9, 8)
    assert macs(F.scaled_dot_product_attention, query, key, value) == 2 * 4 * 6 * 9 * (8 + 8)
    real = [torch.zeros(one.shape) for one in (query, key, value)]
    assert macs(F.scaled_dot_product_attention, *real) == 2 * 4 * 6 * 9 * (8 + 8)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_roi_align_samples_four_corners(device):
    features, boxes = torch.zeros(1, 6, 20, 20, device=device), torch.tensor([[0, 0.0, 0.0, 10.0, 5.0]] * 3, device=device)

    def align(maps, rois):
        return vision.roi_align(maps, rois, (7, 4), sampling_ratio=2)

    assert macs(align, features, boxes) == 0  # it has no weights
    assert macs(align, features, boxes, rule="mac+sampling") == 3 * 6 * 7 * 4 * (2 * 2) * 4


def test_roi_align_with_an_adaptive_grid_needs_the_boxes():
    def align(maps, rois):
        return vision.roi_align(maps, rois, 2, sampling_ratio=-1, aligned=True)

    boxes = torch.tensor([[0, 0.0, 0.0, 10.0, 5.0], [0, 0.0, 0.0, 2.0, 2.0]])
    features = torch.zeros(1, 6, 20, 20)  # ceil(5 / 2) x ceil(10 / 2) = 15 points a bin, and 1
    assert macs(align, features, boxes, rule="mac+sampling") == 6 * 4 * (15 + 1) * 4
    lost = count_macs(align, features.to(META), boxes.to(META), rule="mac+sampling")
    assert lost.bound
    assert lost.unknown == ("torchvision::roi_align",)


def test_other_regions_of_torchvision():
    maps, boxes = torch.zeros(1, 8, 12, 12), torch.tensor([[0, 0.0, 0.0, 8.0, 8.0]])
    sampled = {"rule": "mac+sampling"}
    assert macs(lambda a, b: vision.ps_roi_align(a, b, 2, sampling_ratio=3), maps, boxes, **sampled) == 2 * 2 * 2 * 9 * 4
    for pool in (vision.ps_roi_pool, vision.roi_pool):
        assert macs(lambda a, b, pool=pool: pool(a, b, 2), maps, boxes, **sampled) == 0
    assert macs(lambda b: vision.nms(b[:, 1:], b[:, 0], 0.5), boxes) == 0


def test_deformable_convolution_with_and_without_its_sampling():
    x, offset, weight = empty(2, 6, 9, 9), empty(2, 18, 9, 9), empty(4, 3, 3, 3)  # two groups

    def deform(*inputs):
        return vision.deform_conv2d(*inputs, padding=1)

    products = 4 * 3 * 9 * 2 * 81
    assert macs(deform, x, offset, weight) == products
    assert macs(deform, x, offset, weight, rule="mac+sampling") == products + 4 * (6 * 9 * 2 * 81)


def test_what_mmdet_counts_beside_the_products():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    cells = 4 * 6 * 8
    by_hand = 3 * cells + cells + 2 * cells + cells + cells + cells // 4 + 4 * 5
    assert macs(net.to(META), empty(1, 3, 6, 8), rule="mmdet") == by_hand
    assert macs(net, empty(1, 3, 6, 8)) == 3 * cells + 4 * 5


def test_mmdet_does_not_see_functional_activations_and_sees_frozen_norms():
    def function(x):
        return F.relu(x).mean((2, 3)).mean()

    assert macs(function, empty(2, 3, 4, 4), rule="mmdet") == 2 * 3 * 16  # a global pooling; a mean of vectors is none
    assert macs(vision.FrozenBatchNorm2d(3).to(META), empty(2, 3, 4, 4), rule="mmdet") == 2 * 2 * 3 * 16


def test_a_module_called_twice_is_counted_twice_and_no_hook_stays():
    relu = nn.ReLU()
    net = nn.Sequential(relu, relu)
    assert macs(net, empty(5), rule="mmdet") == 10
    assert not relu._forward_hooks


# ---- gaps are said


@torch.library.custom_op("leandet_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_unknown_operator_makes_a_named_lower_bound(device):
    layer = nn.Linear(10, 10, device=device)
    counted = count_macs(lambda x: layer(twice(x)), torch.zeros(1000, 10, device=device))
    assert counted.bound
    assert counted.unknown == ("leandet_tests::twice",)
    assert counted.macs == 100_000
    assert str(counted) == ">= 0.000 GMAC (no formula for leandet_tests::twice)"


def test_a_bound_stays_a_bound_when_counts_are_added_and_multiplied():
    bound, exact = MacCount(2, {"a": 2}, ("x::y",)), MacCount(3, {"a": 1, "b": 2})
    assert (bound.times(10) + exact) == MacCount(23, {"a": 21, "b": 2}, ("x::y",))
    assert not bound.times(0).bound


def test_format():
    assert format_macs(10.3918) == "10.392 GMAC"
    assert format_macs(734.039) == "734.04 GMAC"
    assert format_macs(1.5, ("a::b", "c::d")) == ">= 1.500 GMAC (no formula for a::b, c::d)"


def test_fused_operators_of_which_torch_tells_nothing_are_named():
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    assert count_macs(layer, torch.zeros(1, 3, 8)).unknown == ("aten::_transformer_encoder_layer_fwd",)


def test_suppression_on_the_meta_device_says_what_to_do():
    with pytest.raises(UserError, match="with RoIs given"):
        count_macs(lambda b: vision.nms(b, b[:, 0], 0.5), empty(5, 4))


def test_no_operator_is_both_free_and_counted():
    assert not NO_MACS & PRODUCTS.keys()


LEFT, RIGHT = (2, 3, 4, 5), (2, 3, 1, 1)
SHORTCUTS = {  # each operator whose output is known without asking torch: calls of it, by functions of real tensors
    "relu": lambda a, _: torch.relu(a),
    "sigmoid": lambda a, _: torch.sigmoid(a),
    "clamp": lambda a, _: torch.clamp(a, 0.0, 1.0),
    "clamp_min": lambda a, _: torch.clamp_min(a, 0.0),
    "add": lambda a, b: a + b,
    "add of a number": lambda a, _: a + 1,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: b * a,
    "div": lambda a, b: a / b,
    "div of another type": lambda a, b: a / b.double(),
    "mean": lambda a, _: a.mean((2, 3)),
    "mean of all": lambda a, _: a.mean(),
    "mean as double": lambda a, _: a.mean(-1, dtype=torch.float64),
    "amax": lambda a, _: a.amax((-2, -1), keepdim=True),
    "amax of all": lambda a, _: a.amax(()),
    "mm": lambda a, _: a.view(6, 20) @ a.view(6, 20).t(),
    "addmm": lambda a, _: torch.addmm(a.view(-1)[:6], a.view(6, 20), a.view(20, 6)),
    "cat": lambda a, _: torch.cat([a, a[:, :1].contiguous()], 1),
    "cat of views and types": lambda a, _: torch.cat([a.transpose(2, 3), a.transpose(2, 3).double()], -2),
    "batch norm": lambda a, _: F.batch_norm(a, a.new_zeros(3), a.new_ones(3)),
    "channels last": lambda a, _: torch.relu(a.to(memory_format=torch.channels_last)),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_outputs_on_meta_have_the_shape_and_type_of_real_ones(name):
    """The meter does not ask torch for the outputs of these; they must be what torch would say."""
    seen = []
    for device in ("cpu", "meta"):
        inputs = (torch.ones(LEFT, device=device), torch.ones(RIGHT, device=device))
        count_macs(lambda *given: seen.append(SHORTCUTS[name](*given)), *inputs)
    real, counted = seen
    assert counted.is_meta
    assert (counted.shape, counted.dtype, counted.stride()) == (real.shape, real.dtype, real.stride())


def test_in_place_operators_return_the_tensor_they_were_given():
    seen = []
    count_macs(lambda x: seen.append((x, x.relu_(), x.add_(1))), empty(3))
    assert seen[0][0] is seen[0][1] is seen[0][2]


def test_inference_mode_is_counted_the_same():
    layer = nn.Linear(7, 11, device=META)
    with torch.inference_mode():
        assert macs(layer, empty(3, 7)) == 231


def test_training_state_is_left_as_it_was():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()).train()
    net[0].eval()
    count_macs(net, torch.zeros(1, 2, 3, 3))
    assert [one.training for one in net.modules()] == [True, False, True]


def test_unknown_conventions_name_those_there_are():
    with pytest.raises(UserError, match="mac, mac\\+sampling, mmdet"):
        convention("flops")
    with pytest.raises(UserError, match="mb, mib_ceil"):
        size_rule("gb")
    assert all(rule.meaning for rule in CONVENTIONS.values())


# ---- two other counters


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.depth = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2, bias=False)
        self.fc = nn.Linear(8 * 16 * 16, 32, bias=False)
        self.heads = nn.Linear(32, 105, bias=False)

    def forward(self, x):
        return self.heads(self.fc(self.up(self.depth(self.stem(x).relu())).flatten(1)).relu())


def test_half_of_what_torch_counts():
    net, x = SmallNet().eval(), torch.zeros(2, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        net(x)
    assert counter.get_total_flops() == 2 * macs(net, x) > 0


def test_as_ptflops_counts_convolutions_and_linear_layers():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.Conv2d(16, 8, 3, groups=4, bias=False), nn.Flatten(), nn.Linear(8 * 144, 10, bias=False))
    theirs, parameters = get_model_complexity_info(net, (3, 16, 16), as_strings=False, print_per_layer_stat=False, verbose=False, backend="pytorch")
    assert theirs == macs(net, torch.zeros(1, 3, 16, 16))
    assert parameters == count_params(net)


# ---- parts: fixed + RoIs x each


@dataclass(frozen=True)
class OnePart:
    name: str
    module: nn.Module
    inputs: tuple
    per_roi: bool = False
    head: bool = False


def small_parts():
    body, neck = nn.Conv2d(3, 8, 3, padding=1, device=META), nn.Conv2d(8, 4, 1, device=META)
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 9, 10, device=META), nn.Linear(10, 6, device=META))
    return (
        OnePart("body", body, ((1, 3, 10, 12),)),
        OnePart("neck", neck, ((1, 8, 10, 12),), head=True),
        OnePart("head", head, ((1, 4, 3, 3),), per_roi=True, head=True),
    )


@pytest.mark.parametrize("rois", [0, 1, 100, 300, 1000])
def test_cost_is_linear_in_rois(rois):
    counted = count(small_parts(), CostRule(scope="model", rois=rois))
    assert counted.total.macs == 8 * 27 * 120 + 32 * 120 + rois * (360 + 60)


@pytest.mark.parametrize("rois", [100, 300, 1000])
def test_one_call_with_all_rois_costs_the_same(rois):
    part = small_parts()[2]
    assert macs(part.module, empty(rois, 4, 3, 3)) == rois * 420


def test_the_head_alone():
    counted = count(small_parts(), CostRule(rois=100))
    assert (counted.fixed.macs, counted.per_roi.macs) == (32 * 120, 420)
    values = {name: meter(counted) for name, meter in METERS.items()}
    parameters = 8 * 4 + 4 + 36 * 10 + 10 + 60 + 6
    expected = {"params_m": parameters / 1e6, "size_mb": 4 * parameters / 1e6, "macs_fixed_g": 3840e-9, "macs_per_roi_g": 420e-9}
    assert values == pytest.approx(expected | {"macs_g": 45840e-9})


def test_two_parts_of_one_name_are_no_detector():
    part = small_parts()[0]
    with pytest.raises(AssertionError, match="share a name"):
        count((part, OnePart("body", nn.Linear(3, 4, device=META), ((1, 3),))), CostRule(scope="model"))


def test_a_count_is_shared_only_by_equal_modules():
    first, second = (nn.Conv2d(4, 4, 1, device=META) for _ in range(2))
    assert fingerprint(first) == fingerprint(second)
    changed = (
        nn.Conv2d(4, 4, 1, bias=False, device=META),
        nn.Conv2d(4, 4, 1, stride=2, device=META),
        nn.Conv2d(4, 4, 1, groups=2, device=META),
        nn.Linear(4, 4, device=META),
    )
    assert len({fingerprint(one) for one in (first, *changed)}) == 5


def test_a_plain_attribute_tells_modules_apart():
    class Repeats(nn.Module):
        def __init__(self, times):
            super().__init__()
            self.times, self.layer = times, nn.Linear(4, 4, device=META)

        def forward(self, x):
            for _ in range(self.times):
                x = self.layer(x)
            return x

    for times in (1, 2, 1):
        assert count_part(OnePart("x", Repeats(times), ((3, 4),)), convention("mac")).macs == times * 48
