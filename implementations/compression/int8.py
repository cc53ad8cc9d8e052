"""8-bit weights and activations: each part of a detector runs on torch's int8 kernels (x86), with ranges calibrated on training images.

torch.ao.quantization's graph mode lowers a part to quantized convolutions, sums and linear layers. What it cannot trace stays float32 and is named.
Between two parts numbers are float32 again; proposals, RoIAlign and suppression are always float32.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from bench.types import Unavailable, UserError
from implementations.compression.blocks import all_layers
from implementations.compression.quantisation import LARGEST, quantise_weights
from implementations.layers.heads import HeadOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

ENGINE = "x86"
WEIGHT_RANGE = (-LARGEST, LARGEST)
ACTIVATION_RANGE = (0, 127)  # a bit is left free, as without VNNI sums of two products would overflow


def require_engine() -> None:
    """Unavailable where this build of torch has no int8 kernels for x86."""
    if ENGINE not in torch.backends.quantized.supported_engines:
        raise Unavailable(f"this torch has no {ENGINE} int8 kernels; next: run on an x86 CPU, or use the row with 8-bit weights alone")


def fold_norms(detector: nn.Module) -> None:
    """Put every frozen norm into the convolution before it, in place: 8-bit kernels know no norm."""
    for layer in all_layers(detector):
        norm, conv = layer.norm, layer.module
        if norm is None or not isinstance(conv, nn.Conv2d) or norm.running_mean is None or norm.running_var is None:
            continue
        scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias.detach() - norm.running_mean * scale
        conv.weight.data.mul_(scale.view(-1, 1, 1, 1))
        conv.bias = nn.Parameter(shift if conv.bias is None else conv.bias.detach() * scale + shift)
        parent = detector.get_submodule(layer.name.rpartition(".")[0])
        parent.register_module(next(name for name, child in parent.named_children() if child is norm), nn.Identity())
    for module in detector.modules():
        if getattr(module, "kind", "") == "frozen":
            module.kind = "batch"  # type: ignore[assignment]  # a plain attribute: convolution, then what stands for its norm


class _Tensors(nn.Module):
    """A part that takes and gives tensors alone, so that it can be traced."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *maps: Tensor) -> Any:
        """What the part gives; of a head's answer its two tensors."""
        out = self.part(*maps)
        return (out.scores, out.deltas) if isinstance(out, HeadOutput) else out


class _One(_Tensors):
    def forward(self, a: Tensor) -> Any:
        return super().forward(a)


class _Two(_Tensors):
    def forward(self, a: Tensor, b: Tensor) -> Any:
        return super().forward(a, b)


class _Three(_Tensors):
    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Any:
        return super().forward(a, b, c)


class _Four(_Tensors):
    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Any:
        return super().forward(a, b, c, d)


class _Five(_Tensors):
    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Any:
        return super().forward(a, b, c, d, e)


INPUTS: tuple[type[_Tensors], ...] = (_One, _Two, _Three, _Four, _Five)  # a graph has its inputs by name


class Int8Part(nn.Module):
    """A part and, once its ranges are known, the same lowered to int8 kernels. Its state is the weights on their 8-bit grid and the ranges."""

    ranges: Tensor  # (activations, 2): scale and zero point; nan until calibrated

    def __init__(self, source: nn.Module, inputs: int) -> None:
        super().__init__()
        self.source = source
        self.inputs = inputs
        self._watching: list[Any] = []  # the traced part with its observers, while it is calibrated; lists keep both out of the module's state
        self._lowered: list[Any] = []
        self.register_buffer("ranges", torch.full((len(_observers(_prepared(source, inputs))), 2), torch.nan))
        self.train(source.training)
        self.register_load_state_dict_post_hook(lambda module, _: module.lower())

    def forward(self, *maps: Tensor) -> Any:
        """As the part, through int8; Unavailable before it is calibrated."""
        if self.training:
            raise Unavailable("int8 kernels do not learn; train the float32 row, then transform it")
        if self._watching:
            return self._answer(self._watching[0], maps)
        if not self._lowered:
            raise Unavailable("its activations' ranges are not known: calibrate it on images, or load a run's weights; next: leandet run its row")
        return self._answer(self._lowered[0], maps)

    def _answer(self, traced: Any, maps: Sequence[Tensor]) -> Any:
        with torch.autocast(maps[0].device.type, enabled=False), _engine():
            out = traced(*(one.float() for one in maps[: self.inputs]))
        return HeadOutput(*out) if isinstance(out, tuple) and self.is_head else out

    @property
    def is_head(self) -> bool:
        """Whether it answers for RoIs."""
        return any(name.endswith("cls_score") for name, _ in self.source.named_modules())

    def watch(self) -> None:
        """Begin to look at what runs through it."""
        self._watching = [_prepared(self.source, self.inputs)]

    def settle(self) -> None:
        """End that, and run on int8 from now on."""
        pairs = [observer.calculate_qparams() for observer in _observers(self._watching[0]).values()]
        self._watching = []
        self.ranges.copy_(torch.tensor([[float(scale), float(zero)] for scale, zero in pairs]).reshape(self.ranges.shape))
        self.lower()

    def lower(self) -> None:
        """Make the int8 kernels from weights and ranges; nothing where these are not known."""
        self._lowered = []
        if not bool(self.ranges.isfinite().all()):
            return
        from torch.ao.quantization import FixedQParamsObserver
        from torch.ao.quantization.quantize_fx import convert_fx

        prepared = _prepared(self.source, self.inputs)
        for (name, _), (scale, zero) in zip(_observers(prepared).items(), self.ranges.tolist(), strict=True):
            low, high = ACTIVATION_RANGE
            fixed = FixedQParamsObserver(scale, int(zero), torch.quint8, torch.per_tensor_affine, low, high)
            prepared.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], fixed)
        with _quiet(), _engine():
            self._lowered = [convert_fx(prepared)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch announces that this module moves to another package; its kernels stay."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _engine() -> Iterator[None]:
    """The x86 kernels. They add integers, so they repeat bit for bit, but torch refuses one (the resize of a linear layer's output) as unproven."""
    engine, strict = torch.backends.quantized.engine, torch.are_deterministic_algorithms_enabled()
    torch.backends.quantized.engine = ENGINE
    torch.use_deterministic_algorithms(mode=False)
    try:
        yield
    finally:
        torch.backends.quantized.engine = engine
        torch.use_deterministic_algorithms(mode=strict)


def _prepared(part: nn.Module, inputs: int) -> Any:
    """The part traced, convolution and ReLU joined, an observer at each activation; Unavailable where it cannot be traced."""
    from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver, QConfig, QConfigMapping
    from torch.ao.quantization.quantize_fx import prepare_fx

    low, high = ACTIVATION_RANGE
    activation = MinMaxObserver.with_args(dtype=torch.quint8, quant_min=low, quant_max=high)
    weight = PerChannelMinMaxObserver.with_args(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=WEIGHT_RANGE[0], quant_max=WEIGHT_RANGE[1]
    )
    try:
        with _quiet(), _engine():
            graph = _traced(INPUTS[inputs - 1](copy.deepcopy(part).eval()))
            mapping = QConfigMapping().set_global(QConfig(activation, weight)).set_object_type(torch.cat, None)  # classes and boxes have own ranges
            return prepare_fx(graph, mapping, example_inputs=(torch.zeros(1),) * inputs)
    except Exception as error:
        raise Unavailable(f"{type(part).__name__} cannot be traced for int8 ({type(error).__name__})") from error


def _traced(part: _Tensors) -> fx.GraphModule:
    """The part as a graph; sums in place become sums, which the kernels know, and what stood for a norm goes, so that ReLUs join convolutions."""
    graph = fx.Tracer().trace(part)
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target == "add_":
            node.op, node.target = "call_function", operator.add
        elif node.op == "call_module" and isinstance(part.get_submodule(str(node.target)), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return fx.GraphModule(part, graph)


def _observers(prepared: Any) -> dict[str, Any]:
    """The observers of activations by name, in the order in which they stand."""
    return {name: module for name, module in prepared.named_modules() if name.rpartition(".")[2].startswith("activation_post_process")}


# ---- a detector


def to_int8(detector: Any) -> tuple[str, ...]:
    """Make every part that can be traced an Int8Part, in place, with norms folded and weights on their grid; the names of those that stay float32.

    UserError if nothing can be.
    """
    require_engine()
    fold_norms(detector)
    quantise_weights(all_layers(detector))
    kept, changed = [], 0
    for name, inputs in _parts(detector):
        part = detector.get_submodule(name)
        try:
            lowered = Int8Part(part, inputs)
        except Unavailable:
            kept.append(name)
            continue
        detector.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], lowered)
        changed += 1
    if not changed:
        raise UserError(f"{type(detector).__name__}: no part of it can be traced for int8; use 8-bit weights alone")
    return tuple(kept)


def _parts(detector: Any) -> list[tuple[str, int]]:
    """The parts that learn, each with the number of maps that it is given; what has no weights is none."""
    levels = len(detector.config.channels)
    proposing = len(detector.config.rpn.anchor_sizes)
    wanted = [("backbone", 1), ("neck", levels), ("rpn.head", proposing), ("regions.stem", 1), ("regions.head", 1)]
    wanted += [(f"regions.heads.{place}", 1) for place in range(len(getattr(detector.regions, "heads", ())))]
    return [(name, count) for name, count in wanted if _learns(detector, name)]


def _learns(detector: nn.Module, name: str) -> bool:
    try:
        return any(True for _ in detector.get_submodule(name).parameters())
    except AttributeError:
        return False


def calibrate(detector: Any, images: Sequence[Tensor], batch: int = 4) -> None:
    """Look at what the parts give on images, then run on int8; UserError without images."""
    if not images:
        raise UserError("calibration: no images; give at least one of the training split, 64 are usual")
    parts = [module for module in detector.modules() if isinstance(module, Int8Part)]
    learning = detector.training
    detector.eval()
    for part in parts:
        part.watch()
    with torch.inference_mode():
        for first in range(0, len(images), batch):
            detector.network(detector.prepare(images[first : first + batch]))
    for part in parts:
        part.settle()
    detector.train(learning)
