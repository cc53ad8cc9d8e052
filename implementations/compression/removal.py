"""Units that are zero are taken out of the network, so that a smaller one results; torch-pruning finds what must shrink together.

Only what no other part of the detector reads is taken out: a channel that goes from the backbone into the pyramid, or from there into both
stages, keeps its place and stays zero. Units that share their channel with others (by a shortcut, by the path from coarse to fine) go when all of
them are zero.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Unavailable
from implementations.compression.blocks import Layer

SIDE = 64  # px of the image that the network is traced with
LIBRARY = "torch-pruning"


def library() -> Any:
    """The torch_pruning module; Unavailable, with the next step, where it is not installed."""
    try:
        return importlib.import_module("torch_pruning")
    except ImportError as error:
        raise Unavailable(f"{LIBRARY} is not installed, so no unit can be taken out; next: pip install {LIBRARY}") from error


class _Traced(nn.Module):
    """One call that reaches every layer, without proposals: channels depend on each other in it as in the detector."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor) -> list[Tensor]:
        detector = self.detector
        maps = detector.features(pixels)
        side = detector.config.roi_features[1]
        proposed = [detector.rpn.head.conv(one).mean() for one in maps[: len(detector.config.rpn.anchor_sizes)]]
        regions = detector.regions
        read = maps if getattr(regions, "stem", None) is None else [regions.stem(maps[-1])]
        if len({one.shape[1] for one in read}) > 1:
            read = read[-1:]
        features = F.adaptive_avg_pool2d(read[0], side)
        for one in read[1:]:
            features = features + F.adaptive_avg_pool2d(one, side)
        outputs = [head(features) for head in (regions.heads if hasattr(regions, "heads") else [regions.head])]
        return [*proposed, *(tensor for output in outputs for tensor in (output.scores, output.deltas))]


@contextmanager
def layers_called(detector: nn.Module) -> Iterator[None]:
    """Let convolutions and norms run as the modules that they are: with fixed statistics they run as one function that no tracer sees."""
    able = [module for module in detector.modules() if getattr(module, "kind", "") == "frozen"]
    for module in able:
        module.kind = "batch"  # type: ignore[assignment]  # a plain attribute; the norms themselves stay in eval mode
    try:
        yield
    finally:
        for module in able:
            module.kind = "frozen"  # type: ignore[assignment]


def zero_units(layer: Layer) -> set[int]:
    """The units that say zero whatever they see."""
    gone = ~layer.module.weight.detach().flatten(1).any(1)
    for tensor in layer.attached:
        gone &= tensor.detach() == 0
    return set(gone.nonzero()[:, 0].tolist())


def remove_zero_units(detector: nn.Module, layers: Sequence[Layer]) -> int:
    """Take the units of these layers that are zero out of the detector, in place; how many went.

    Unavailable for a detector that torch-pruning cannot follow, or where the library is missing.
    """
    pruner, learning = library(), detector.training
    dead = {layer.module: zero_units(layer) for layer in layers if not layer.answers}
    with layers_called(detector.eval()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = _graph(pruner, detector)
        names = {module: name for name, module in detector.named_modules()}
        removed = sum(_remove(pruner, graph, module, dead, names) for module in dead)
    detector.train(learning)
    return removed


def _graph(pruner: Any, detector: nn.Module) -> Any:
    weight = next(detector.parameters())
    held = [parameter for parameter in detector.parameters() if not parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(True)  # noqa: FBT003 - torch's own signature; the tracer follows gradients
    try:
        return pruner.DependencyGraph().build_dependency(_Traced(detector), example_inputs=torch.zeros(1, 3, SIDE, SIDE, device=weight.device))
    except Exception as error:
        raise Unavailable(f"{LIBRARY} cannot follow this {type(detector).__name__} ({type(error).__name__}); keep its units masked") from error
    finally:
        for parameter in held:
            parameter.requires_grad_(False)  # noqa: FBT003 - as above


def _remove(pruner: Any, graph: Any, module: nn.Module, dead: dict[nn.Module, set[int]], names: dict[nn.Module, str]) -> int:
    """Take out the zero units of one layer as far as all that share a channel with them are zero; one unit at least stays."""
    function = pruner.prune_conv_out_channels if isinstance(module, nn.Conv2d) else pruner.prune_linear_out_channels
    if not dead[module] or not graph.check_pruning_group(graph.get_pruning_group(module, function, idxs=[0])):
        return 0
    units = sorted(index for index in dead[module] if _free(pruner, graph.get_pruning_group(module, function, idxs=[index]), dead, names))
    size = module.weight.shape[0]
    assert isinstance(size, int)
    units = units[: size - 1]
    if not units:
        return 0
    group = graph.get_pruning_group(module, function, idxs=units)
    changed = {dep.target.module: list(indices) for dep, indices in group if dep.target.module in dead and _gives(pruner, dep)}
    group.prune()
    for target, indices in changed.items():
        dead[target] = _renumbered(dead[target], set(indices))
    return len(units)


def _free(pruner: Any, group: Any, dead: dict[nn.Module, set[int]], names: dict[nn.Module, str]) -> bool:
    """Whether one unit can go: every layer that gives its channel is zero there, and no other part of the detector reads it."""
    known = [(dep, indices) for dep, indices in group if dep.target.module in names]
    if len({_part(names[dep.target.module]) for dep, _ in known}) > 1:
        return False
    layers = [(dep, indices) for dep, indices in known if _gives(pruner, dep) and isinstance(dep.target.module, nn.Conv2d | nn.Linear)]
    return all(dep.target.module in dead and set(indices) <= dead[dep.target.module] for dep, indices in layers)


def _gives(pruner: Any, dep: Any) -> bool:
    return bool(dep.handler in (pruner.prune_conv_out_channels, pruner.prune_linear_out_channels))


def _part(name: str) -> str:
    """The part of the detector, whose inputs and outputs other parts count on."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "regions" else parts[0]


def _renumbered(units: set[int], gone: set[int]) -> set[int]:
    """The units that are left, by their new places."""
    order = sorted(gone)
    return {unit - sum(one < unit for one in order) for unit in units - gone}
