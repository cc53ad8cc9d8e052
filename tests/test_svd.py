"""The truncated SVD against the layers that it stands for."""

import pytest
import torch
from torch import nn

from bench.types import UserError
from implementations.condensing import svd
from implementations.layers.heads import HeadShape, TwoFC

SMALL = HeadShape(channels=64, side=7, classes=3, box_classes=4, fc=32)
FEATURES = torch.randn(5, 64, 7, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layers", [("fc6",), ("fc6", "fc7")])
def test_svd_at_full_rank_is_the_baseline(layers):
    baseline, head = TwoFC(SMALL), svd.SvdHead(SMALL, SMALL.fc, layers)
    for parameter in baseline.predictor.parameters():
        nn.init.normal_(parameter)  # its own start is too small to show a difference
    head.load_state_dict(svd.truncate(baseline.state_dict(), SMALL.fc, layers))
    wanted, output = baseline(FEATURES), head(FEATURES)
    assert wanted.scores.abs().max() > 1
    torch.testing.assert_close(output.scores, wanted.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.deltas, wanted.deltas, atol=1e-5, rtol=0)


def test_svd_is_the_nearest_matrix_of_its_rank():
    """Eckart and Young: the squared distance is the sum of the squared singular values left out."""
    state = TwoFC(SMALL).state_dict()
    low = svd.truncate(state, 5)
    product = low["fc6.second.weight"] @ low["fc6.first.weight"]
    left_out = torch.linalg.svdvals(state["fc6.weight"].double())[5:].square().sum().sqrt().item()
    assert torch.linalg.matrix_rank(product) == 5
    assert torch.linalg.matrix_norm(state["fc6.weight"] - product).item() == pytest.approx(left_out, rel=1e-4)


def test_svd_rank_halves_the_head():
    """(14,003,305 / 2 - 1,158,249) / (12,544 + 1,024) = 430.7 for fc6; (14,003,305 / 2 - 109,673) / (13,568 + 2,048) = 441.3 for both."""
    shape = HeadShape(256, 7, 20, 21, 1024)
    assert svd.halving_rank(shape, 0.5) == 431
    for layers in (("fc6",), ("fc6", "fc7")):
        with torch.device("meta"):
            head = svd.svd_head(0.5, layers)(shape)
        assert sum(parameter.numel() for parameter in head.parameters()) / 14_003_305 == pytest.approx(0.5, abs=1e-3)
    assert svd.halving_rank(shape, 0.5, ("fc6", "fc7")) == 441
    assert svd.halving_rank(SMALL, 1.0) <= SMALL.fc


def test_svd_refuses_what_makes_no_sense():
    with pytest.raises(UserError, match="svd_head"):
        svd.svd_head(0.0)
    with pytest.raises(UserError, match="svd_head"):
        svd.svd_head(0.5, ("predictor",))
