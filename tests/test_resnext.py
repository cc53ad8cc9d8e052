"""ResNeXt-101 64x4d against torchvision's."""

import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from bench.spec import Backbone
from implementations.layers.resnext import ResNeXt


@pytest.mark.parametrize("spec", [Backbone((1, 2, 1, 1), 16), Backbone((1, 1, 2, 1), 8)])
def test_its_maps_are_torchvisions(spec):
    torch.manual_seed(0)
    theirs = ResNet(Bottleneck, list(spec.blocks), groups=64, width_per_group=4)
    ours = ResNeXt(Backbone(spec.blocks, 64))
    state = theirs.state_dict()
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    theirs.eval()
    x = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for i, found in enumerate(ours.eval()(x)):
            y = getattr(theirs, f"layer{i + 1}")(y)
            torch.testing.assert_close(found, y, atol=1e-4, rtol=1e-4)
    assert ours.channels == (256, 512, 1024, 2048)


def test_a_narrow_net_keeps_four_channels_a_group():
    net = ResNeXt(Backbone((1, 1, 1, 1), 8), outputs=3)
    assert [net.get_submodule(f"layer{i}.0.conv2").groups for i in (1, 2, 3, 4)] == [8] * 4
    assert net.layer1[0].conv2.weight.shape[1] == 4
    assert [tuple(x.shape[1:]) for x in net(torch.randn(1, 3, 64, 64))] == [(64, 8, 8), (128, 4, 4), (256, 2, 2)]
