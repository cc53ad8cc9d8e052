"""Layers that an int8 detector uses on several maps: one range holds all uses, and every level of a pyramid is answered."""

from __future__ import annotations

import copy

import pytest
import torch

from bench.catalogue import find_paper
from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import UserError
from implementations.baselines.retinanet import retinanet
from implementations.compression.eight_bits import EightBits, build_eight_bits, eight_bits_elsewhere, join_ranges, union, uses
from implementations.compression.elsewhere import compress_elsewhere
from implementations.compression.int8 import INPUTS, Int8Part
from implementations.compression.model import Compression, build_dense, compress
from implementations.compression.storage import equal_bits, load_detector, save_detector

REQUEST = Request(Setting("drawn", 4, 600, 1000, "R50"), SCALES["smoke"], 4)
IMAGES = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def on_int8(kind="fpn", *, joined=True):
    torch.manual_seed(0)
    detector = compress(build_dense(REQUEST, detector=kind).eval(), Compression(precision="int8"))
    detector.compression.calibrate(detector, IMAGES)
    if joined:
        join_ranges(detector)
    return detector


def given(detector, part):
    """The maps that reach a part for one image."""
    seen = []
    hook = part.register_forward_pre_hook(lambda _, maps: seen.append(maps))
    with torch.inference_mode():
        detector.network(detector.prepare(IMAGES[:1]))
    hook.remove()
    return seen[0]


def lost(part, maps, *, places=3):
    """By level: how far the int8 logits are from those of the float32 part, over their size."""
    with torch.inference_mode():
        found, wanted = part(*maps)[0], INPUTS[part.inputs - 1](part.source)(*maps)[0]
    sizes = [places * one.shape[-2] * one.shape[-1] for one in maps]
    return [float((a - b).norm() / b.norm()) for a, b in zip(found.split(sizes, 1), wanted.split(sizes, 1), strict=True)]


def test_one_range_holds_all():
    """0 to 127 at 0.1 from -1 (zero point 10) is -1 to 11.7; at 0.2 from 0 it is 0 to 25.4. Together -1 to 25.4: 26.4 / 127 a step, -1 is 5."""
    scale, zero = union([(0.1, 10.0), (0.2, 0.0)])
    assert scale == pytest.approx(26.4 / 127)
    assert zero == 5.0
    assert union([(0.5, 3.0)]) == (pytest.approx(0.5), 3.0)


def test_every_level_of_a_pyramid_is_answered():
    """With the last use's range alone, the finest levels lose half of what they say."""
    apart, joined = on_int8(joined=False), on_int8()
    assert max(lost(apart.rpn.head, given(apart, apart.rpn.head))) > 0.5
    assert max(lost(joined.rpn.head, given(joined, joined.rpn.head))[:3]) < 0.1
    assert len(uses(joined.rpn.head)) == 3  # the 3x3 and both 1x1 are used on five levels
    assert all(len(places) == 5 for places in uses(joined.rpn.head))


def test_a_layer_that_is_used_once_keeps_its_range():
    plain, joined = on_int8("c4", joined=False), on_int8("c4", joined=False)
    assert join_ranges(joined) == 0
    for one, other in zip(plain.modules(), joined.modules(), strict=True):
        if isinstance(one, Int8Part):
            assert equal_bits(one.ranges, other.ranges)


def test_a_stored_detector_has_its_joined_ranges(tmp_path):
    detector, other = on_int8(), compress(build_dense(REQUEST).eval(), Compression(precision="int8"))
    save_detector(detector, tmp_path / "int8.lean")
    load_detector(other, tmp_path / "int8.lean")
    maps = given(detector, detector.rpn.head)
    with torch.inference_mode():
        for mine, theirs in zip(detector.rpn.head(*maps), other.rpn.head(*maps), strict=True):
            assert equal_bits(mine, theirs)


def test_the_rows_on_int8_kernels_join_their_ranges():
    rows = [row for row in find_paper("compression").rows if row.arguments.get("precision") == "int8"]
    assert len(rows) == 7
    detector = build_eight_bits(REQUEST, source="dense", sparsity=0.3, precision="int8").eval()
    assert detector.compression == EightBits(Compression(sparsity=0.3, precision="int8"))
    assert (detector.compression.bits, detector.compression.images, detector.compression.faster) == ((8, 8), 64, True)
    assert detector.compression.kernels == "int8 kernels"
    for row in rows:
        assert row.build.__name__ in {"eight_bits", "after_narrowing"}
    with pytest.raises(UserError, match="calibration: no images"):
        detector.compression.calibrate(detector, [])
    detector.compression.calibrate(detector, IMAGES)
    assert max(lost(detector.rpn.head, given(detector, detector.rpn.head))[:3]) < 0.1
    assert detector.compression.stored_bytes(detector) > 0


def test_a_one_stage_detector_is_answered_on_every_level_too():
    """RetinaNet's head has all its layers on five levels; with the last one's range nothing is left of its offsets."""
    torch.manual_seed(0)
    plain, lost_deltas = retinanet(REQUEST).eval(), {}
    for lower in (compress_elsewhere, eight_bits_elsewhere):
        detector = lower(copy.deepcopy(plain), precision="int8")
        detector.compression.calibrate(detector, IMAGES)
        with torch.inference_mode():
            batch = plain.prepare(IMAGES[:1])
            wanted, found = plain.network(batch).deltas, detector.network(batch).deltas
        lost_deltas[lower] = float((found - wanted).norm() / wanted.norm())
    assert lost_deltas[compress_elsewhere] > 0.5
    assert lost_deltas[eight_bits_elsewhere] < 0.15
