"""8-bit detectors: real int8 kernels, ranges from images, the same answers after a reload, and one line for what is missing."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from bench.execute import check_device
from bench.meters.compressed import arithmetic_mb, compressed_cost, compressed_values
from bench.meters.conventions import MAC
from bench.meters.detectors import cost
from bench.meters.macs import count_macs
from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import Unavailable, UserError, detect
from implementations.compression.blocks import all_layers, layers_of
from implementations.compression.int8 import Int8Part, calibrate, fold_norms, to_int8
from implementations.compression.model import Compression, build_dense, compress
from implementations.compression.pruning import zeros
from implementations.compression.quantisation import quantise_weights
from implementations.compression.storage import equal_bits, load_detector, save_detector

REQUEST = Request(Setting("drawn", 4, 600, 1000, "R50"), SCALES["smoke"], 4)
IMAGES = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def dense(seed=0, name="fpn"):
    torch.manual_seed(seed)
    return build_dense(REQUEST, detector=name).eval()


def answers(detector, plain):
    """What the second stage says of the plain detector's proposals."""
    with torch.inference_mode():
        batch = plain.prepare(IMAGES[:1])
        proposals, _ = plain.propose(plain.features(batch.pixels), batch)
        return detector.network(batch, proposals).answers


@pytest.fixture(scope="module")
def pair():
    plain = dense()
    detector = compress(copy.deepcopy(plain), Compression(precision="int8"))
    detector.compression.calibrate(detector, IMAGES)
    return plain, detector


def test_int8_kernels_run_and_say_nearly_the_same(pair):
    plain, detector = pair
    parts = [module for module in detector.modules() if isinstance(module, Int8Part)]
    assert len(parts) == 4
    kernels = [name for part in parts for name in map(type, part._lowered[0].modules()) if "quantized" in name.__module__]
    assert len(kernels) >= len(all_layers(plain)) - 1
    wanted, found = answers(plain, plain), answers(detector, plain)
    assert not torch.equal(found.deltas, wanted.deltas)
    assert (found.deltas - wanted.deltas).norm() < 0.15 * wanted.deltas.norm()
    assert (found.scores - wanted.scores).abs().max() < 0.02
    assert len(detect(detector, IMAGES)) == 3


def test_it_repeats_bit_for_bit_where_runs_ask_for_that(pair):
    plain, detector = pair
    strict = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode=True)
    try:
        one, other = answers(detector, plain), answers(detector, plain)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(mode=strict)
    assert equal_bits(one.deltas, other.deltas)
    assert equal_bits(one.scores, other.scores)


def test_folding_the_norms_changes_nothing():
    plain, folded = dense(1), dense(1)
    for detector in (plain, folded):
        torch.manual_seed(5)
        for module in detector.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    fold_norms(folded)
    assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(answers(folded, plain).deltas, answers(plain, plain).deltas, atol=1e-5, rtol=1e-4)


def test_a_stored_int8_detector_loads_back_to_the_same_bits(pair, tmp_path):
    plain, detector = pair
    length = save_detector(detector, tmp_path / "int8.lean")
    assert length < 1.2 * sum(p.numel() for p in plain.parameters())
    other = compress(dense(7), Compression(precision="int8"))
    load_detector(other, tmp_path / "int8.lean")
    wanted, found = answers(detector, plain), answers(other, plain)
    assert equal_bits(wanted.scores, found.scores)
    assert equal_bits(wanted.deltas, found.deltas)


def test_before_calibration_without_images_and_in_training_it_says_so():
    detector = compress(dense(name="c4"), Compression(precision="int8"))
    with pytest.raises(Unavailable, match="calibrate it on images"):
        detect(detector, IMAGES[:1])
    with pytest.raises(UserError, match="calibration: no images"):
        calibrate(detector, [])
    with pytest.raises(Unavailable, match="do not learn"):
        detector.train().features(torch.zeros(1, 3, 64, 64))


def test_without_kernels_the_reason_is_given(monkeypatch):
    monkeypatch.setattr("implementations.compression.int8.ENGINE", "abacus")
    with pytest.raises(Unavailable, match="no abacus int8 kernels"):
        to_int8(dense(name="c4"))


def test_plans_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="allowed: float32, int8 weights, int8"):
        Compression(precision="int4")
    with pytest.raises(UserError, match="kind='units'"):
        Compression(removed=True)


# ---- costs


def test_multiply_adds_without_zeros_are_those_of_each_layer_times_its_share():
    """Of the whole: as another count has them. Of the head, whose layers run once a RoI: one for each weight that is not zero."""
    detector = compress(dense(), Compression(sparsity=0.5))
    found = compressed_cost(detector, rois=10)
    parts = detector.parts(detector.config.shorter, detector.config.longer)
    counted = [count_macs(part.module, *map(torch.zeros, part.inputs), rule=MAC).macs * (10 if part.per_roi else 1) for part in parts]
    assert found.dense.macs == sum(counted)
    assert found.effective.macs < found.dense.macs
    assert found.bit_operations == 32 * 32 * found.dense.macs
    with torch.no_grad():
        for layer in (*layers_of(detector, "backbone"), *all_layers(detector.rpn)):
            layer.module.weight.zero_()
    left = sum(int(layer.module.weight.count_nonzero()) for layer in layers_of(detector, "head"))
    assert compressed_cost(detector, rois=10).effective.macs == 10 * left


def test_values_of_a_record(pair):
    plain, detector = pair
    assert compressed_values(plain) == {}
    values = compressed_values(detector)
    whole = sum(p.numel() for p in plain.parameters())
    assert values["own_bops_g"] == pytest.approx(values["own_macs_g"] * 64)
    assert values["own_arithmetic_mb"] == pytest.approx(whole / 1e6, rel=0.02)
    assert values["own_stored_mb"] > 0
    half = compress(dense(), Compression(sparsity=0.5))
    pruned = compressed_values(half)
    layers = layers_of(half, "both")
    assert pruned["own_arithmetic_mb"] == pytest.approx(4e-6 * (whole - zeros(layers)), rel=0.01)
    assert pruned["own_macs_g"] == values["own_macs_g"]
    assert arithmetic_mb(half, 32) == pruned["own_arithmetic_mb"]


def test_its_multiply_adds_can_be_counted_as_those_of_any_detector(pair):
    plain, detector = copy.deepcopy(pair)
    wanted, found = (cost(each, (64, 96), 10, IMAGES[0]) for each in (plain, detector))
    assert found["macs_g"] == wanted["macs_g"] > 0
    assert not found["unknown"]
    assert found["size_mb"] == pytest.approx(wanted["size_mb"] / 4, rel=0.1), "the file, not four bytes a weight"


def test_weights_alone_lie_on_their_grid_and_shrink_the_file():
    detector = compress(dense(), Compression(precision="int8 weights"))
    before = [layer.module.weight.clone() for layer in all_layers(detector)]
    quantise_weights(all_layers(detector))
    assert all(torch.allclose(a, layer.module.weight, rtol=1e-6) for a, layer in zip(before, all_layers(detector), strict=True))
    assert compressed_values(detector)["own_stored_mb"] < 0.3 * compressed_values(compress(dense(), Compression()))["own_stored_mb"]


def test_int8_kernels_are_refused_on_a_gpu_and_nothing_else_is():
    """The one who reads it hides the GPU and runs it again: nothing is recorded."""
    eight, dense = (SimpleNamespace(compression=Compression(precision=precision)) for precision in ("int8", "float32"))
    with pytest.raises(UserError, match=r"int8 kernels are the CPU's, and this run would use cuda:0; next: set CUDA_VISIBLE_DEVICES="):
        check_device(eight, torch.device("cuda:0"))
    for detector, device in ((eight, "cpu"), (dense, "cuda:0"), (SimpleNamespace(), "cuda:0")):
        check_device(detector, torch.device(device))
