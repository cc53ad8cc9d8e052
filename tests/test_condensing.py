"""The condensed head against the paper's arithmetic, and against itself where two forms must agree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import Target, UserError
from implementations.condensing import model
from implementations.condensing.model import ConcentrationBlock, CondensedHead, Condensing, GlobalModelling, OKPDNet, reduced_head
from implementations.layers.heads import HeadShape

SMALL = HeadShape(channels=64, side=7, classes=3, box_classes=4, fc=32)


def _features(rois=5, channels=64, side=7, seed=0):
    return torch.randn(rois, channels, side, side, generator=torch.Generator().manual_seed(seed))


def _head(shape=SMALL, **options):
    torch.manual_seed(0)
    return CondensedHead(shape, Condensing(**({"key_parts": 4, "length": 3} | options)))


def _params(module):
    return sum(parameter.numel() for parameter in module.parameters())


# ---- Eq. 4


def test_truncated_maximum_by_hand():
    """Below c_m = 0.5 it is (c + 0.5) / 1.1; with c_m = 2.4 the divisor is (2.9 - 1) + 1.1 = 3.0; negative sums are cut at 0."""
    quiet = torch.tensor([[[0.0, 0.5], [0.05, -0.9]]])
    loud = torch.tensor([[[2.4, 0.4], [1.0, -1.0]]])
    torch.testing.assert_close(model.truncated_maximum(quiet), torch.tensor([[[0.5 / 1.1, 1 / 1.1], [0.5, 0.0]]]))
    torch.testing.assert_close(model.truncated_maximum(loud), torch.tensor([[[2.9 / 3, 0.3], [0.5, 0.0]]]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 100, width=32), min_size=4, max_size=4))
def test_rectified_maps_never_fall_below_half_over_one_point_one_while_quiet(values):
    """No rectified value falls below 0.5 / 1.1 = 0.4545 unless its maximum is over 0.5 (there Eq. 4's divisor starts to grow); all are below 1."""
    squashed = model.truncated_maximum(torch.tensor(values).view(1, 1, 2, 2))
    largest = max(values)
    assert squashed.max() < 1
    assert squashed.min() >= 0.5 / max(1.1, largest + 0.6) - 1e-6
    if largest <= 0.5:
        assert squashed.min() >= 0.4545


def test_truncated_maximum_is_linear_at_first_and_competes_later():
    """A louder maximum leaves a quiet map's other values alone and presses a loud map's down."""
    other = [model.truncated_maximum(torch.tensor([[[peak, 0.2]]]))[0, 0, 1].item() for peak in (0.3, 0.5, 1.5, 3.0)]
    assert other[0] == pytest.approx(0.7 / 1.1)
    assert other[1] == pytest.approx(0.7 / 1.1)
    assert other[2] == pytest.approx(0.7 / 2.1)
    assert other[3] == pytest.approx(0.7 / 3.6)


def test_each_rival_squashes_its_own_way():
    raw = torch.tensor([[[[-1.0, 0.0], [1.0, 2.0]]]])
    assert model.SQUASHES["linear"](raw).flatten().tolist() == [-1, 0, 1, 2]
    torch.testing.assert_close(model.SQUASHES["sigmoid"](raw)[0, 0, 1, 1], torch.tensor(2.0).exp() / (1 + torch.tensor(2.0).exp()))
    softmax = model.SQUASHES["softmax"](raw).flatten()
    assert softmax.sum().item() == pytest.approx(1)
    assert (softmax[3] / softmax[2]).item() == pytest.approx(torch.tensor(1.0).exp().item())


# ---- OKPD-Net


@pytest.mark.parametrize(("index", "reach"), [(0, 1), (1, 3), (2, 3), (3, 3)])
def test_dilation_grows_to_half_the_side(index, reach):
    convolution = ConcentrationBlock(256, index, 7).reduce
    assert convolution.dilation == convolution.padding == (reach, reach)
    assert convolution.groups == 4
    assert (convolution.in_channels, convolution.out_channels) == (256, 32)


def test_concentration_block_is_residual_with_a_relu_around_each_convolution():
    block = ConcentrationBlock(64, 0, 7)
    with torch.no_grad():
        block.restore.weight.zero_()
        block.restore.bias.fill_(-1.0)
    features = _features()
    torch.testing.assert_close(block(features), features)  # relu(-1) adds nothing
    with torch.no_grad():
        block.restore.bias.fill_(2.0)
    torch.testing.assert_close(block(features), features + 2)
    with torch.no_grad():
        block.restore.weight.normal_()
        block.reduce.bias.zero_()
    assert torch.equal(block(-features.abs()), -features.abs() + 2)  # nothing passes the first ReLU


def test_positions_are_the_spatial_maxima_in_the_order_of_the_maps():
    """Two maps that copy two channels: their key parts are the cells where those channels peak."""
    net = OKPDNet(64, 7, Condensing(2, 1, blocks=0))
    with torch.no_grad():
        net.prediction.weight.zero_()
        net.prediction.bias.zero_()
        net.prediction.weight[0, 10] = 1
        net.prediction.weight[1, 20] = 1
    features = torch.zeros(1, 64, 7, 7)
    features[0, 10, 2, 3] = 5
    features[0, 20, 6, 1] = 4
    found = net(features)
    assert found.positions.tolist() == [[2 * 7 + 3, 6 * 7 + 1]]
    parts = model.model_key_parts(features, found.positions).view(2, 64)
    assert parts[0].nonzero().flatten().tolist() == [10]
    assert parts[1].nonzero().flatten().tolist() == [20]


def test_rectify_is_the_code_and_its_consequence():
    """With the ReLU the least confidence is 0.5 / 1.1 while the map is quiet; without it background can reach 0. The vector's maps are the same."""
    nets = [OKPDNet(64, 7, Condensing(2, 1, blocks=0, rectify=rectify)) for rectify in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        nn.init.constant_(net.prediction.bias, -2.0)
    bare, rectified = (net(0.1 * _features()) for net in nets)
    assert bare.confidence.max() == 0
    torch.testing.assert_close(rectified.confidence, torch.full_like(rectified.confidence, 0.5 / 1.1))
    assert torch.equal(bare.maps, rectified.maps)


def test_no_gradient_passes_through_the_argmax():
    """Only the gathered cells get a gradient from the key-part features, and the prediction layer none."""
    net = OKPDNet(64, 7, Condensing(3, 1, blocks=0))
    features = _features(1).requires_grad_()
    found = net(features)
    assert not found.positions.requires_grad
    model.model_key_parts(features, found.positions).sum().backward()
    assert net.prediction.weight.grad is None
    touched = features.grad.abs().sum(dim=1).flatten().nonzero().flatten().tolist()
    assert touched == sorted(set(found.positions.flatten().tolist()))


# ---- Eq. 6 and 7


def _confidence(*maps):
    """One RoI a given (K, 2) list: each map two cells."""
    return torch.tensor(maps).float().unsqueeze(2)  # (R, K, 1, 2)


def test_discriminative_loss_by_hand():
    """Maxima 0.9 (foreground), 0.3 (foreground, wrong side), 0.7 (background, wrong side), 0.06 (background), each with its emphasis, beta 0.05."""
    confidence = _confidence([[0.9, 0.1], [0.2, 0.3]], [[0.7, 0.0], [0.06, 0.0]])
    positive = torch.tensor([True, False])
    terms = [0.5 * 0.05**2 / 0.05, 0.7 - 0.025, 0.7 - 0.025, 0.5 * 0.03**2 / 0.05]  # |w (c - y)|: 0.05 stands where both branches meet
    assert model.discriminative_loss(confidence, positive).item() == pytest.approx(sum(terms) / 2, abs=1e-6)
    assert model.discriminative_loss(confidence, positive, reduction="mean").item() == pytest.approx(sum(terms) / 4, abs=1e-6)
    assert model.discriminative_loss(confidence, positive, reduction="sum").item() == pytest.approx(sum(terms), abs=1e-6)
    plain = [0.5 * 0.1**2, 0.5 * 0.7**2, 0.5 * 0.7**2, 0.5 * 0.06**2]
    assert model.discriminative_loss(confidence, positive, margins=False, reduction="sum").item() == pytest.approx(sum(plain), abs=1e-6)


def test_uniqueness_loss_by_hand():
    """Sums a cell: (1.7, 0.2) on foreground -> 0.5 * 0.7^2; (0.8, 2.6) -> 1.6 - 0.5; background counts nothing but is divided by."""
    confidence = _confidence([[0.9, 0.1], [0.8, 0.1]], [[0.8, 1.6], [0.0, 1.0]], [[5.0, 5.0], [5.0, 5.0]])
    positive = torch.tensor([True, True, False])
    total = 0.5 * 0.7**2 + 1.1
    assert model.uniqueness_loss(confidence, positive).item() == pytest.approx(total / 3, abs=1e-6)
    assert model.uniqueness_loss(confidence, positive, reduction="sum").item() == pytest.approx(total, abs=1e-6)


def test_losses_of_the_head_are_weighted_and_switched():
    features, labels = _features(), torch.tensor([0, 1, 2, 0, 3])
    found = (head := _head().eval()).okpd(features)
    losses = head(features, labels).losses
    assert set(losses) == {"discriminative", "uniqueness"}
    torch.testing.assert_close(losses["discriminative"], 0.03 * model.discriminative_loss(found.confidence, labels > 0))
    torch.testing.assert_close(losses["uniqueness"], 0.03 * model.uniqueness_loss(found.confidence, labels > 0))
    assert head(features).losses == {}
    assert set(_head(discriminative=False)(features, labels).losses) == {"uniqueness"}
    assert set(_head(uniqueness=False)(features, labels).losses) == {"discriminative"}
    assert _head(key_parts=0)(features, labels).losses == {}


@pytest.mark.parametrize("positives", [0, 1, 6])
def test_losses_of_two_halves_average_to_the_whole(positives):
    """The divisor follows the RoIs and not the positives, so equal shares on two processes agree with one."""
    confidence = torch.rand(6, 4, 7, 7, generator=torch.Generator().manual_seed(1))
    positive = torch.arange(6) < positives
    for loss in (model.discriminative_loss, model.uniqueness_loss):
        halves = [loss(confidence[part], positive[part]) for part in (slice(0, 3), slice(3, 6))]
        torch.testing.assert_close(sum(halves) / 2, loss(confidence, positive))


def test_no_rois_give_zero_losses():
    output = _head()(_features(0), torch.zeros(0, dtype=torch.int64))
    assert output.scores.shape == (0, 4)
    assert output.deltas.shape == (0, 16)
    assert [loss.item() for loss in output.losses.values()] == [0, 0]


# ---- Eq. 8 and 9


def test_global_modelling_is_the_same_function_in_either_order():
    """The 1x1 convolution commutes with average pooling; the ReLU comes last in both."""
    after = GlobalModelling(64, 5)
    before = GlobalModelling(64, 5, channel_first=True)
    before.load_state_dict(after.state_dict())
    features = _features()
    torch.testing.assert_close(before(features), after(features))
    linear = torch.einsum("oc,rcij->roij", after.reduce.weight.flatten(1), nn.functional.adaptive_avg_pool2d(features, 5))
    torch.testing.assert_close(after(features), (linear + after.reduce.bias[:, None, None]).relu())


def test_vector_is_global_part_key_parts_and_rectified_maps():
    head = _head().eval()
    features = _features()
    found = head.okpd(features)
    vector = head._vector(features, found)
    assert vector.shape == (5, 16 * 9 + 4 * 64 + 4 * 49)
    torch.testing.assert_close(vector[:, :144], head.whole(found.features).flatten(1))
    row, column = divmod(found.positions[2, 1].item(), 7)
    torch.testing.assert_close(vector[2, 144 + 64 : 144 + 128], found.features[2, :, row, column])
    torch.testing.assert_close(vector[:, -4 * 49 :], found.maps.flatten(1))
    assert (found.maps >= 0).all()


def test_source_input_is_the_letter_of_the_equations():
    """With X as the source the vector's parts are X's own cells, however the features were concentrated."""
    head = _head(source="input").eval()
    features = _features()
    found = head.okpd(features)
    expected = model.model_key_parts(features, found.positions)
    torch.testing.assert_close(head._vector(features, found)[:, 144 : 144 + 256], expected)
    assert not torch.allclose(found.features, features)


def test_gradients_reach_every_parameter():
    head = _head()
    output = head(_features(16), torch.arange(16) % 4)
    (output.scores.square().sum() + output.deltas.square().sum() + sum(output.losses.values())).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_losses_alone_teach_the_network_to_find_and_part():
    """Descending L_d and L_u raises the confidences on foreground, lowers them on background, and sets the key parts apart."""
    features, positive = _features(32), torch.arange(32) < 16
    features[:16, :4, 1, 1] += 3
    features[:16, 4:8, 5, 5] += 3
    torch.manual_seed(0)
    net = OKPDNet(64, 7, Condensing(2, 1, blocks=1))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)

    def losses():
        confidence = net(features).confidence
        return model.discriminative_loss(confidence, positive) + model.uniqueness_loss(confidence, positive)

    first = losses().item()
    for _ in range(60):
        optimizer.zero_grad()
        losses().backward()
        optimizer.step()
    confidence = net(features).confidence.amax(dim=(2, 3))
    assert losses().item() < 0.5 * first
    assert confidence[:16].mean() > confidence[16:].mean() + 0.2


@pytest.mark.parametrize(
    "options", [{"blocks": 0}, {"length": 0}, {"key_parts": 0}, {"squash": "softmax"}, {"channel_first": True}, {"source": "input"}]
)
def test_every_ablation_runs(options):
    output = _head(**options)(_features(), torch.tensor([0, 1, 2, 0, 3]))
    assert output.scores.shape == (5, 4)
    assert output.deltas.shape == (5, 16)


@pytest.mark.parametrize(("ratio", "length", "inputs"), [(1.0, 7, 64 * 49), (0.5, 7, 32 * 49), (1.0, 3, 64 * 9), (0.25, 5, 16 * 25)])
def test_reduced_head_models_what_is_left(ratio, length, inputs):
    head = reduced_head(ratio, length)(SMALL)
    reduction = 64 * round(64 * ratio) + round(64 * ratio) if ratio < 1 else 0
    assert _params(head) == reduction + inputs * 32 + 32 + 32 * 32 + 32 + 32 * 20 + 20
    assert head(_features()).scores.shape == (5, 4)


def test_start_keeps_confidences_near_their_offset():
    """Section 3.2.2: c is around 0 at the start, so the squashed confidence is around 0.5 / 1.1."""
    confidence = _head(HeadShape(256, 7, 3, 4, 32)).okpd(_features(8, 256)).confidence
    assert 0.45 < confidence.mean() < 0.7


@pytest.mark.parametrize("wrong", [{"squash": "tanh"}, {"key_parts": 0, "length": 0}, {"blocks": -1}])
def test_impossible_settings_are_named(wrong):
    with pytest.raises(UserError, match="Condensing"):
        Condensing(**({"key_parts": 4, "length": 3} | wrong))
    with pytest.raises(UserError, match="reduced_head"):
        reduced_head(0.0, 7)


def test_explanation_is_what_the_head_uses():
    head = _head().eval()
    features = _features()
    told, found = head.explain(features), head.okpd(features)
    assert torch.equal(told.positions, found.positions)
    assert torch.equal(told.confidence, found.confidence)
    torch.testing.assert_close(told.activation, head.whole(found.features).sum(dim=1))
    with pytest.raises(UserError, match="explain"):
        _head(length=0).explain(features)


# ---- on the four architectures


@pytest.mark.parametrize(("build", "stages"), [(model.build_fpn, 1), (model.build_faster, 1), (model.build_rfcn, 1), (model.build_cascade, 3)])
def test_each_architecture_learns_through_its_condensed_head(build, stages):
    """One step's gradients reach everything that learns, and each stage brings both losses."""
    torch.manual_seed(0)
    detector = build(Request(Setting("voc07+12", 20, 600, 1000, "R50"), SCALES["smoke"], 3))
    none = torch.zeros(1, dtype=torch.bool)
    target = Target(torch.tensor([[5.0, 5.0, 40.0, 40.0]]), torch.tensor([1]), none, none, 3)
    losses = detector([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    assert sum(name.startswith("discriminative") for name in losses) == sum(name.startswith("uniqueness") for name in losses) == stages
    assert all(parameter.grad is not None for parameter in detector.parameters() if parameter.requires_grad)
    heads = [module for module in detector.modules() if isinstance(module, CondensedHead)]
    assert [len(head.okpd.concentration) for head in heads] == {1: [4 if build is model.build_faster else 2], 3: [2, 3, 4]}[stages]
