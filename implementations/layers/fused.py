"""A detector as it runs fastest on a CPU: the same function up to rounding, of one that has learnt; it cannot learn any more.

Normalisations are folded in. Each convolution is one kernel of oneDNN, with its bias, its activation and the shortcut that is added to it, on weights
that were packed once: no pass over a map is spent on any of these. RoIAlign sums rows. What is not named in FUSED stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import UserError
from implementations.layers.backbones import Bottleneck, ResNet
from implementations.layers.heads import HeadOutput, TwoFC
from implementations.layers.pooling import Align, PyramidAlign
from implementations.layers.pyramid import TopDown
from implementations.layers.row_align import PyramidRowAlign, RowAlign
from implementations.layers.rpn import RPNHead

Activation = Literal["none", "relu"]
# oneDNN's operators, those that torch.compile writes its CPU code with
_NAMES = ("_reorder_convolution_weight", "_convolution_pointwise", "_convolution_pointwise_", "_reorder_linear_weight", "_linear_pointwise")
_PACK, _CONVOLVE, _CONVOLVE_ONTO, _PACK_LINEAR, _MULTIPLY = _KERNELS = tuple(getattr(torch.ops.mkldnn, name, None) for name in _NAMES)


def available() -> bool:
    """Whether this build of torch has oneDNN's fused kernels."""
    return torch.backends.mkldnn.is_available() and None not in _KERNELS


class FusedConv(nn.Module):
    """A convolution, its bias, what is added to it, and its activation, as one kernel."""

    def __init__(self, conv: nn.Conv2d, activation: Activation = "none", *, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        weight, bias = conv.weight, conv.bias
        if norm is not None:
            assert bias is None, "a convolution before a norm has no bias in any detector here"
            assert norm.running_var is not None
            assert norm.running_mean is not None
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            weight, bias = weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale  # type: ignore[assignment]
        assert not isinstance(conv.padding, str)
        self.walk = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.activation: Activation = activation
        self.weight = nn.Parameter(weight.detach().contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.packed: Tensor | None = None

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> the activation of convolution + shortcut; the shortcut's memory is overwritten with the answer."""
        x = x.to(self.weight.dtype).contiguous(memory_format=torch.channels_last)
        if x.is_meta:  # where multiply-adds are counted
            found = F.conv2d(x, self.weight, self.bias, *self.walk[1::-1], *self.walk[2:])
            return found if self.activation == "none" else F.relu(found)
        if self.packed is None:
            self.packed = _PACK(self.weight, *self.walk, list(x.shape))
        if shortcut is None:
            return _CONVOLVE(x, self.packed, self.bias, *self.walk, self.activation, [], "")  # type: ignore[no-any-return]
        after = None if self.activation == "none" else self.activation
        return _CONVOLVE_ONTO.binary(shortcut, x, self.packed, self.bias, *self.walk, "add", 1.0, after, [], "")  # type: ignore[no-any-return]


class FusedLinear(nn.Module):
    """A fully connected layer and its ReLU as one kernel of oneDNN: on AMD's processors twice as fast in float32 as the product that torch takes."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().contiguous(), requires_grad=False)
        self.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        self.packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(R, in) -> (R, out), not negative."""
        if x.is_meta:
            return F.relu(F.linear(x, self.weight, self.bias))
        if self.packed is None:
            self.packed = _PACK_LINEAR(self.weight, max(1, len(x)))
        return _MULTIPLY(x.to(self.weight.dtype), self.packed, self.bias, "relu", [], "")  # type: ignore[no-any-return]


class FusedBottleneck(nn.Module):
    """Four kernels at most: 1x1, 3x3, the shortcut's 1x1, and the last 1x1 that adds it."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = FusedConv(block.conv1, "relu", norm=block.bn1)
        self.conv2 = FusedConv(block.conv2, "relu", norm=block.bn2)
        self.conv3 = FusedConv(block.conv3, "relu", norm=block.bn3)
        self.downsample = None if block.downsample is None else FusedConv(block.downsample[0], norm=block.downsample[1])  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """As Bottleneck. A block without a shortcut of its own overwrites its input: nothing else reads what comes from within a stage."""
        inner = self.conv2(self.conv1(x))
        return self.conv3(inner, x if self.downsample is None else self.downsample(x))  # type: ignore[no-any-return]


class FusedResNet(nn.Module):
    """The body; takes the place of a ResNet with fixed statistics."""

    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.conv1, self.maxpool = FusedConv(body.conv1, "relu", norm=body.bn1), body.maxpool
        self.outputs, self.stages, self.channels = body.outputs, body.stages, body.channels
        for i in range(body.stages):
            self.add_module(f"layer{i + 1}", nn.Sequential(*map(FusedBottleneck, body.get_submodule(f"layer{i + 1}"))))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps, as ResNet."""
        x, maps = self.maxpool(self.conv1(x)), []
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
            maps.append(x)
        return maps[-self.outputs :]


class FusedTopDown(nn.Module):
    """The pyramid: each lateral convolution adds the coarser level itself."""

    def __init__(self, neck: TopDown) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(FusedConv(block[0]) for block in neck.inner_blocks)  # type: ignore[index]
        self.layer_blocks = nn.ModuleList(FusedConv(block[0]) for block in neck.layer_blocks)  # type: ignore[index]

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """C2 to C5 -> P2 to P5, fine to coarse."""
        inner = [self.inner_blocks[-1](maps[-1])]
        for block, x in zip(list(self.inner_blocks)[-2::-1], maps[-2::-1], strict=True):
            inner.append(block(x, F.interpolate(inner[-1], size=x.shape[-2:], mode="nearest")))
        return [block(x) for block, x in zip(self.layer_blocks, inner[::-1], strict=True)]


class FusedRPNHead(nn.Module):
    """Objectness and offsets come from one convolution, so that each map is read once."""

    def __init__(self, head: RPNHead) -> None:
        super().__init__()
        both = nn.Conv2d(head.conv.out_channels, head.cls_logits.out_channels + head.bbox_pred.out_channels, 1)
        both.weight = nn.Parameter(torch.cat((head.cls_logits.weight, head.bbox_pred.weight)))
        both.bias = nn.Parameter(torch.cat((head.cls_logits.bias, head.bbox_pred.bias)))  # type: ignore[list-item]
        self.anchors = head.cls_logits.out_channels
        self.conv, self.both = FusedConv(head.conv, "relu"), FusedConv(both)

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps -> logits (B, N) and offsets (B, N, 4), as RPNHead."""
        batch = maps[0].shape[0]
        told = [self.both(self.conv(x)).permute(0, 2, 3, 1) for x in maps]
        logits = torch.cat([x[..., : self.anchors].reshape(batch, -1) for x in told], 1)
        return logits.float(), torch.cat([x[..., self.anchors :].reshape(batch, -1, 4) for x in told], 1).float()


class FusedTwoFC(nn.Module):
    """Two fully connected layers, the first of which reads the features with their channels last, as RowAlign leaves them."""

    def __init__(self, head: TwoFC, side: int) -> None:
        super().__init__()
        first = nn.Linear(head.fc6.in_features, head.fc6.out_features, device="meta")
        cells = head.fc6.weight.detach().unflatten(1, (-1, side * side))  # (fc, C, S * S)
        first.weight, first.bias = nn.Parameter(cells.transpose(1, 2).flatten(1)), head.fc6.bias
        self.fc6, self.fc7, self.predictor = FusedLinear(first), FusedLinear(head.fc7), head.predictor

    def forward(self, features: Tensor, labels: Tensor | None = None) -> HeadOutput:  # noqa: ARG002 - the interface of heads
        """(R, C, S, S) -> scores and offsets."""
        return self.predictor(self.fc7(self.fc6(features.permute(0, 2, 3, 1).flatten(1))))  # type: ignore[no-any-return]


FUSED: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = MappingProxyType({ResNet: FusedResNet, TopDown: FusedTopDown, RPNHead: FusedRPNHead})
_LEAVES = (FusedConv, FusedTwoFC)  # what holds weights of the precision that is asked for


def fused(detector: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A fused copy of a detector on the CPU, its fused parts in float32 or bfloat16; run the rest of a bfloat16 one under autocast.

    UserError where this torch lacks the kernels, for a detector on another device, or where nothing of it is known here.
    """
    if {tensor.device.type for tensor in detector.parameters()} - {"cpu"}:
        raise UserError("fused: its kernels are the CPU's; allowed: --device cpu")
    if not available():
        raise UserError("fused: this build of torch has no oneDNN convolutions; allowed: the detector as it is")
    copied = copy.deepcopy(detector).eval().requires_grad_(requires_grad=False)
    found = [(name, FUSED[type(module)]) for name, module in copied.named_modules() if type(module) in FUSED and not _learning(module)]
    for name, make in found:
        _put(copied, name, make(copied.get_submodule(name)))
    pooled = [_pooled(module) for module in list(copied.modules())]
    if not found and not any(pooled):
        raise UserError(f"fused: nothing of {type(detector).__name__} is known here; allowed: detectors of {', '.join(t.__name__ for t in FUSED)}")
    for module in copied.modules():
        if isinstance(module, _LEAVES):
            module.to(dtype)
    return copied


def _learning(module: nn.Module) -> bool:
    """Whether its normalisations use the batch's statistics: they cannot be folded."""
    return isinstance(module, ResNet) and module.kind == "batch"


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)


def _pooled(stage: nn.Module) -> bool:
    """Give a second stage that pools by RoIAlign the faster one, and its heads of two layers their order; whether it does."""
    pool = getattr(stage, "pool", None)
    if isinstance(pool, PyramidAlign):
        stage.pool = PyramidRowAlign(pool.side, pool.strides, pool.canonical)  # type: ignore[assignment]
    elif isinstance(pool, Align):
        stage.pool = RowAlign(pool.side, pool.stride)  # type: ignore[assignment]
    else:
        return False
    for name, head in list(stage.named_modules()):
        if isinstance(head, TwoFC):
            _put(stage, name, FusedTwoFC(head, pool.side))
    return True
