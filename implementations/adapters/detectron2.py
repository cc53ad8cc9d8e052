"""detectron2:NAME: the models of detectron2's zoo, YAML and Python configurations, with random weights or those of a file; nothing is downloaded.

Images are resized as detectron2's ResizeShortestEdge does with images of floats (its files are bytes, which Pillow resizes) and given in the range
and order of colours of the configuration. detectron2 numbers its classes from 0 and puts background last, so labels are ours as they are.

`network` ends where the box head (or the dense head) would decode. Models that read their own detections (masks, keypoints) decode within it.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.adapters import Adapter, Wanted
from bench.types import Batch, Detections, Target, Unavailable, UserError
from implementations.adapters.answers import answer
from implementations.adapters.detectron2_configs import Described, config_files, describe, make, names, own_classes
from implementations.adapters.weights import agreed_classes, fill
from implementations.layers.parts import Part
from implementations.layers.pickled import read_state
from implementations.layers.rpn import Proposals

HOW = (
    "give its folder in LEANDET_DETECTRON2 (a clone of github.com/facebookresearch/detectron2) and nox -s detectron2 builds it into an environment; "
    "call leandet from there"
)
NO_WEIGHTS = re.compile(r"pixel_mean|pixel_std|.*cell_anchors\.\d+")  # older files keep what newer models make themselves
RENAMED = "res5"  # the module of a C4 head


@dataclass(frozen=True)
class Told:
    """What is known of a model beside its weights."""

    name: str
    sides: tuple[int, int]  # px
    colours: str
    weights_from: str  # "random", or a file's name


@dataclass(frozen=True)
class Raw:
    """What a model says of a batch before it is decoded."""

    decode: Callable[[], list[Any]]  # what would have been done next: Instances of each image in pixels of the network's input
    originals: tuple[tuple[int, int], ...]
    counts: tuple[int, ...] | None = None  # RoIs of each image


class _Decoding(Exception):  # noqa: N818 - no fault: the network has said all
    """Thrown where the box head begins to decode."""

    def __init__(self, decode: Callable[[], list[Any]]) -> None:
        super().__init__()
        self.decode = decode


class Detectron2Detector(nn.Module):
    """A model of detectron2 as a Detector that learns."""

    on_meta = False  # its anchors and operators are not made for the meta device

    def __init__(self, model: nn.Module, told: Told) -> None:
        super().__init__()
        self.model: Any = model
        self.told = told
        self.weights_from = told.weights_from
        if sum(p.numel() for p in {p for part in self.known_parts(64, 64) for p in part.module.parameters()}) == self.framework_params():
            self.parts = self.known_parts  # else its cost is that of one call, watched

    # ---- the three phases

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad, as detectron2 does."""
        originals = tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images)
        listed = self.model.preprocess_image([{"image": self._resized(image)} for image in images])
        return Batch(listed.tensor, tuple((int(height), int(width)) for height, width in listed.image_sizes), originals)

    def _resized(self, image: Tensor) -> Tensor:
        """(3, H, W) in 0..1, RGB, to (3, h, w) in 0..255 in the model's order of colours."""
        from detectron2.data.transforms import ResizeShortestEdge

        pixels = np.ascontiguousarray((image.detach().cpu() * 255).permute(1, 2, 0).numpy())
        resize = ResizeShortestEdge(self.told.sides[0], self.told.sides[1]).get_transform(pixels)
        made = torch.as_tensor(np.ascontiguousarray(resize.apply_image(pixels).transpose(2, 0, 1)))
        return (made.flip(0) if self.told.colours == "BGR" else made).to(image.device)

    def network(self, batch: Batch) -> Raw:
        """All that learns, proposals included."""
        maps, images = self.model.backbone(batch.pixels), _listed(batch)
        if not self.two_stage:
            features = [maps[name] for name in self.model.head_in_features]
            said = self.model.head(features)

            def decode() -> list[Any]:  # detectron2 changes what the head said in place, so it is given a copy
                return list(self.model.forward_inference(images, features, [[x.clone() for x in one] for one in said]))

            return Raw(decode, batch.originals)
        proposals, _ = self.propose(maps, batch)
        boxes = _instances(proposals)
        counts = tuple(len(one) for one in boxes)
        try:
            with self._decoding_later():
                found, _ = self.model.roi_heads(images, maps, boxes, None)
        except _Decoding as left:
            return Raw(left.decode, batch.originals, counts)
        return Raw(lambda: [one[:] for one in found], batch.originals, counts)

    def propose(self, maps: Mapping[str, Tensor], batch: Batch) -> tuple[Proposals, dict[str, Tensor]]:
        """The proposal network's regions, and no losses."""
        if not self.two_stage:
            raise UserError(f"detectron2:{self.told.name}: has no proposals that could be replaced; leave --rois out")
        found, _ = self.model.proposal_generator(_listed(batch), maps, None)
        boxes = [one.proposal_boxes.tensor for one in found]
        valid = nn.utils.rnn.pad_sequence([torch.ones(len(each), dtype=torch.bool, device=each.device) for each in boxes], batch_first=True)
        padded = nn.utils.rnn.pad_sequence(boxes, batch_first=True)
        return Proposals(padded, valid, torch.tensor(batch.sizes, device=padded.device)), {}

    def finish(self, raw: Raw) -> list[Detections]:
        """Decode, suppress, and go back to the pixels of each image as given; boxes without a side are left out, as detectron2 does."""
        from detectron2.modeling.postprocessing import detector_postprocess

        found = [detector_postprocess(_boxes_alone(one), *size) for one, size in zip(raw.decode(), raw.originals, strict=True)]
        each = zip(found, raw.originals, strict=True)
        return [answer(one.pred_boxes.tensor, one.scores, one.pred_classes, size=size) for one, size in each]

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of detectron2. Crowds are left out, as its mapper of datasets does."""
        if self.extras:
            raise Unavailable(f"detectron2:{self.told.name} learns from {self.extras[0]}, and boxes do not give them; take its box detector")
        from detectron2.utils.events import EventStorage

        given = [self._learnt_from(image, target) for image, target in zip(images, targets, strict=True)]
        with EventStorage(0):
            losses: dict[str, Tensor] = self.model(given)
        return losses

    def _learnt_from(self, image: Tensor, target: Target) -> dict[str, Any]:
        from detectron2.structures import Boxes, Instances

        pixels = self._resized(image)
        kept = ~target.crowd & (target.boxes[:, 2:] > target.boxes[:, :2]).all(1)
        objects = Instances(tuple(pixels.shape[-2:]))
        objects.gt_boxes, objects.gt_classes = Boxes(target.boxes[kept].clone()), target.labels[kept]
        objects.gt_boxes.scale(pixels.shape[-1] / image.shape[-1], pixels.shape[-2] / image.shape[-2])
        return {"image": pixels, "instances": objects}

    # ---- its parts

    @property
    def two_stage(self) -> bool:
        """Whether it is an R-CNN."""
        return hasattr(self.model, "roi_heads")

    @property
    def extras(self) -> tuple[str, ...]:
        """What it learns from beside boxes."""
        heads = getattr(self.model, "roi_heads", None)
        masked = bool(getattr(heads, "mask_on", getattr(heads, "mask_head", None)))
        kinds = (("masks", masked), ("keypoints", bool(getattr(heads, "keypoint_on", False))), ("segments", hasattr(self.model, "sem_seg_head")))
        return tuple(kind for kind, there in kinds if there)

    @contextlib.contextmanager
    def _decoding_later(self) -> Iterator[None]:
        """Let the box head throw what it would decode; not where other heads read what it found."""
        heads = self.model.roi_heads
        if {"masks", "keypoints"} & set(self.extras):
            yield
            return
        if isinstance(heads.box_predictor, nn.ModuleList):
            from detectron2.modeling.roi_heads import cascade_rcnn

            with _replaced(vars(cascade_rcnn), "fast_rcnn_inference"):
                yield
            return
        head = heads.box_predictor
        with _replaced(head.__dict__, "inference", head.inference):
            yield

    def known_parts(self, height: int, width: int) -> tuple[Part, ...]:
        """What runs once an image of that size, padded only where the backbone must divide it, and what once a RoI; nothing for another kind."""
        divisor = max(1, self.model.backbone.size_divisibility)
        pixels = ((1, 3, *(-(-side // divisor) * divisor for side in (height, width))),)
        if not self.two_stage:
            return (Part("network", _Dense(self.model), pixels),)
        if self.extras:
            return ()
        heads = self.model.roi_heads
        body = Part("body", _Body(self.model), pixels)
        if hasattr(heads, RENAMED):
            pooler, stages = heads.pooler, [nn.Sequential(heads.res5, _Mean(), heads.box_predictor)]
        elif isinstance(heads.box_predictor, nn.ModuleList):
            pooler, stages = heads.box_pooler, [nn.Sequential(*pair) for pair in zip(heads.box_head, heads.box_predictor, strict=True)]
        else:
            pooler, stages = heads.box_pooler, [nn.Sequential(heads.box_head, heads.box_predictor)]
        channels = self.model.backbone.output_shape()[getattr(heads, "box_in_features", getattr(heads, "in_features", None))[0]].channels
        region = (1, channels, *pooler.output_size)
        return (body, *(Part(f"box_head_{place}", stage, (region,), per_roi=True, head=True) for place, stage in enumerate(stages, 1)))

    def framework_params(self) -> int:
        """As detectron2's own analysis counts them."""
        from detectron2.utils.analysis import parameter_count

        return int(parameter_count(self.model)[""])


class _Body(nn.Module):
    """What an R-CNN does once an image: backbone and the proposal network's head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head, self.read = model.backbone, model.proposal_generator.rpn_head, model.proposal_generator.in_features

    def forward(self, pixels: Tensor) -> Any:
        maps = self.backbone(pixels)
        return self.head([maps[name] for name in self.read])


class _Dense(nn.Module):
    """Backbone and head of a one-stage model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head, self.read = model.backbone, model.head, model.head_in_features

    def forward(self, pixels: Tensor) -> Any:
        maps = self.backbone(pixels)
        return self.head([maps[name] for name in self.read])


class _Mean(nn.Module):
    """Over the places of a region."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


@contextlib.contextmanager
def _replaced(place: dict[str, Any], name: str, real: Callable[..., Any] | None = None) -> Iterator[None]:
    """A function under a name in a module's or an object's own dictionary that throws the call of the real one."""
    before, real = place.get(name), real or place[name]

    def throw(*given: Any, **named: Any) -> None:
        raise _Decoding(lambda: list(real(*given, **named)[0]))

    place[name] = throw
    try:
        yield
    finally:
        if before is None:
            del place[name]
        else:
            place[name] = before


def _boxes_alone(found: Any) -> Any:
    """Without masks and keypoints, whose pasting into the image answers nothing here; a copy, as detectron2 changes boxes in place."""
    from detectron2.structures import Instances

    return Instances(found.image_size, pred_boxes=found.pred_boxes.clone(), scores=found.scores, pred_classes=found.pred_classes)


def _listed(batch: Batch) -> Any:
    from detectron2.structures import ImageList

    return ImageList(batch.pixels, list(batch.sizes))


def _instances(proposals: Proposals) -> list[Any]:
    from detectron2.structures import Boxes, Instances

    each = zip(proposals.boxes, proposals.valid, proposals.sizes.tolist(), strict=True)
    return [Instances(tuple(size), proposal_boxes=Boxes(boxes[valid])) for boxes, valid, size in each]


# ---- building


def build(wanted: Wanted, *, change: Callable[[Any], None] | None = None) -> Detectron2Detector:
    """The model of that configuration; `change` is given the configuration before it is built.

    UserError for a framework that does not fit, a model that gives no boxes of classes, a file of another model.
    """
    opened()
    state = _state(wanted.weights) if wanted.weights else None
    classes = _classes(wanted, state)
    described = describe(wanted, classes, change=change)
    torch.manual_seed(0)
    model = _made(wanted, described)
    if wanted.weights and state is not None:
        fill(model, state, wanted.weights, f"detectron2's {wanted.name} for {classes} classes")
    if wanted.score is not None:
        _threshold(model, wanted.score)
    told = Told(wanted.name, described.sides, described.colours, wanted.weights.name if wanted.weights else "random")
    return Detectron2Detector(model.eval(), told)


def opened() -> None:
    """detectron2 imported; UserError where it cannot be used as it is installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for package in ("detectron2._C", "detectron2.modeling"):
                importlib.import_module(package)
    except (AssertionError, ImportError) as error:
        said = " ".join(str(error).split())[:160]
        raise UserError(f"detectron2 cannot be used as it is installed ({type(error).__name__}: {said}); next: {HOW}") from error


def _made(wanted: Wanted, described: Described) -> Any:
    """The model with random weights; UserError for one that gives no boxes of classes, or cannot be made here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = make(described)
        except ImportError as error:
            said = " ".join(str(error).split())[:160]
            raise UserError(f"detectron2:{wanted.name}: needs a package that is not here, or another version of it ({said})") from error
    dense = hasattr(model, "head_in_features") and hasattr(model, "forward_inference")
    if not dense and not (hasattr(model, "roi_heads") and hasattr(model, "proposal_generator")):
        raise UserError(f"detectron2:{wanted.name}: gives no boxes of classes; name a detector")
    return model


def _threshold(model: Any, score: float) -> None:
    """What it drops, set on the parts that drop."""
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = score


def _state(path: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in read_state(path).items() if not NO_WEIGHTS.fullmatch(name)}


def _classes(wanted: Wanted, state: Mapping[str, Tensor] | None) -> int | None:
    """How many classes the model has: as many as its file says, else as the data asks for, else the configuration's own."""
    asked = wanted.classes if wanted.classes is not None else own_classes(describe(wanted, None))
    if state is None or asked is None:
        return wanted.classes

    def shapes(classes: int) -> Mapping[str, Tensor]:
        made: Mapping[str, Tensor] = _made(wanted, describe(wanted, classes)).state_dict()
        return made

    return agreed_classes(wanted, state, asked, shapes)


ADAPTER = Adapter(
    key="detectron2",
    title="the models of detectron2's zoo, with random weights or those of a file",
    example="detectron2:COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    needs=("detectron2",),
    install=HOW,
    names=names,
    build=build,
    bounds={"detectron2": ("0.6", "1.0")},
)

__all__ = ["ADAPTER", "Detectron2Detector", "build", "config_files"]
