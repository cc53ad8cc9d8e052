"""ResNets: folded norms, strides, pretraining as classifiers, and the strict loading of it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.spec import Backbone
from bench.types import UserError
from implementations.layers.backbones import BackboneClassifier, Bottleneck, ResNet, Stride, load_backbone


def settle(module: nn.Module) -> None:
    """Give every norm statistics of its own."""
    generator = torch.Generator().manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(layer.weight, 0.5, 2, generator=generator)
            nn.init.normal_(layer.bias, generator=generator)


def test_frozen_norms_fold_into_the_convolutions():
    frozen, plain = ResNet(Backbone((1, 2, 1, 1), 8)), ResNet(Backbone((1, 2, 1, 1), 8), norm="batch")
    settle(frozen)
    plain.load_state_dict(frozen.state_dict())
    x = torch.rand(2, 3, 64, 64)
    for mine, other in zip(frozen.train()(x), plain.eval()(x), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_frozen_norms_keep_their_statistics_and_learn_their_scale():
    net = ResNet(Backbone((1, 1, 1, 1), 8)).train()
    before = {name: tensor.clone() for name, tensor in net.named_buffers()}
    sum(x.square().mean() for x in net(torch.rand(2, 3, 64, 64))).backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.named_buffers())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_strides_and_channels():
    x = torch.rand(1, 3, 64, 96)
    assert [tuple(m.shape[1:]) for m in ResNet(Backbone((1, 1, 1, 1), 8))(x)] == [(32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]
    assert [tuple(m.shape[1:]) for m in ResNet(Backbone((1, 1, 1, 2), 8), outputs=2, dilated=True)(x)] == [(128, 4, 6), (256, 4, 6)]
    assert [tuple(m.shape[1:]) for m in ResNet(Backbone((1, 1, 1, 1), 8), stages=3, outputs=1)(x)] == [(128, 4, 6)]


def test_caffe_strides_in_the_first_convolution():
    block = Bottleneck(16, 8, Stride(2, caffe=True), first=True, norm="frozen")
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    block = Bottleneck(16, 8, Stride(2), first=True, norm="frozen")
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


class Bearer(nn.Module):
    """A detector as far as the loading of its backbone goes."""

    def __init__(self, spec: Backbone, **arguments: int) -> None:
        super().__init__()
        self.backbone = ResNet(spec, **arguments)


def test_load_backbone_fills_and_freezes(tmp_path):
    spec = Backbone((1, 1, 1, 1), 8)
    classifier, bearer = BackboneClassifier(spec, 5), Bearer(spec)
    settle(classifier)
    save_file(classifier.state_dict(), tmp_path / "weights.safetensors")
    load_backbone(bearer, tmp_path / "weights.safetensors")
    wanted = classifier.backbone.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in bearer.backbone.state_dict().items())
    fixed = {name.split(".")[0] for name, p in bearer.backbone.named_parameters() if not p.requires_grad}
    assert fixed == {"conv1", "bn1", "layer1"}


def test_load_backbone_leaves_layer4_to_whom_it_belongs(tmp_path):
    spec = Backbone((1, 1, 1, 1), 8)
    save_file(BackboneClassifier(spec, 5).state_dict(), tmp_path / "weights.safetensors")
    load_backbone(Bearer(spec, stages=3, outputs=1), tmp_path / "weights.safetensors", frozen=0)


@pytest.mark.parametrize("fault", ["missing", "shape", "unknown"])
def test_load_backbone_is_strict(tmp_path, fault):
    spec = Backbone((1, 1, 1, 1), 8)
    weights = BackboneClassifier(spec, 5).state_dict()
    if fault == "missing":
        del weights["backbone.layer2.0.conv1.weight"]
    elif fault == "shape":
        weights["backbone.conv1.weight"] = torch.zeros(4, 3, 7, 7)
    else:
        weights["backbone.layer1.7.conv1.weight"] = torch.zeros(1)
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors: .*(layer2\.0\.conv1\.weight|conv1\.weight|layer1\.7)"):
        load_backbone(Bearer(spec), tmp_path / "weights.safetensors")


def test_classifier_learns_two_colours():
    torch.manual_seed(0)
    model = BackboneClassifier(Backbone((1, 1, 1, 1), 8), 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    labels = torch.arange(8) % 2
    pictures = [torch.rand(3, 32, 32) * 0.2 + 0.8 * label for label in labels]
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(pictures, labels)["class"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
