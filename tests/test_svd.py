"""The truncated SVD against the layers that it stands for."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.types import UserError, detect
from implementations.baselines.faster_rcnn import faster_rcnn_fpn
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
        head = svd.svd_head(0.5, layers)(shape)
        assert sum(parameter.numel() for parameter in head.parameters()) / 14_003_305 == pytest.approx(0.5, abs=1e-3)
    assert svd.halving_rank(shape, 0.5, ("fc6", "fc7")) == 441
    assert svd.halving_rank(SMALL, 1.0) <= SMALL.fc


def test_svd_refuses_what_makes_no_sense():
    with pytest.raises(UserError, match="svd_head"):
        svd.svd_head(0.0)
    with pytest.raises(UserError, match="svd_head"):
        svd.svd_head(0.5, ("predictor",))


def _request(**inputs):
    return Request(Setting("voc07+12", 20, 600, 1000, "R50"), SCALES["smoke"], 3, inputs)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """A detector with a two-layer head, and the file of its weights."""
    torch.manual_seed(0)
    detector = faster_rcnn_fpn(_request()).eval()
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(detector.state_dict(), path)
    return detector, path


def test_factorised_detector_at_full_rank_detects_as_the_baseline(baseline):
    detector, path = baseline
    other = faster_rcnn_fpn(_request(), head=lambda shape: svd.SvdHead(shape, shape.fc)).eval()
    svd.factorise(other, path)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, found = detect(detector, [image])[0], detect(other, [image])[0]
    assert len(wanted.scores) > 0
    torch.testing.assert_close(found.scores, wanted.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.boxes, wanted.boxes, atol=1e-2, rtol=0)


def test_build_svd_halves_the_head_and_keeps_the_rest(baseline):
    detector, path = baseline
    halved = svd.build_svd(_request(**{"fpn-r50": path}))
    sizes = [sum(parameter.numel() for parameter in one.regions.head.parameters()) for one in (halved, detector)]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=2e-3)
    kept = {name: value for name, value in detector.state_dict().items() if "fc6" not in name}
    assert all(torch.equal(halved.state_dict()[name], value) for name, value in kept.items())


def test_weights_of_another_detector_are_refused(tmp_path):
    save_file({"backbone.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors"):
        svd.build_svd(_request(**{"fpn-r50": tmp_path / "other.safetensors"}))
