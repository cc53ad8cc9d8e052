"""The truncated SVD against the layers that it stands for."""

import pytest
import torch
from torch import nn

from bench.types import UserError
from implementations.condensing import svd
from implementations.layers.heads import HeadShape

SMALL = HeadShape(channels=64, side=7, classes=3, box_classes=4, fc=32)
FEATURES = torch.randn(5, 64, 7, 7, generator=torch.Generator().manual_seed(0))


def _two_layer_state(shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    sizes = {"fc1": (shape.fc, shape.channels * shape.side**2), "fc2": (shape.fc, shape.fc)}
    sizes |= {"cls": (shape.classes + 1, shape.fc), "reg": (4 * shape.box_classes, shape.fc)}
    state = {f"{name}.weight": torch.randn(size, generator=draw) / size[1] ** 0.5 for name, size in sizes.items()}
    return state | {f"{name}.bias": torch.randn(size[0], generator=draw) for name, size in sizes.items()}


def _two_layers(state, features):
    vector = features.flatten(1)
    for name in ("fc1", "fc2"):
        vector = nn.functional.linear(vector, state[f"{name}.weight"], state[f"{name}.bias"]).relu()
    return nn.functional.linear(vector, state["cls.weight"], state["cls.bias"]), nn.functional.linear(vector, state["reg.weight"], state["reg.bias"])


@pytest.mark.parametrize("layers", [("fc1",), ("fc1", "fc2")])
def test_svd_at_full_rank_is_the_baseline(layers):
    state = _two_layer_state(SMALL)
    head = svd.SvdHead(SMALL, SMALL.fc, layers)
    head.load_state_dict(svd.truncate(state, SMALL.fc, layers))
    scores, deltas = _two_layers(state, FEATURES)
    output = head(FEATURES)
    torch.testing.assert_close(output.scores, scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.deltas, deltas, atol=1e-5, rtol=0)


def test_svd_is_the_nearest_matrix_of_its_rank():
    """Eckart and Young: the squared distance is the sum of the squared singular values left out."""
    state = _two_layer_state(SMALL)
    low = svd.truncate(state, 5)
    product = low["fc1.second.weight"] @ low["fc1.first.weight"]
    left_out = torch.linalg.svdvals(state["fc1.weight"].double())[5:].square().sum().sqrt().item()
    assert torch.linalg.matrix_rank(product) == 5
    assert torch.linalg.matrix_norm(state["fc1.weight"] - product).item() == pytest.approx(left_out, rel=1e-4)


def test_svd_rank_halves_the_head():
    """(14,003,305 / 2 - 1,158,249) / (12,544 + 1,024) = 430.7 for fc1; (14,003,305 / 2 - 109,673) / (13,568 + 2,048) = 441.3 for both."""
    shape = HeadShape(256, 7, 20, 21, 1024)
    assert svd.halving_rank(shape, 0.5) == 431
    for layers in (("fc1",), ("fc1", "fc2")):
        with torch.device("meta"):
            head = svd.svd_head(0.5, layers)(shape)
        assert sum(parameter.numel() for parameter in head.parameters()) / 14_003_305 == pytest.approx(0.5, abs=1e-3)
    assert svd.halving_rank(shape, 0.5, ("fc1", "fc2")) == 441
    assert svd.halving_rank(SMALL, 1.0) <= SMALL.fc


def test_svd_refuses_what_makes_no_sense():
    with pytest.raises(UserError, match="svd_head"):
        svd.svd_head(0.0)
    with pytest.raises(UserError, match="svd_head"):
        svd.svd_head(0.5, ("cls",))
