"""State files into foreign models: fitted by name and shape, misfits named in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.adapters import Wanted
from bench.types import UserError

COUNTER = "num_batches_tracked"  # of a norm: a file made with frozen norms has none
OURS = "model."  # before every name in what leandet's own training leaves


def named_as(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state under the model's own names: without what leandet's training puts before each, where it then fits and else does not."""
    if not all(name.startswith(OURS) for name in state) or not misfit(own, state):
        return state
    stripped = {name.removeprefix(OURS): tensor for name, tensor in state.items()}
    return state if misfit(own, stripped) else stripped


def misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What of a state does not fit a model's own, the first of it, in words; empty where it fits. Counters of norms may be missing."""
    missing = [name for name in own if name not in state and not name.endswith(COUNTER)]
    surplus = [name for name in state if name not in own]
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing:
        return f"{missing[0]} is missing from it ({len(missing)} of {len(own)} tensors in all)"
    if surplus:
        return f"it has {surplus[0]}, which the model has not ({len(surplus)} in all)"
    if other:
        return f"{other[0]} is {tuple(state[other[0]].shape)} in it and {tuple(own[other[0]].shape)} in the model"
    return ""


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Put a state into a model; UserError, in one line, for a file of another model."""
    own = model.state_dict()
    state = named_as(own, state)
    wrong = misfit(own, state)
    if wrong:
        raise UserError(f"{path.name}: a checkpoint of another model than {what}: {wrong}; give one of {what}, or name the model that it is of")
    model.load_state_dict({name: state.get(name, tensor) for name, tensor in own.items()})


def classes_of(state: Mapping[str, Tensor], classes: int, shapes: Callable[[int], Mapping[str, Tensor]]) -> int:
    """How many classes a state is of: from the first tensor whose first side grows with them; `classes` where none tells.

    `shapes` gives a model's own state for so many classes.
    """
    one, more = shapes(classes), shapes(classes + 1)
    theirs = named_as(one, state) | {name.removeprefix(OURS): tensor for name, tensor in state.items()}
    for name, tensor in one.items():
        step = more[name].shape[0] - tensor.shape[0] if tensor.ndim and name in more else 0
        if step and name in theirs and theirs[name].ndim:
            return max(1, classes + round((theirs[name].shape[0] - tensor.shape[0]) / step))
    return classes


def agreed_classes(wanted: Wanted, state: Mapping[str, Tensor], asked: int, shapes: Callable[[int], Mapping[str, Tensor]]) -> int:
    """How many classes the model of a file has: `asked` where its state fits that, else what the state is of; UserError where the data has others.

    `shapes` gives a model's own state for so many classes.
    """
    if not misfit(first := shapes(asked), named_as(first, state)):
        return asked
    found = classes_of(state, asked, shapes)
    if wanted.classes is not None and found != wanted.classes:
        raise UserError(f"{wanted.weights}: of {found} classes and the data has {wanted.classes}; give weights that learnt this data's classes")
    return found


def apart(state: Any) -> Any:
    """A state in which tensors that several names share are copied: a file of safetensors keeps no two names of one tensor."""
    seen = set[tuple[int, int]]()
    for name, tensor in state.items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
        if place in seen and not tensor.is_meta and tensor.numel():
            state[name] = tensor.clone()
        seen.add(place)
    return state
