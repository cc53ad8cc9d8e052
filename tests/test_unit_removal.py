"""Zero units are taken out: fewer parameters, the same answers as the masked net, on each kind of detector that the papers start from."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import Unavailable
from implementations.compression.blocks import layers_of
from implementations.compression.model import DETECTORS, build_dense
from implementations.compression.pruning import prune
from implementations.compression.removal import remove_zero_units

REQUEST = Request(Setting("drawn", 4, 600, 1000, "R50"), SCALES["smoke"], 4)


def lively(name):
    """A detector whose norms have statistics of their own: a unit that was masked carelessly would say something."""
    torch.manual_seed(0)
    detector = build_dense(REQUEST, detector=name).eval()
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
    return detector


@pytest.mark.parametrize("name", DETECTORS)
def test_the_smaller_net_answers_as_the_masked_one(name):
    pytest.importorskip("torch_pruning")
    masked = lively(name)
    layers = layers_of(masked, "both")
    for layer in layers:  # inner units small, so that whole units of every kind are pruned
        if layer.name.rpartition(".")[2] in {"conv1", "conv2", "fc6"} and layer.name != "backbone.conv1":
            with torch.no_grad():
                layer.module.weight[::2] *= 1e-3
    prune(layers, 0.2, "units")
    smaller = copy.deepcopy(masked)
    removed = remove_zero_units(smaller, layers_of(smaller, "both"))
    counts = [sum(p.numel() for p in one.parameters()) for one in (smaller, masked)]
    assert removed > 10
    assert counts[0] < counts[1]
    with torch.no_grad():
        batch = masked.prepare([torch.rand(3, 64, 96)])
        maps = masked.features(batch.pixels)
        proposals, _ = masked.propose(maps, batch)
        for mine, other in zip(smaller.features(batch.pixels), maps, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
        wanted, found = masked.network(batch, proposals).answers, smaller.network(batch, proposals).answers
    torch.testing.assert_close(found.scores, wanted.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.deltas, wanted.deltas, atol=1e-4, rtol=1e-4)
    named = {id(p): p.numel() for part in smaller.parts(64, 96) for p in part.module.parameters()}
    assert sum(named.values()) == counts[0]


def test_without_the_library_the_next_step_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(Unavailable, match="pip install torch-pruning"):
        remove_zero_units(lively("c4"), ())
