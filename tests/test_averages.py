"""Average pooling as a matrix product against torch's operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from implementations.layers.averages import average


@pytest.mark.parametrize("side", [1, 2, 7, 14])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_an_average_is_torchs(side: int, length: int) -> None:
    features = torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    ours, theirs = average(features, length), F.adaptive_avg_pool2d(features, length)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for pair in zip(torch.autograd.grad((ours * weights).sum(), features), torch.autograd.grad((theirs * weights).sum(), features), strict=True):
        torch.testing.assert_close(*pair, atol=1e-12, rtol=0)


def test_bfloat16_rounds_no_more_than_twice() -> None:
    features = torch.rand(64, 8, 7, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = F.adaptive_avg_pool2d(features.double(), 5)
    assert ((average(features, 5).double() - exact).abs() / exact).max() <= 2 * 2**-8


def test_no_features_give_none() -> None:
    assert average(torch.zeros(0, 4, 7, 7), 5).shape == (0, 4, 5, 5)


def test_what_testing_made_first_can_be_learnt_with() -> None:
    with torch.inference_mode():
        average(torch.zeros(1, 1, 9, 9), 4)
    features = torch.zeros(1, 1, 9, 9, requires_grad=True)
    average(features, 4).sum().backward()
    assert features.grad is not None
