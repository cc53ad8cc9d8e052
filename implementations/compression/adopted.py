"""Our Faster R-CNN R50-FPN with a published checkpoint's weights, and its file under our names: what `leandet adopt` writes, and what reads it.

`leandet measure python:implementations.compression.adopted:faster_rcnn --weights FILE` measures such a file, `leandet compress FILE OUT` stores it.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.spec import Request, Setting
from bench.types import UserError
from implementations.compression.checkpoints import EPS, classes_of, layout_of, load_published, read_checkpoint, renamed, stride_first
from implementations.compression.model import build_dense
from implementations.compression.widths import fit, misfit

if TYPE_CHECKING:
    from implementations.layers.two_stage import TwoStage

# A buffer of a backbone that strides in its first 1x1, as detectron2's does. It travels with the weights, in every file, so that no detector of ours
# that strides elsewhere takes them.
MARK = "stride_in_1x1"
MARKED = f"backbone.{MARK}"
COCO = 80
NUMBERED, GAPS = 90, (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # torchvision keeps COCO's own numbers of its 80 classes, 1 to 90; nothing has these
NEXT = "give a file that `leandet adopt` made"


def adopt(library: str, path: Path, *, classes: int = 0, eps: float = EPS) -> TwoStage:
    """Ours with the weights of a library's checkpoint; `classes`: how many it is to have, 0: as many as it has; `eps`: of its norms.

    Of torchvision's 90 numbers of COCO, 80 classes are kept where 80 are asked for: the others' logits, of classes that nothing has, are left out.

    UserError, in one line, for a file that holds no tensors, and for a tensor that is missing, surplus or of another shape.
    """
    layout, state = layout_of(library), read_checkpoint(path)
    try:
        found = classes_of(renamed(state, library))
        if (library, found, classes) == ("torchvision", NUMBERED, COCO):
            state, found = _without_gaps(state), COCO
        detector = _built(_agreed(found, classes))
        load_published(detector, state, library, eps=eps)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if layout.caffe:
        _mark(detector)
    return detector


def _without_gaps(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without the numbers that no class of COCO has; a tensor of another length stays, and is named where it does not fit."""
    kept = torch.tensor([number for number in range(NUMBERED + 1) if number not in GAPS])
    sides = (4 * kept[:, None] + torch.arange(4)).flatten()
    rows = {f"roi_heads.box_predictor.{name}": which for name, which in (("cls_score", kept), ("bbox_pred", sides))}
    lengths = {name: (NUMBERED + 1) * len(which) // len(kept) for name, which in rows.items()}
    return {
        name: tensor[rows[layer]] if (layer := name.rpartition(".")[0]) in rows and tensor.dim() and len(tensor) == lengths[layer] else tensor
        for name, tensor in state.items()
    }


def _agreed(found: int, asked: int) -> int:
    if asked not in {0, found}:
        raise UserError(f"it has {found} classes, and --classes says {asked}; leave it out, or give the checkpoint that learnt {asked}")
    return found


def faster_rcnn(weights: Path | None = None, classes: int | None = None, size: tuple[int, int] | None = None) -> TwoStage:
    """Ours from a file that `adopt` filled (without one: random weights), for as many classes as it has; `size`: px of shorter and longest side.

    UserError for a file of something else, and for one that learnt other than `classes` classes.
    """
    state = {} if weights is None else read_checkpoint(weights)
    detector: Any = _built(classes or COCO) if weights is None else _filled(state, weights, classes)
    if size is not None:
        detector.config = replace(detector.config, shorter=min(size), longer=max(size))
    detector.weights_from = weights.name if weights is not None else "random"
    found: TwoStage = detector
    return found


def backbone_state(detector: TwoStage) -> dict[str, Tensor]:
    """The backbone alone, as `--init` takes it; UserError for one that strides in its first 1x1, as no row here does."""
    if MARKED in detector.state_dict():
        raise UserError("--backbone: this library's backbone strides in its first 1x1 and the rows here in their 3x3; adopt the whole detector")
    return {f"backbone.{name}": tensor for name, tensor in detector.backbone.state_dict().items()}


def _built(classes: int) -> TwoStage:
    scale = importlib.import_module("bench.scales").SCALES["paper"]  # by name: implementations import no more of bench than its words
    detector: TwoStage = build_dense(Request(Setting("published", classes, 800, 1333, "R50"), scale, classes)).eval()
    return detector


def _mark(detector: TwoStage) -> None:
    detector.backbone.register_buffer(MARK, torch.ones((), dtype=torch.bool))


def _filled(state: dict[str, Tensor], path: Path, classes: int | None) -> TwoStage:
    try:
        found = classes_of(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if classes is not None and found != classes:
        raise UserError(f"{path}: of {found} classes and the data has {classes}; give weights that learnt this data's classes")
    detector = _built(found)
    if MARKED in state:
        stride_first(detector)
        _mark(detector)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if not misfit(detector, shapes):  # a file whose channels were taken out
        fit(detector, shapes)
    own = detector.state_dict()
    wrong = sorted(name for name in own.keys() | state.keys() if name not in own or name not in state or own[name].shape != state[name].shape)
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is missing, unknown or of another shape in this Faster R-CNN R50-FPN; {NEXT}")
    detector.load_state_dict(state)
    return detector
