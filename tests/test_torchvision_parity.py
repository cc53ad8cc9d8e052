"""With the same weights, our Faster R-CNN on a pyramid finds what torchvision's finds, at full size."""

from __future__ import annotations

import pytest
import torch
from torchvision_pair import photograph, torchvision_pair

from bench.types import detect


@pytest.fixture(scope="module")
def pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    return torchvision_pair()


def assert_same(ours: torch.nn.Module, theirs: torch.nn.Module, images: list[torch.Tensor]) -> None:
    with torch.no_grad():
        found, wanted = detect(ours, images), theirs(images)
    for mine, other in zip(found, wanted, strict=True):
        assert len(other["boxes"]) >= 20
        assert other["scores"].max() > 0.3
        assert mine.labels.tolist() == (other["labels"] - 1).tolist()
        torch.testing.assert_close(mine.scores, other["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(mine.boxes, other["boxes"], atol=1e-2, rtol=0)


def test_full_size(pair):
    assert_same(*pair, [photograph(400, 608)])  # both enlarge it to 800 x 1216


@pytest.mark.slow
def test_resized_and_padded_together(pair):
    assert_same(*pair, [photograph(300, 301), photograph(250, 420)])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(800, 1216), (600, 1000), (1333, 800), (375, 500), (500, 1500)])
def test_more_sizes(pair, size):
    assert_same(*pair, [photograph(*size)])
