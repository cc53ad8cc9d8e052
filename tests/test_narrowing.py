"""Whole channels are taken out of every kind of detector: smaller layers, the answers of the net that had these channels at zero."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from bench.assemble import build_detector
from bench.catalogue import built
from bench.meters.compressed import compressed_cost
from bench.scales import SCALES
from bench.spec import Request
from bench.types import Target, Unavailable, UserError
from implementations.compression import narrowing
from implementations.compression.blocks import layers_of
from implementations.compression.model import build_dense
from implementations.compression.narrowing import narrow
from implementations.compression.smaller import fill_narrowed, narrow_elsewhere
from implementations.compression.storage import load_detector, save_detector

DETECTORS = (
    "compression.dense",
    "compression.c4-dense",
    "compression.rfcn-dense",
    "compression.cascade-dense",
    "condensing.k16-l5",
    "condensing.side-5",
    "light_head.light-l",
    "light_head.light-s",
    "light_head.pyramid",
    "mimicdet.mimicdet",
    "mimicdet.deployed",
    "mimicdet.separated-r50",
    "pod.retina-r50",
    "pod.c4-r50-gsl",
    "pod.fpn-r50",
    "pod.fpn-r50-fd",
)
TRUTH = Target(torch.tensor([[10.0, 10.0, 40.0, 50.0]]), torch.tensor([1]), torch.tensor([False]), torch.tensor([False]), seed=1)


def detector_of(name, seed=0):
    """A row's detector at the smoke tier, its norms with statistics of their own."""
    paper, _, key = name.partition(".")
    detector = build_detector(built()[paper].row(key), SCALES["smoke"], 4, seed=seed).eval()
    torch.manual_seed(seed)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
    return detector


def said(detector, seed=0):
    """All that the network says of an image, RoIs given to those that take some."""
    batch = detector.prepare([torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(seed))])
    with torch.no_grad():
        if hasattr(detector, "propose"):
            maps = (detector.plain[0] if hasattr(detector, "plain") else detector).features(batch.pixels)
            return narrowing.tensors(detector.network(batch, detector.propose(maps, batch)[0]).answers)
        return narrowing.tensors(detector.network(batch))


def plant(detector):
    """Every second inner unit of every bottleneck to zero with all that reads it, so that these matter least; how many."""
    planted = 0
    for block in [module for module in detector.modules() if hasattr(module, "conv3") and hasattr(module, "bn2")]:
        if not isinstance(block.conv2, torch.nn.Conv2d):
            continue
        for giver, norm, reader in ((block.conv1, block.bn1, block.conv2), (block.conv2, block.bn2, block.conv3)):
            with torch.no_grad():
                giver.weight[::2], norm.weight[::2], norm.bias[::2], reader.weight[:, ::2] = 0, 0, 0, 0
            planted += len(giver.weight[::2])
    return planted


@pytest.mark.parametrize(
    "name", [name for name in DETECTORS if name not in {"light_head.light-s", "pod.c4-r50-gsl", "pod.fpn-r50-fd"}]
)  # those have no plain bottlenecks
def test_channels_that_say_nothing_go_and_no_answer_changes(name):
    pytest.importorskip("torch_pruning")
    detector = detector_of(name)
    planted = plant(detector)
    assert planted > 0
    smaller = copy.deepcopy(detector)
    of = narrow(copy.deepcopy(detector), "both", 0.0).of
    taken = narrow(smaller, "both", planted / of)
    assert taken.channels == planted
    for one, other in zip(said(smaller), said(detector), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_third_of_the_channels_goes_and_the_detector_answers_learns_and_costs_less(name):
    pytest.importorskip("torch_pruning")
    dense = detector_of(name)
    detector = narrow_elsewhere(copy.deepcopy(dense), share=0.3)
    counts = [sum(parameter.numel() for parameter in one.parameters()) for one in (detector, dense)]
    assert counts[0] < 0.93 * counts[1]
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        assert detector.finish(detector.network(detector.prepare([image])))[0].boxes.shape[1] == 4
    losses = detector.train()([image], [TRUTH])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    dense.compression = detector.compression
    assert compressed_cost(detector.eval()).dense.macs < compressed_cost(dense).dense.macs
    assert detector.compression.kernels.startswith("smaller float32 layers")


def test_what_the_block_does_not_hold_stays_as_wide_as_it_was():
    pytest.importorskip("torch_pruning")
    dense = detector_of("compression.dense")
    detector = copy.deepcopy(dense)
    narrow(detector, "backbone", 0.5)
    widths = {name: tensor.shape for name, tensor in dense.state_dict().items()}
    assert all(tensor.shape == widths[name] for name, tensor in detector.state_dict().items() if name.startswith(("rpn", "regions")))
    assert detector.backbone.layer3[0].conv1.out_channels < dense.backbone.layer3[0].conv1.out_channels
    assert [one.shape[1] for one in detector.features(torch.zeros(1, 3, 64, 64))] == [
        one.shape[1] for one in dense.features(torch.zeros(1, 3, 64, 64))
    ]


def test_no_layer_loses_its_last_channel():
    pytest.importorskip("torch_pruning")
    detector = detector_of("compression.dense")
    narrow(detector, "both", 1.0)
    assert detector.regions.head.fc7.out_features == 1
    assert all(torch.isfinite(one).all() for one in said(detector))


@pytest.mark.parametrize("name", DETECTORS)
def test_each_layer_becomes_narrower_or_is_named(name):
    """Nearly all channels go, so that every layer that can loses some; the record must name the others."""
    pytest.importorskip("torch_pruning")
    dense = detector_of(name)
    detector = copy.deepcopy(dense)
    taken = narrow(detector, "both", 1.0)
    before, after = ({layer.name: len(layer.module.weight) for layer in layers_of(each, "both") if not layer.answers} for each in (dense, detector))
    assert {layer for layer, width in after.items() if width == before[layer] > 1} == {layer for layer in taken.whole if before[layer] > 1}
    assert taken.whole  # what parts say to one another at least


def test_a_group_that_is_all_zero_goes_first():
    pytest.importorskip("torch_pruning")
    detector = detector_of("compression.c4-dense")
    block = detector.backbone.layer2[0]
    with torch.no_grad():
        for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias, block.conv2.weight):
            tensor.zero_()
    of, width = narrow(copy.deepcopy(detector), "both", 0.0).of, block.conv1.out_channels
    narrow(detector, "both", (width - 1) / of)
    assert block.conv1.out_channels == 1


def test_what_would_answer_otherwise_is_put_back_and_named(monkeypatch):
    pytest.importorskip("torch_pruning")
    monkeypatch.setattr(narrowing, "APART", -1.0)
    dense = detector_of("compression.c4-dense")
    detector = copy.deepcopy(dense)
    taken = narrow(detector, "both", 0.3)
    assert taken.channels == 0
    assert "backbone.conv1" in taken.whole
    own = detector.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in dense.state_dict().items())
    for one, other in zip(said(detector), said(dense), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(Unavailable, match="no channel of this TwoStage can be taken out"):
        narrow_elsewhere(detector, share=0.3)


def test_a_part_that_cannot_be_followed_is_named_layer_by_layer(monkeypatch):
    pytest.importorskip("torch_pruning")
    known = narrowing.Graph

    def refusing(piece, layers):
        if piece.name == "head":
            raise RuntimeError("cannot follow")
        return known(piece, layers)

    monkeypatch.setattr(narrowing, "Graph", refusing)
    detector = narrow_elsewhere(detector_of("compression.dense"), share=0.3)
    assert {"regions.head.fc6", "regions.head.fc7"} <= set(detector.compression.taken.whole)
    assert "as wide as before: " in detector.compression.kernels
    assert "others" in detector.compression.kernels


def test_norms_stay_fixed_and_so_does_what_did_not_learn():
    pytest.importorskip("torch_pruning")
    detector = detector_of("compression.dense")
    detector.backbone.conv1.weight.requires_grad = False
    names = {name for name, _ in detector.named_parameters()}
    narrow(detector, "both", 0.3)
    assert {name for name, _ in detector.named_parameters()} == names
    assert not detector.backbone.conv1.weight.requires_grad
    assert detector.regions.head.fc6.weight.requires_grad


@pytest.mark.parametrize("name", ["compression.dense", "light_head.light-s", "mimicdet.deployed"])
def test_weights_of_narrower_layers_fill_a_detector_that_was_built_wide(name, tmp_path):
    pytest.importorskip("torch_pruning")
    narrowed = narrow_elsewhere(detector_of(name), share=0.4)
    save_file({key: tensor.contiguous() for key, tensor in narrowed.state_dict().items()}, tmp_path / "weights.safetensors")
    filled = detector_of(name, seed=1)
    fill_narrowed(filled, tmp_path / "weights.safetensors")
    for one, other in zip(said(filled), said(narrowed), strict=True):
        assert torch.equal(one, other)
    save_detector(narrowed, tmp_path / "file.lean")
    loaded = detector_of(name, seed=2)
    load_detector(loaded, tmp_path / "file.lean")
    for one, other in zip(said(loaded), said(narrowed), strict=True):
        assert torch.equal(one, other)


def test_a_run_is_built_again_without_what_it_started_from():
    """Other weights would have lost other channels; its own say how wide it is."""
    pytest.importorskip("torch_pruning")
    first, again = (narrow_elsewhere(detector_of("compression.dense", seed), share=0.3) for seed in (0, 1))
    shapes = [tuple(tensor.shape) for tensor in again.state_dict().values()]
    again.load_state_dict(first.state_dict())
    assert shapes != [tuple(tensor.shape) for tensor in again.state_dict().values()]
    for one, other in zip(said(again), said(first), strict=True):
        assert torch.equal(one, other)


def test_eight_bits_after_narrowing_says_both(tmp_path):
    pytest.importorskip("torch_pruning")
    row = built()["compression"].row("channels-both-30-tuned-int8")
    request = Request(row.setting, SCALES["smoke"], 4)
    dense = build_dense(request).eval()
    narrowed = narrow_elsewhere(copy.deepcopy(dense), share=0.3)
    path = tmp_path / "weights.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in narrowed.state_dict().items()}, path)
    found = row.build(replace(request, inputs={"channels-both-30-tuned": path}), **row.arguments).eval()
    found.compression.calibrate(found, [torch.rand(3, 64, 96) for _ in range(2)])
    assert found.compression.kernels == "int8 kernels on smaller layers"
    assert found.compression.bits == (8, 8)
    assert (found.compression.plan.sparsity, found.compression.plan.removed) == (0.3, True)
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(found.features(pixels), narrowed.features(pixels), strict=True):
            assert torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1] > 0.95  # on random weights steps of 7 bits are coarse
    assert found.compression.stored_bytes(found) < 0.4 * narrowed.compression.stored_bytes(narrowed)


@pytest.mark.parametrize(("text", "said"), [(None, "cannot be read"), (b"no weights", "cannot be read")])
def test_weights_that_cannot_be_read_are_named(text, said, tmp_path):
    path = tmp_path / "weights.safetensors"
    if text:
        path.write_bytes(text)
    with pytest.raises(UserError, match=rf"weights.safetensors: {said}"):
        fill_narrowed(detector_of("compression.c4-dense"), path)


def test_weights_of_another_detector_are_named(tmp_path):
    save_file({key: tensor.contiguous() for key, tensor in detector_of("compression.dense").state_dict().items()}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors: backbone.layer4.* is missing, unknown or wider"):
        fill_narrowed(detector_of("compression.c4-dense"), tmp_path / "other.safetensors")


def test_bad_input_is_one_line():
    pytest.importorskip("torch_pruning")
    with pytest.raises(UserError, match=r"sparsity 1\.5: allowed"):
        narrow(detector_of("compression.dense"), "both", 1.5)
    with pytest.raises(UserError, match="block 'tail': unknown"):
        narrow(detector_of("compression.dense"), "tail", 0.3)


def test_without_the_library_the_next_step_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    detector = detector_of("compression.c4-dense").train()
    with pytest.raises(Unavailable, match="pip install torch-pruning"):
        narrow(detector, "both", 0.3)
    assert detector.training
