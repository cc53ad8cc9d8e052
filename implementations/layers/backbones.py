"""ResNets of bottlenecks by depth and width, with torchvision's names; their pretraining as classifiers and the loading of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.types import Batch, UserError
from implementations.layers.images import normalise

if TYPE_CHECKING:
    from bench.spec import Backbone

Norm = Literal["frozen", "batch"]  # the statistics of batch normalisation: fixed (every detector here), or those of the batch (pretraining)
EXPANSION = 4  # output channels over inner channels of a bottleneck


def normed(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, kind: Norm) -> Tensor:
    """Convolution and normalisation.

    With fixed statistics the two are one convolution, with scaled weights and a bias: no pass over the maps is spent on the norm. On the meta
    device, where only costs are counted, the layers stay apart as the papers count them.
    """
    if kind == "batch" or x.is_meta:
        return norm(conv(x))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    return F.conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), bias, conv.stride, conv.padding, conv.dilation)


@dataclass(frozen=True)
class Stride:
    """How a stage walks: its step, where a bottleneck takes it (caffe: the first 1x1; else the 3x3), and the dilation of first and later blocks."""

    step: int = 1
    caffe: bool = False
    dilation: tuple[int, int] = (1, 1)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut (ResNet, Figure 5)."""

    def __init__(self, channels: int, inner: int, stride: Stride, *, first: bool, norm: Norm) -> None:
        super().__init__()
        step, dilation = (stride.step, stride.dilation[0]) if first else (1, stride.dilation[1])
        steps = (step, 1) if stride.caffe else (1, step)
        self.kind: Norm = norm
        self.conv1 = nn.Conv2d(channels, inner, 1, stride=steps[0], bias=False)
        self.bn1 = fixed_norm(inner, norm)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=steps[1], padding=dilation, dilation=dilation, bias=False)
        self.bn2 = fixed_norm(inner, norm)
        self.conv3 = nn.Conv2d(inner, inner * EXPANSION, 1, bias=False)
        self.bn3 = fixed_norm(inner * EXPANSION, norm)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if first:
            shortcut = nn.Conv2d(channels, inner * EXPANSION, 1, stride=step, bias=False)
            self.downsample = nn.Sequential(shortcut, fixed_norm(inner * EXPANSION, norm))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 4 * inner, H / step, W / step)."""
        out = self.relu(normed(x, self.conv1, self.bn1, self.kind))
        out = self.relu(normed(out, self.conv2, self.bn2, self.kind))
        out = normed(out, self.conv3, self.bn3, self.kind)
        shortcut = x if self.downsample is None else normed(x, self.downsample[0], self.downsample[1], self.kind)
        return self.relu(out.add_(shortcut))


def fixed_norm(channels: int, norm: Norm) -> nn.BatchNorm2d:
    """A normalisation that never updates its statistics when it is frozen; its scale and shift are learned, as in mmdetection."""
    layer = nn.BatchNorm2d(channels)
    return layer.eval() if norm == "frozen" else layer


def stage(channels: int, inner: int, blocks: int, *, stride: Stride, norm: Norm = "frozen") -> nn.Sequential:
    """Bottlenecks in a row; only the first strides."""
    first = Bottleneck(channels, inner, stride, first=True, norm=norm)
    rest = [Bottleneck(inner * EXPANSION, inner, stride, first=False, norm=norm) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def init_resnet(module: nn.Module) -> None:
    """He initialisation of every convolution."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class ResNet(nn.Module):
    """The body, with torchvision's names. Gives the outputs of its last stages, coarser and coarser."""

    def __init__(self, spec: Backbone, *, stages: int = 4, outputs: int = 4, dilated: bool = False, norm: Norm = "frozen") -> None:
        """`stages` of 4 are built; `outputs` of them are given; `dilated`: stage 4 keeps stride 16 (R-FCN)."""
        super().__init__()
        self.kind: Norm = norm
        self.outputs = outputs
        self.conv1 = nn.Conv2d(3, spec.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = fixed_norm(spec.width, norm)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        last = Stride(1, dilation=(1, 2)) if dilated else Stride(2)
        channels = spec.width
        for i, stride in enumerate((Stride(1), Stride(2), Stride(2), last)[:stages]):
            self.add_module(f"layer{i + 1}", stage(channels, spec.width << i, spec.blocks[i], stride=stride, norm=norm))
            channels = (spec.width << i) * EXPANSION
        self.channels = tuple((spec.width << i) * EXPANSION for i in range(stages))[-outputs:]
        self.stages = stages
        init_resnet(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps at strides 4, 8, 16, 32, the last `outputs` of those built."""
        x = self.maxpool(self.relu(normed(x, self.conv1, self.bn1, self.kind)))
        maps = []
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
            maps.append(x)
        return maps[-self.outputs :]


class BackboneClassifier(nn.Module):
    """A ResNet that learns to name single objects: what ImageNet is to the papers. Its norms use the batch's statistics."""

    def __init__(self, spec: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = ResNet(spec, outputs=1, norm="batch")
        self.fc = nn.Linear(self.backbone.channels[-1], classes)

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Images of one size, normalised as the detectors do."""
        sizes = tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images)
        return Batch(normalise(torch.stack(list(images))), sizes, sizes)

    def network(self, batch: Batch) -> Tensor:
        """Class logits (B, classes)."""
        return self.fc(self.backbone(batch.pixels)[-1].mean((2, 3)))

    def forward(self, images: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The cross entropy against labels (B,) int64."""
        return {"class": F.cross_entropy(self.network(self.prepare(images)).float(), labels)}


def load_backbone(detector: nn.Module, path: Path, *, frozen: int = 2) -> None:
    """Fill a detector's ResNet from a pretrained classifier, and fix its first `frozen` of (conv1, layer1, ..., layer4), as the papers do.

    The file's tensors may bear the prefix "backbone." (BackboneClassifier) or none (torchvision). A detector whose head is layer4 takes it too.
    UserError if a tensor is missing, unknown or of another shape.
    """
    weights = {name.removeprefix("backbone."): tensor for name, tensor in load_file(path).items() if not name.startswith("fc.")}
    for prefix, body in bodies(detector):
        wanted = {prefix + name: tensor for name, tensor in body.state_dict().items()}
        wrong = [name for name, tensor in wanted.items() if name not in weights or weights[name].shape != tensor.shape]
        if wrong:
            raise UserError(
                f"{path}: {wrong[0]} is missing or of another shape; allowed are the weights of this row's own backbone: pretrain it first"
            )
        body.load_state_dict({name.removeprefix(prefix): weights[name] for name in wanted})
    unknown = sorted(set(weights) - set(known_names(detector)) - {name for name in weights if name.startswith("layer4.")})
    if unknown:
        raise UserError(f"{path}: {unknown[0]} is no tensor of this row's backbone; allowed are its own weights: pretrain it first")
    freeze(detector.get_submodule("backbone"), frozen)


def load_body(detector: nn.Module, path: Path, *, frozen: int = 2) -> None:
    """Fill everything but the second stage ("regions") from a trained detector's weights, and fix the first stages as `load_backbone` does.

    UserError if a tensor is missing or of another shape.
    """
    weights = load_file(path)
    own = {name: tensor for name, tensor in detector.state_dict().items() if not name.startswith("regions.")}
    wrong = [name for name, tensor in own.items() if name not in weights or weights[name].shape != tensor.shape]
    if wrong:
        raise UserError(
            f"{path}: {wrong[0]} is missing or of another shape; allowed are the weights of a detector with this row's body: train it first"
        )
    detector.load_state_dict({name: weights[name] for name in own}, strict=False)
    freeze(detector.get_submodule("backbone"), frozen)


def bodies(detector: nn.Module) -> list[tuple[str, nn.Module]]:
    """The pretrained parts of a detector: its ResNet, and the layer4 that a C4 head may hold, each with the prefix of its names."""
    found: list[tuple[str, nn.Module]] = [("", detector.get_submodule("backbone"))]
    found += [("layer4.", module) for name, module in detector.named_modules() if name.endswith("head.layer4")]
    return found


def known_names(detector: nn.Module) -> list[str]:
    """Names in the file of everything that a detector takes from it."""
    return [prefix + name for prefix, body in bodies(detector) for name in body.state_dict()]


def freeze(body: nn.Module, count: int) -> None:
    """Fix the weights of the first `count` of (conv1, layer1, ..., layer4)."""
    prefixes = ("conv1", "layer1", "layer2", "layer3", "layer4")[:count]
    names: Iterable[str] = ("bn1", *prefixes) if prefixes else ()
    for name, parameter in body.named_parameters():
        if name.split(".")[0] in names:
            parameter.requires_grad = False
