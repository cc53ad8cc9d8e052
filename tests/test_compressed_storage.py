"""The file of compressed detectors: bit for bit there and back, and one line for whatever is cut, changed, oversized or of another kind."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.types import UserError
from implementations.compression import packing, storage
from implementations.compression.quantisation import Int8, compact_state, quantised, regained
from implementations.compression.storage import (
    COMPRESSORS,
    Damaged,
    decode,
    encode,
    equal_bits,
    load_detector,
    read_compressed,
    save_detector,
    write_compressed,
)

KINDS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8)


def plain(value):
    return value.values if isinstance(value, Int8) else value


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert isinstance(other[name], type(tensor))
        assert equal_bits(plain(tensor), plain(other[name]))
        assert not isinstance(tensor, Int8) or equal_bits(tensor.scales, other[name].scales)


def sample():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(7, 5, generator=generator)
    sparse = torch.randn(40, 30, generator=generator) * (torch.rand(40, 30, generator=generator) < 0.3)
    lone = torch.zeros(3000)
    lone[[0, 700, 2999]] = torch.tensor([1.5, -0.0, float("nan")])
    return {"dense": dense, "sparse": sparse, "lone": lone, "none": torch.zeros(0, 4), "count": torch.tensor(3), "int8": quantised(dense)}


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_there_and_back_bit_for_bit(compressor):
    state = sample()
    assert_same(state, decode(encode(state, compressor)))
    layouts = {name: packing.pack(tensor)[0]["layout"] for name, tensor in state.items()}
    assert (layouts["dense"], layouts["sparse"], layouts["lone"]) == ("dense", "bitmap", "index")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(0, 6), max_size=3), st.floats(0, 1), st.integers(0, 2**31))
def test_any_tensor_comes_back(kind, shape, density, seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density) * 50
    assert_same({"x": numbers.abs().to(kind)}, decode(encode({"x": numbers.abs().to(kind)})))


@given(st.lists(st.integers(0, 4000), unique=True, max_size=30))
def test_gaps_lead_to_the_places_again(places):
    tensor = torch.zeros(4001)
    tensor[places] = 1.0
    entry, data = packing.pack(tensor)
    found, used = packing.unpack(packing.spec_of(entry), memoryview(data))
    assert used == len(data)
    assert torch.equal(found, tensor)


def signed(body, *, version=storage.VERSION, compressor=0, length=None):
    """A file whose hash is right, whatever its body says."""
    packed = storage._COMPRESS[COMPRESSORS[compressor]](body) if compressor < 2 else body
    rest = storage.PREAMBLE.pack(version, compressor, 0, len(body) if length is None else length) + packed
    return storage.MAGIC + hashlib.sha256(rest).digest() + rest


def with_header(entries, data=b""):
    header = json.dumps(entries).encode()
    return signed(struct.pack("<I", len(header)) + header + data)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_cut_or_changed_file_is_one_line(data):
    whole = encode({"x": torch.arange(20.0), "y": torch.zeros(50)})
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        broken = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    with pytest.raises(Damaged) as caught:
        decode(broken)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_body_that_is_changed_and_signed_again_does_no_harm(data):
    """With the right hash the inner reader is on its own: it gives tensors or one line, and nothing else."""
    state = {"x": torch.arange(20.0) * (torch.arange(20) % 3 == 0), "z": quantised(torch.ones(3, 4)), "y": torch.zeros(900)}
    whole = encode(state)
    length = storage.PREAMBLE.unpack_from(whole, 40)[3]
    body = bytearray(storage._expand("zstd", whole[40 + storage.PREAMBLE.size :], length))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(len(body) // 2, len(body)))]
    try:
        found = decode(signed(bytes(body)))
    except Damaged as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert all(isinstance(value, torch.Tensor | Int8) for value in found.values())


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["name", "shape", "kind", "layout", "stored", "gaps", "else"]), JSON), max_size=3))
def test_any_header_is_refused_in_one_line_or_read(entries):
    try:
        decode(with_header(entries))
    except Damaged as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


def entry(**changed):
    return {"name": "x", "shape": [2], "kind": "float32", "layout": "dense", "stored": 2, **changed}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (signed(b"", version=2), "version 2"),
        (signed(b"", compressor=9), "compressor 9"),
        (signed(b"x" * 9, length=2**40), "claims"),
        (signed(b"x" * 9, length=5), "stream cannot be read|claims"),
        (signed(b"x" * 9, compressor=1, length=5), "claims"),
        (signed(struct.pack("<I", 2**30)), "header is longer"),
        (with_header({"x": 1}), "no list"),
        (with_header([entry(), entry()], b"12345678" * 2), "share a name"),
        (with_header([entry(shape=[2**38], layout="index", stored=0, gaps=0)]), "claim more"),
        (with_header([entry(shape=[-1])]), "shape is none"),
        (with_header([entry(kind="object")]), "kind of numbers"),
        (with_header([entry(layout="list")]), "layout is unknown"),
        (with_header([entry(stored=1)], b"1234"), "fit no tensor"),
        (with_header([entry()], b"1234567"), "ends within"),
        (with_header([entry()], b"123456789"), "follow its last"),
        (with_header([entry(layout="bitmap", stored=1)], b"\xc0abcd"), "other numbers than places"),
        (with_header([entry(layout="bitmap", stored=0)], b"\x01"), "bitmap is longer"),
        (with_header([entry(layout="index", stored=1, gaps=1)], b"\x05abcd"), "beyond it"),
        (with_header([entry(kind="bool")], b"\x01\x07"), "truth value"),
        (with_header([entry(kind="int8", shape=[1], stored=1)], b"\x01" + struct.pack("<f", -1.0)), "scale"),
    ],
)
def test_what_each_fault_says(data, said):
    with pytest.raises(Damaged, match=said):
        decode(data)


@pytest.mark.parametrize(("data", "fits"), [(b"\xff\x05abcd", True), (b"\xff\xff\x05abcd", False)])
def test_gaps_are_no_more_than_their_numbers_need(data, fits):
    """Of 300 places with one number: a byte that ends its gap and one of 255 at most."""
    whole = with_header([entry(shape=[300], layout="index", stored=1, gaps=len(data) - 4)], data)
    if fits:
        assert decode(whole)["x"].nonzero().tolist() == [[260]]
    else:
        with pytest.raises(Damaged, match="fit no tensor"):
            decode(whole)


CLAIMS = {  # a small file that claims as many places as it may
    "gaps": [{"name": "x", "shape": [8_000_000], "kind": "uint8", "layout": "index", "stored": 8_000_000, "gaps": 8_000_000}],
    "bits": [{"name": "x", "shape": [8_000_000], "kind": "uint8", "layout": "bitmap", "stored": 8_000_000}],
}


@pytest.mark.parametrize("layout", CLAIMS)
def test_what_a_small_file_claims_takes_no_more_memory_than_it_names(layout):
    """Places are read by pieces: beyond body and tensor, 8 MB each, nothing grows with them."""
    places = bytes(8_000_000) if layout == "gaps" else b"\xff" * 1_000_000
    whole = with_header(CLAIMS[layout], places + b"\x07" * 8_000_000)
    assert len(whole) < 10_000
    tracemalloc.start()
    found = decode(whole)["x"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bool((found == 7).all())
    assert peak < 50e6


@given(st.integers(0, 2**31), st.integers(1, 9))
def test_places_are_the_same_whatever_the_piece(seed, piece):
    numbers = torch.randn(700, generator=torch.Generator().manual_seed(seed))
    for share in (0.002, 0.5):
        tensor = numbers * (torch.rand(700, generator=torch.Generator().manual_seed(seed)) < share)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packing, "PIECE", piece)
            assert_same({"x": tensor}, decode(encode({"x": tensor})))


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()


def test_a_detector_loads_back_and_a_wrong_one_is_named(tmp_path):
    one, other = net(0), net(1)
    one[0].weight.data = quantised(one[0].weight).dequantised()
    length = save_detector(one, tmp_path / "one.lean")
    assert (tmp_path / "one.lean").stat().st_size == length
    load_detector(other, tmp_path / "one.lean")
    assert all(equal_bits(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    with pytest.raises(UserError, match=r"one\.lean: 1\.bias has no place"):
        load_detector(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "one.lean")


def test_files_that_are_missing_or_foreign_are_one_line(tmp_path):
    (tmp_path / "x.lean").write_bytes(b"PK\x03\x04 nothing of ours")
    for name in ("x.lean", "missing.lean"):
        with pytest.raises(UserError, match=name) as caught:
            read_compressed(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="allowed: zstd, lzma"):
        encode({}, "zip")


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    save_detector(net(0), tmp_path / "one.lean")
    before = (tmp_path / "one.lean").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_detector(net(1), tmp_path / "one.lean")
    assert [path.name for path in tmp_path.iterdir()] == ["one.lean"]
    assert (tmp_path / "one.lean").read_bytes() == before


def test_a_file_has_the_rights_of_any_other(tmp_path):
    save_detector(net(0), tmp_path / "one.lean")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "one.lean").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("place", "state", "said"),
    [
        ("nowhere/one.lean", {}, "nowhere/one.lean: its folder is not there"),
        (".", {}, "is a folder"),
        ("one.lean", {"angle": torch.zeros(2, dtype=torch.complex64)}, "angle holds complex64, which the file does not know; allowed: float32"),
        ("one.lean", {"plain": torch.zeros(2, dtype=torch.int8)}, "plain holds int8"),
        ("one.lean", {"large": torch.zeros(1).expand(2**29)}, "allowed: 2147483648"),
        ("one.lean", {"deep": torch.zeros([1] * 9)}, "its shape is none"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_nothing_is(tmp_path, place, state, said):
    with pytest.raises(UserError, match=said) as caught:
        write_compressed(tmp_path / place, state)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_read_back_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "decode", lambda _: {"x": torch.zeros(2)})
    with pytest.raises(UserError, match=r"one\.lean: what was written does not read back \(x is not what it was\)"):
        write_compressed(tmp_path / "one.lean", {"x": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


@given(st.integers(0, 2**31))
def test_8_bit_numbers_are_regained_from_what_they_stand_for(seed):
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 3)
    weight[2] = 0
    grid = quantised(weight).dequantised()
    found = regained(grid)
    assert found is not None
    assert equal_bits(found.dequantised(), grid)
    assert (weight - grid).abs().max() <= weight.abs().max() / 127 * 0.51
    assert regained(weight + 0.01) is None


def test_compact_state_keeps_what_is_on_no_grid():
    one = net(0)
    one[2].weight.data = quantised(one[2].weight).dequantised()
    state = compact_state(one)
    assert {name for name, value in state.items() if isinstance(value, Int8)} == {"2.weight"}
