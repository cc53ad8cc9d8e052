"""Whole channels are taken out: those of a block that matter least, with all that gives and reads them, so that a smaller network results.

torch-pruning finds which layers share a channel (by shortcuts, norms, the sums of a pyramid) and weighs it: the squares of all weights that give or
read it, and of its norm's scale, a mean over these layers, relative to the mean of the group. Backbone and pyramid are followed together, every
other part of a detector for itself: what parts say to one another (the maps of the pyramid, features of RoIs, answers) keeps its channels. What the
library cannot follow, or without which a part would answer otherwise than with these channels at zero, stays as wide as it was. Layers that stay so
are named.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from implementations.compression.blocks import ANSWERS, Layer, layers_of
from implementations.compression.pruning import share as counted
from implementations.compression.removal import layers_called, library
from implementations.compression.widths import SIDE, tell_channels

APART = 1e-3  # of a part's largest answer: more is no rounding
SHRINKING = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
BY_PLACE = ("OKPDNet",)  # classes whose answers are read by their place in the map: no library follows what reads them
OPAQUE = ("DecomposedConv", "GuidedAlignment", "FreeAlignment", "PlainAlignment")  # and that use weights in a way of their own: nor into these
PRODUCTS = (torch.matmul, torch.gather, Tensor.gather)  # nor behind these, which turn places about


@dataclass(frozen=True)
class Piece:
    """What is followed together: a part, or two of which the second takes the last maps of the first."""

    name: str
    modules: tuple[nn.Module, ...]
    inputs: tuple[tuple[int, ...], ...]  # shapes
    maps: int = 0  # that the second module takes
    mimicked: bool = True  # a teacher's features are compared with a student's, so both keep theirs


@dataclass(frozen=True)
class Taken:
    """How many channels went, of how many that could, and which layers of the block stayed as wide as they were, answering layers apart."""

    channels: int
    of: int
    whole: tuple[str, ...] = ()


def pieces_of(detector: Any) -> tuple[Piece, ...]:
    """Backbone and pyramid as one, then each other part."""
    parts = detector.parts(SIDE, SIDE)
    body = [part for part in parts if part.module is detector.backbone or part.module is getattr(detector, "neck", None)]
    joined = Piece("backbone", tuple(part.module for part in body), body[0].inputs, len(body[-1].inputs))
    heads = getattr(detector, "regions", None)
    mimicked = any(getattr(heads, name, None) is not None for name in ("teacher", "fixed"))
    others = (Piece(part.name, (part.module,), part.inputs, mimicked=mimicked) for part in parts if all(part is not each for each in body))
    return (joined, *others)


# ---- a piece as the library follows it


class _Followed(nn.Module):
    """A piece between readers: a channel that a reader sees is one that other parts give or count on."""

    def __init__(self, piece: Piece) -> None:
        super().__init__()
        self.piece = piece
        self.parts = nn.ModuleList(piece.modules)
        self.before = nn.ModuleList(_reader(shape) for shape in piece.inputs)
        self.behind = nn.ModuleList()
        ends = [(name.rpartition(".")[2], module) for part in piece.modules for name, module in part.named_modules()]
        self.answers = tuple(module for name, module in ends if name in ANSWERS and isinstance(module, nn.Conv2d | nn.Linear))
        self.ends = tuple(module for _, module in ends if type(module).__name__ in (*BY_PLACE, *OPAQUE))

    @property
    def readers(self) -> list[nn.Module]:
        """What stands for the other parts."""
        return [*self.before, *self.behind]

    def run(self, *inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(what its answering layers say, what else it says); nothing behind an answering layer is followed."""
        answered, said = list[Tensor](), list[Tensor]()

        def cut(module: nn.Module, given: Any, found: Any) -> Any:
            if module in self.answers:
                answered.append(found)
            else:
                said.extend(tensors(given if type(module).__name__ in OPAQUE else found))
            return _detached(found)

        hooks = [module.register_forward_hook(cut) for module in (*self.answers, *self.ends)]
        try:
            with _CutProducts():
                last = self.parts[0](*inputs)
                for part in list(self.parts)[1:]:
                    last = part(*last[-self.piece.maps :])
        finally:
            for hook in hooks:
                hook.remove()
        said += tensors(last if self.piece.mimicked or not hasattr(last, "features") else replace(last, features=()))
        return answered, [one for one in said if one.requires_grad and one.dim() in {2, 3, 4}]

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """All that it says, behind readers."""
        answered, said = self.run(*(reader(one) for reader, one in zip(self.before, inputs, strict=True)))
        if not self.behind:
            self.behind.extend(_reader(one.shape) for one in said)
        return [*answered, *(reader(one) for reader, one in zip(self.behind, said, strict=True))]


class _CutProducts(TorchFunctionMode):
    """What PRODUCTS give is followed no further."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        return found.detach() if function in PRODUCTS else found


def _reader(shape: Sequence[int]) -> nn.Module:
    """A layer that gives and reads each channel of a map or vector of that shape."""
    if len(shape) == 4:
        return nn.Conv2d(shape[1], shape[1], 1, groups=shape[1])
    return nn.Linear(shape[-1], shape[-1])


def tensors(said: Any) -> list[Tensor]:
    """Every tensor of numbers within what a module says."""
    if isinstance(said, Tensor):
        return [said] if said.is_floating_point() else []
    if is_dataclass(said):
        return [tensor for field in fields(said) for tensor in tensors(getattr(said, field.name))]
    values = said.values() if isinstance(said, Mapping) else said if isinstance(said, list | tuple) else ()
    return [tensor for value in values for tensor in tensors(value)]


def _detached(said: Any) -> Any:
    if isinstance(said, Tensor):
        return said.detach()
    return replace(said, **{field.name: _detached(getattr(said, field.name)) for field in fields(said)}) if is_dataclass(said) else said  # type: ignore[type-var]


# ---- what can go, and how much it matters


@dataclass(frozen=True)
class Group:
    """Channels that layers share: one entry of `marks` for each."""

    piece: int  # its place among the pieces
    root: nn.Module  # a layer that gives them
    givers: tuple[nn.Module, ...]  # all of these, the root among them
    marks: Tensor  # (channels,): how much each matters, relative to the mean


class Graph:
    """A piece with what the library knows of it."""

    def __init__(self, piece: Piece, layers: Sequence[Layer]) -> None:
        """`layers`: those of the block. Whatever the library raises where it cannot follow the piece."""
        self.pruner, self.piece = library(), piece
        own = [layer for layer in layers if any(layer.module is module for part in piece.modules for module in part.modules())]
        self.given = {layer.module for layer in own if not layer.answers}
        self.followed = _Followed(piece)
        weight = next(parameter for part in piece.modules for parameter in part.parameters())
        self.inputs = tuple(torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(weight) for shape in piece.inputs)
        self.followed.to(weight)(*self.inputs)  # so that there are readers
        self.followed.to(weight)
        self.known = self.pruner.DependencyGraph().build_dependency(self.followed, example_inputs=self.inputs, forward_fn=_called)

    def groups(self, place: int) -> Iterator[Group]:
        """Those that only layers of the block give, and no other part reads."""
        weigh = self.pruner.importance.GroupMagnitudeImportance(p=2)
        readers = set(self.followed.readers)
        for group in self.known.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
            layers = [dep.target.module for dep, _ in group if isinstance(dep.target.module, nn.Conv2d | nn.Linear)]
            givers = {layer for dep, layer in zip(_of_layers(group), layers, strict=True) if self.known.is_out_channel_pruning_fn(dep.handler)}
            parameters = any(isinstance(dep.target.module, nn.Parameter) for dep, _ in group)  # of a layer that the library does not know
            if readers.isdisjoint(layers) and givers <= self.given and not parameters and not any(map(_in_groups, layers)):
                yield Group(place, group[0].dep.target.module, tuple(givers), weigh(group).nan_to_num(0.0))  # all of a group at zero: 0 of 0

    def group(self, root: nn.Module, channels: Sequence[int]) -> Any:
        """Some channels of a group, as the library has them."""
        return self.known.get_pruning_group(root, self.known.get_pruner_of_module(root).prune_out_channels, idxs=list(channels))


def _of_layers(group: Any) -> list[Any]:
    return [dep for dep, _ in group if isinstance(dep.target.module, nn.Conv2d | nn.Linear)]


def _in_groups(layer: nn.Module) -> bool:
    """Whether a layer reads its inputs in groups of several: a channel less would leave them uneven."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels


def _called(followed: nn.Module, inputs: Sequence[Tensor]) -> Any:
    return followed(*inputs)


def least(groups: Sequence[Group], share: float) -> tuple[list[tuple[Group, list[int]]], int]:
    """(for each group the channels that matter least of all, of how many); a group keeps one. UserError for a share outside 0..1."""
    ranked = sorted((float(mark), place, channel) for place, group in enumerate(groups) for channel, mark in enumerate(group.marks))
    chosen: list[list[int]] = [[] for _ in groups]
    wanted = counted(share, len(ranked))
    for _, place, channel in ranked:
        if wanted and len(chosen[place]) < len(groups[place].marks) - 1:
            chosen[place].append(channel)
            wanted -= 1
    return [(group, sorted(found)) for group, found in zip(groups, chosen, strict=True) if found], len(ranked)


# ---- taking out


def narrow(detector: Any, block: str, share: float) -> Taken:
    """Take that share of a block's channels, of those that can go, out of a detector, in place; the ones that matter least.

    UserError for a block that it lacks or a share outside 0..1; Unavailable where the library is missing.
    """
    layers, learning = layers_of(detector, block), detector.training
    counted(share, 0)
    library()
    try:
        with layers_called(detector.eval()), _all_learn(detector), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _narrowed(detector, layers, share)
    finally:
        tell_channels(detector)
        detector.train(learning)


def _narrowed(detector: Any, layers: Sequence[Layer], share: float) -> Taken:
    graphs = _graphs(detector, layers)
    groups = [group for place, graph in enumerate(graphs) for group in graph.groups(place)]
    chosen, of = least(groups, share)
    narrower = {layer for group in groups for layer in group.givers}
    gone = 0
    for group, channels in chosen:
        if _taken_out(graphs[group.piece], group.root, channels):
            gone += len(channels)
        else:
            narrower -= set(group.givers)
    return Taken(gone, of, tuple(layer.name for layer in layers if not layer.answers and layer.module not in narrower))


def _graphs(detector: Any, layers: Sequence[Layer]) -> list[Graph]:
    """The pieces that hold layers of the block, as far as they can be followed."""
    graphs = list[Graph]()
    for piece in pieces_of(detector):
        if any(layer.module is module for layer in layers for part in piece.modules for module in part.modules()):
            with suppress(Exception):  # the library raises anything where it cannot follow; the layers are named then
                graphs.append(Graph(piece, layers))
    return graphs


def _taken_out(graph: Graph, root: nn.Module, channels: Sequence[int]) -> bool:
    """Take channels of one group out; False, and all as it was, where the piece would then answer otherwise than with them at zero."""
    before = [(module, _own(module)) for module in {dep.target.module for dep, _ in graph.group(root, channels)}]
    try:
        _silence(graph, graph.group(root, channels))
        wanted = _said(graph)
        graph.group(root, channels).prune()
        same = all(_alike(one, other) for one, other in zip(_said(graph), wanted, strict=True))
    except Exception:  # noqa: BLE001 - as above
        same = False
    for module, kept in before:
        if same:
            _as_before(module, kept)
        else:
            module.__dict__.update(kept)
    return same


def _own(module: Any) -> dict[str, Any]:
    """What a layer, or an operation of the library's graph, holds itself, copied."""
    held = {name: value for name, value in vars(module).items() if isinstance(value, int | float | tuple | list | None)}
    return copy.deepcopy({**held, **{name: vars(module)[name] for name in ("_parameters", "_buffers") if name in vars(module)}})


@torch.no_grad()
def _silence(graph: Graph, group: Any) -> None:
    """Let channels say zero: weights, biases, scale and shift of their norms."""
    for dep, channels in group:
        module = dep.target.module
        if isinstance(module, SHRINKING) and graph.known.is_out_channel_pruning_fn(dep.handler):
            for tensor in (module.weight, module.bias):
                if tensor is not None:
                    tensor[list(channels)] = 0.0


def _said(graph: Graph) -> list[Tensor]:
    answered, said = graph.followed.run(*graph.inputs)
    return [one.detach() for one in (*answered, *said)]


def _alike(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().amax() <= APART * wanted.abs().amax().clamp(min=1e-6))


def _as_before(module: nn.Module, kept: Mapping[str, Any]) -> None:
    """The library makes parameters of all that it cuts: what was a buffer, or did not learn, does so again."""
    for name in kept.get("_buffers", ()):
        if name in module._parameters:  # noqa: SLF001 - torch has no other word for it
            tensor = module._parameters.pop(name)  # noqa: SLF001
            module.register_buffer(name, None if tensor is None else tensor.detach())


@contextmanager
def _all_learn(detector: nn.Module) -> Iterator[None]:
    """The library follows gradients; afterwards what was fixed is fixed again."""
    fixed = [name for name, parameter in detector.named_parameters() if not parameter.requires_grad]
    detector.requires_grad_(requires_grad=True)
    try:
        yield
    finally:
        for name, parameter in detector.named_parameters():
            parameter.requires_grad_(name not in fixed)
