"""The commands that make files of detectors: what is stored is what was learnt, bit for bit, and each mistake is one line with exit code 2."""

from __future__ import annotations

import errno
import os
import sys
from functools import partial

import pytest
import torch
from commands import called_in
from safetensors.torch import load_file, save_file
from same_tensors import assert_same

from bench import places
from bench.assemble import build_detector
from bench.catalogue import find_paper
from bench.records import Record, write_record
from bench.scales import SCALES
from implementations.compression.blocks import layers_of
from implementations.compression.storage import equal_bits, load_detector, save_detector

RUN, PRUNED, LOWERED = "compression.dense.smoke.s0", "compression.both-30.smoke.s0", "compression.int8.smoke.s0"
NARROWED = "compression.channels-both-30.smoke.s0"
CLASSES = 10  # of scenes-v1


def end(home, run, detector, status="ok"):
    """Leave in a run's folder what a finished run leaves."""
    folder = home / "runs" / run
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in detector.state_dict().items()}, folder / "weights.safetensors")
    paper, row, tier, _ = run.split(".")
    write_record(Record(run, "train", paper, row, tier, 0, status, "", "digest", {}), folder / "record.json")
    return folder / "weights.safetensors"


def row(key, **inputs):
    return build_detector(find_paper("compression").row(key), SCALES["smoke"], CLASSES, seed=0, inputs=inputs).eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs that have ended: a dense detector, one that was pruned, one on int8 kernels; one that failed; one that is still tested."""
    folder = tmp_path_factory.mktemp("compressing")
    weights = end(folder, RUN, row("dense"))
    end(folder, PRUNED, row("both-30", dense=weights))
    lowered = row("int8", dense=weights)
    lowered.compression.calibrate(lowered, [torch.rand(3, 64, 64) for _ in range(2)])
    end(folder, LOWERED, lowered)
    end(folder, NARROWED, row("channels-both-30", dense=weights))
    end(folder, "compression.dense.smoke.s1", row("dense"), status="failed")
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The bytes of a compressed file."""
    path = tmp_path_factory.mktemp("stored") / "a.lean"
    save_detector(row("dense"), path)
    return path.read_bytes()


@pytest.fixture
def leandet(home, monkeypatch, capsys):
    """A command in this process: (exit code, output, errors)."""
    return partial(called_in, monkeypatch, capsys, home)


@pytest.fixture
def there_and_back(leandet, tmp_path):
    """What `compress` says of a run, and the weights that `expand` makes of its file."""

    def call(run, *options):
        code, out, err = leandet("compress", run, tmp_path / "a.lean", *options)
        assert code == 0, err
        code, told, err = leandet("expand", tmp_path / "a.lean", tmp_path / "a.safetensors")
        state = load_file(tmp_path / "a.safetensors")
        assert code == 0, err
        assert told.strip() == f"{tmp_path / 'a.safetensors'}: {len(state)} tensors"
        return out, state

    return call


def learnt(home, run=RUN):
    return load_file(home / "runs" / run / "weights.safetensors")


# ---- compress, expand


@pytest.mark.parametrize("run", [RUN, PRUNED, LOWERED])
def test_without_options_a_run_is_stored_as_it_is(there_and_back, home, tmp_path, run):
    out, state = there_and_back(run)
    assert_same(state, learnt(home, run))
    assert f"true size {(tmp_path / 'a.lean').stat().st_size / 1e6:.4f} MB" in out
    kernels = {RUN: "dense float32 kernels", PRUNED: "which multiply zeros as they do other numbers", LOWERED: "int8 kernels"}
    assert out.strip().endswith(kernels[run])


@pytest.mark.parametrize("block", ["backbone", "head", "both"])
def test_the_smallest_share_of_a_block_becomes_zero_and_nothing_else_changes(there_and_back, home, block):
    out, state = there_and_back(RUN, "--block", block, "--sparsity", "0.4")
    before = learnt(home)
    parts = {"backbone": ("backbone.", "neck."), "head": ("regions.",), "both": ("backbone.", "neck.", "regions.")}[block]
    weights = [name for name, tensor in before.items() if name.startswith(parts) and name.endswith("weight") and tensor.dim() > 1]
    gone = torch.cat([before[name][state[name] == 0].abs() for name in weights])
    kept = torch.cat([before[name][state[name] != 0].abs() for name in weights])
    assert len(gone) == round(0.4 * (len(gone) + len(kept)))
    assert gone.max() <= kept.min()
    masked = {name: tensor * (state[name] != 0) if name in weights else tensor for name, tensor in before.items()}
    assert [name for name, tensor in masked.items() if not torch.equal(tensor, state[name])] == []
    learning = sum(int((state[name] != 0).sum()) for name, _ in row("dense").named_parameters())
    assert f"arithmetic size {4e-6 * learning:.4f} MB" in out


def test_8_bit_weights_are_stored_in_a_byte_each(there_and_back, home, tmp_path):
    _, state = there_and_back(RUN, "--precision", "int8 weights")
    before = learnt(home)
    for name, tensor in before.items():
        if name.endswith("weight") and tensor.dim() > 1:
            assert (state[name] - tensor).flatten(1).abs().amax(1).le(tensor.flatten(1).abs().amax(1) / 127 * 0.51).all(), name
        else:
            assert equal_bits(state[name], tensor), name
    assert (tmp_path / "a.lean").stat().st_size < 0.3 * sum(4 * tensor.numel() for tensor in before.values())


def test_int8_is_calibrated_on_the_runs_images_after_what_its_row_did(there_and_back):
    """A row that is pruned gets its precision on top, with 30 % of zeros still there."""
    out, state = there_and_back(PRUNED, "--precision", "int8", "--images", "3")
    assert out.strip().endswith("int8 kernels")
    ranges = [tensor for name, tensor in state.items() if name.endswith(".ranges")]
    assert len(ranges) == 4
    assert all(bool(each.isfinite().all()) for each in ranges)
    weights = torch.cat([t.flatten() for n, t in state.items() if n.endswith("weight") and t.dim() > 1 and not n.startswith("rpn.")])
    assert 0 <= int((weights == 0).sum()) - round(0.3 * len(weights)) < 0.1 * len(weights)


def test_units_that_are_zero_are_taken_out(there_and_back, home):
    """Half of all units of both layers of the head, the smallest first; of a layer that is zero one unit stays."""
    out, state = there_and_back(RUN, "--kind", "units", "--block", "head", "--sparsity", "0.5", "--remove")
    before = learnt(home)
    norms = [before[f"regions.head.{name}.weight"].norm(dim=1) for name in ("fc6", "fc7")]
    limit = torch.cat(norms).median()
    left = [max(1, int((each > limit).sum())) for each in norms]
    assert list(state["regions.head.fc6.weight"].shape) == [left[0], before["regions.head.fc6.weight"].shape[1]]
    assert list(state["regions.head.fc7.weight"].shape) == left[::-1]
    assert state["regions.head.predictor.cls_score.weight"].shape[1] == left[1]
    assert out.strip().endswith("smaller float32 layers")


def test_other_papers_detectors_are_stored_too(home, there_and_back):
    detector = build_detector(find_paper("condensing").row("k16-l5"), SCALES["smoke"], CLASSES, seed=0).eval()
    end(home, "condensing.k16-l5.smoke.s0", detector)
    _, state = there_and_back("condensing.k16-l5.smoke.s0", "--sparsity", "0.2")
    weights = torch.cat([state[f"{layer.name}.weight"].flatten() for layer in layers_of(detector, "both")])
    assert int((weights == 0).sum()) == round(0.2 * len(weights))


@pytest.mark.parametrize("precision", ["float32", "int8 weights", "int8"])
def test_channels_are_taken_out_and_the_file_fills_a_detector_that_was_built_wide(leandet, tmp_path, precision):
    pytest.importorskip("torch_pruning")
    out = tmp_path / "a.lean"
    code, told, err = leandet("compress", RUN, out, "--kind", "channels", "--sparsity", "0.3", "--precision", precision, "--images", "2")
    assert code == 0, err
    assert "smaller" in told
    assert ("int8 kernels on smaller layers" in told) == (precision == "int8")
    if precision == "float32":
        dense = row("dense")
        load_detector(dense, out)
        assert sum(p.numel() for p in dense.parameters()) < 0.9 * sum(p.numel() for p in row("dense").parameters())
        assert dense.finish(dense.network(dense.prepare([torch.rand(3, 64, 64)])))


def test_a_narrowed_run_is_stored_on_8_bits_without_what_it_started_from(leandet, tmp_path):
    pytest.importorskip("torch_pruning")
    code, told, err = leandet("compress", NARROWED, tmp_path / "a.lean", "--precision", "int8 weights")
    assert code == 0, err
    assert "smaller" in told
    shapes = {name: tensor.shape for name, tensor in load_file(places.run_folder(NARROWED) / "weights.safetensors").items()}
    leandet("expand", tmp_path / "a.lean", tmp_path / "b.safetensors")
    assert {name: tensor.shape for name, tensor in load_file(tmp_path / "b.safetensors").items()} == shapes


@pytest.mark.slow
def test_a_row_at_the_papers_scale_has_a_file_too(leandet, tmp_path):
    """41.397 million numbers of four bytes, of which 30 % of backbone and head go (Table 1: 116.6 MB); the places of the zeros take a bit each."""
    code, out, err = leandet("compress", "compression.dense", str(tmp_path / "a.lean"), "--sparsity", "0.3")
    assert code == 0, err
    assert "weights: random" in out
    assert "arithmetic size 116.6" in out
    stored = (tmp_path / "a.lean").stat().st_size / 1e6
    assert 0.9 * 116.6 < stored < 116.6 + 41.4 / 8 + 1


# ---- mistakes

MISTAKES = [
    (f"compress {RUN} OUT --sparsity 1.5", "--sparsity '1.5'", "allowed: a number from 0 to 1"),
    (f"compress {RUN} OUT --sparsity abc", "--sparsity 'abc'", "give 0.3 for 30 %"),
    (f"compress {RUN} OUT --sparsity nan", "--sparsity 'nan'", "give 0.3 for 30 %"),
    (f"compress {RUN} OUT --sparsity=-0.1", "--sparsity '-0.1'", "give 0.3 for 30 %"),
    (f"compress {RUN} OUT --block neck", "--block 'neck'", "backbone, head, both"),
    (f"compress {RUN} OUT --kind rows", "--kind 'rows'", "weights, units"),
    (f"compress {RUN} OUT --precision int4", "--precision 'int4'", "float32, int8 weights, int8"),
    (f"compress {RUN} OUT --precision int8 --images 0", "--images 0: no images to calibrate on", "allowed: 1 or more, 64 are usual"),
    (f"compress {RUN} OUT --remove", "--remove with --kind weights", "--kind units"),
    (f"compress {RUN} OUT --kind channels --sparsity 0.3 --remove", "--remove with --kind channels", "taken out anyhow"),
    (f"compress {RUN} OUT --kind channels", "--kind channels with --sparsity 0: none would go", "give 0.3 for 30 %"),
    (f"compress {NARROWED} OUT --kind channels --sparsity 0.5", "compressed already (units taken out)", "leave the options out"),
    ("compress compression.dense.smoke.s2 OUT", "has no weights here", "next: leandet run compression.dense.smoke.s2"),
    ("compress compression.dense.smoke.s1 OUT", "is not finished here", "next: leandet run compression.dense.smoke.s1"),
    ("compress compression.nope.smoke.s0 OUT", "'nope'", "allowed"),
    ("compress compression.dense OUT --precision int8", "compression.dense has learnt from no images", "--precision 'int8 weights'"),
    ("compress compression.nope OUT", "'nope'", "allowed"),
    ("compress compression.dense@fused OUT", "allowed", "a run's id"),
    (f"compress {RUN}@fused OUT", "allowed", "a run's id"),
    ("compress nowhere.safetensors OUT", "nowhere.safetensors: cannot be read", "give a file that exists"),
    ("compress nowhere.safetensors OUT --precision int8", "no images to calibrate nowhere.safetensors on", "--data train="),
    (f"compress {RUN} nowhere/a.lean", "nowhere/a.lean: its folder is not there", "give a file"),
    (f"compress {PRUNED} OUT --sparsity 0.5", "two prunings", "prune once"),
    (f"compress {LOWERED} OUT --sparsity 0.5", "compressed already (int8)", "leave the options out"),
    (f"compress {PRUNED} OUT --kind units --remove", "pruned one by one", "leave --remove out"),
    ("expand nowhere.lean OUT.safetensors", "nowhere.lean: cannot be read", "leandet compress"),
    ("expand cut.lean OUT.safetensors", "cut.lean: its SHA-256 does not fit", "leandet compress"),
    ("expand changed.lean OUT.safetensors", "changed.lean: its SHA-256 does not fit", "write it again"),
    ("expand other.lean OUT.safetensors", "other.lean: it does not begin", "leandet compress"),
    ("expand whole.lean OUT.pth", "OUT.pth: allowed: a name that ends in .safetensors", "give one"),
    ("expand whole.lean nowhere/a.safetensors", "nowhere/a.safetensors: its folder is not there", "give a file"),
    ("expand same.safetensors same.safetensors", "is the file that is read", "give another name"),
    ("adopt keras cut.lean OUT.safetensors", "'keras'", "torchvision, detectron2, mmdet"),
    ("adopt mmdet cut.lean OUT.safetensors", "cut.lean: holds no plain tensors", "as it was published"),
    ("adopt mmdet nowhere.pth OUT.safetensors", "nowhere.pth: cannot be read", "give a file that exists"),
    ("adopt mmdet cut.lean OUT", "OUT: allowed: a name that ends in .safetensors", "give one"),
]


@pytest.mark.parametrize(("words", "named", "allowed"), MISTAKES, ids=[words for words, _, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(leandet, stored, tmp_path, monkeypatch, words, named, allowed):  # noqa: PLR0917 - fixtures
    if words.startswith("expand"):
        changed = stored[:5000] + bytes([stored[5000] ^ 1]) + stored[5001:]
        for name, data in {"whole": stored, "cut": stored[:-7], "changed": changed, "other": b"PK\x03\x04"}.items():
            (tmp_path / f"{name}.lean").write_bytes(data)
    (tmp_path / "cut.lean").touch()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = leandet(*words.split())
    assert code == 2, out + err
    assert len(err.strip().splitlines()) == 1
    assert named in err
    assert allowed in err
    assert sorted(tmp_path.rglob("*")) == before


def test_without_int8_kernels_or_torch_pruning_the_next_step_is_said(leandet, monkeypatch, tmp_path):
    monkeypatch.setattr("implementations.compression.int8.ENGINE", "abacus")
    code, _, err = leandet("compress", RUN, tmp_path / "a.lean", "--precision", "int8")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert f"{RUN}: this torch has no abacus int8 kernels; next: run on an x86 CPU" in err
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    code, _, err = leandet("compress", RUN, tmp_path / "a.lean", "--kind", "units", "--sparsity", "0.3", "--remove")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "next: pip install torch-pruning" in err
    assert list(tmp_path.iterdir()) == []


def test_a_detector_that_int8_kernels_cannot_run_is_one_line(home, leandet, tmp_path):
    """POD's sampling layer reads the weights of the convolution that it moves."""
    run = "pod.c4-r50-gsl.smoke.s0"
    end(home, run, build_detector(find_paper("pod").row("c4-r50-gsl"), SCALES["smoke"], CLASSES, seed=0).eval())
    code, _, err = leandet("compress", run, tmp_path / "a.lean", "--precision", "int8", "--images", "1")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert f"{run}: this TwoStage does not run on int8 kernels" in err
    assert "next: --precision 'int8 weights'" in err
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_cut_are_one_line(home, leandet, tmp_path):
    path = end(home, "compression.dense.smoke.s3", row("dense"))
    path.write_bytes(path.read_bytes()[:-100])
    code, _, err = leandet("compress", "compression.dense.smoke.s3", tmp_path / "a.lean")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "compression.dense.smoke.s3: its weights cannot be read" in err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_file_of_before(leandet, monkeypatch, tmp_path):
    (tmp_path / "a.lean").write_bytes(b"of before")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    code, _, err = leandet("compress", RUN, tmp_path / "a.lean")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "No space left on device" in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.lean": b"of before"}
