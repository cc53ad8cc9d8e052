"""torchvision:NAME: every detection model of torchvision.models.detection, with random weights or those of a file; nothing is ever downloaded.

- R-CNNs: `network` is backbone, proposals and box head, `finish` decodes and suppresses. Mask and Keypoint R-CNN read their own detections, so that
  their `network` also decodes and suppresses, and they learn from masks and keypoints, which boxes do not give.
- RetinaNet and FCOS have an output for background that nothing trains; it is left out before suppression.
- A COCO checkpoint of torchvision numbers 80 classes from 1 to 90: for data of 80 classes its gaps are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.adapters import Adapter, Wanted
from bench.types import Batch, Detections, Target, Unavailable, UserError
from implementations.adapters.answers import DROPPED, answer, shifted
from implementations.adapters.weights import OURS, fill, misfit, named_as
from implementations.layers.parts import Part
from implementations.layers.pickled import read_state

if TYPE_CHECKING:
    from torchvision.models.detection.image_list import ImageList

COCO_OUTPUTS, COCO_CLASSES = 91, 80
NEVER = -1e4  # a logit whose sigmoid is 0 in every precision
EXTRAS = ("mask", "keypoint")
NO_EPSILON = (
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
)  # their V1 files, by torchvision


def names() -> tuple[str, ...]:
    """The detection models that torchvision registers."""
    import torchvision

    return tuple(torchvision.models.list_models(module=torchvision.models.detection))


@dataclass(frozen=True)
class Told:
    """What is known of a model beside its weights."""

    name: str
    label_map: tuple[int, ...]  # ours for each of its labels
    weights_from: str  # "random", or a file's name


@dataclass(frozen=True)
class Proposals:
    """Regions of a batch, as many places for every image as the image with most has."""

    boxes: Tensor  # (B, N, 4) in pixels of the batch
    valid: Tensor  # (B, N) bool
    sizes: Tensor  # (B, 2) height, width

    def listed(self) -> list[Tensor]:
        """The boxes of each image."""
        return [boxes[valid] for boxes, valid in zip(self.boxes, self.valid, strict=True)]


@dataclass(frozen=True)
class Raw:
    """What a model says of a batch before it is decoded."""

    said: Any  # of the kind of model
    sizes: tuple[tuple[int, int], ...]
    originals: tuple[tuple[int, int], ...]
    counts: tuple[int, ...] | None = None  # RoIs of each image
    decoded: bool = False


class TorchvisionDetector(nn.Module):
    """A model of torchvision as a Detector that learns."""

    def __init__(self, model: nn.Module, told: Told) -> None:
        super().__init__()
        self.model: Any = model
        self.told = told
        self.weights_from = told.weights_from

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad, as the model's own transform does."""
        batch, _ = self.model.transform(list(images), None)
        sizes, originals = ([(int(height), int(width)) for height, width in each] for each in (batch.image_sizes, [x.shape[-2:] for x in images]))
        return Batch(batch.tensors, tuple(sizes), tuple(originals))

    def network(self, batch: Batch) -> Raw:
        """All that learns, proposals included."""
        features = self.features(batch.pixels)
        if not self.two_stage:
            return Raw(self.dense(features, batch), batch.sizes, batch.originals)
        proposals, _ = self.propose(features, batch)
        boxes, sizes, heads = proposals.listed(), list(batch.sizes), self.model.roi_heads
        counts = tuple(len(each) for each in boxes)
        if self.extras:
            found, _ = heads(features, boxes, sizes)
            return Raw(found, batch.sizes, batch.originals, counts, decoded=True)
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, sizes)))
        return Raw((logits, deltas, boxes), batch.sizes, batch.originals, counts)

    def finish(self, raw: Raw) -> list[Detections]:
        """Decode, suppress, and go back to the pixels of each image as given."""
        found = raw.said if raw.decoded else self.decode(raw)
        kept = [{key: one[key] for key in ("boxes", "scores", "labels")} for one in found]
        given = self.model.transform.postprocess(kept, list(raw.sizes), list(raw.originals))
        answers = zip(given, raw.originals, strict=True)
        return [answer(one["boxes"], one["scores"], one["labels"], size=size, label_map=self.told.label_map) for one, size in answers]

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of torchvision. Crowds are left out, as it has no place for them."""
        if self.extras:
            raise Unavailable(f"{self.told.name} learns from {self.extras[0]}s, and boxes do not give them; take its Faster R-CNN")
        losses: dict[str, Tensor] = self.model(list(images), [self._truth(target) for target in targets])
        return losses

    def _truth(self, target: Target) -> dict[str, Tensor]:
        theirs = {ours: label for label, ours in enumerate(self.told.label_map) if ours != DROPPED}
        numbers = torch.tensor([theirs[ours] for ours in sorted(theirs)], device=target.labels.device)
        wide = (target.boxes[:, 2:] > target.boxes[:, :2]).all(1) & ~target.crowd
        return {"boxes": target.boxes[wide], "labels": numbers[target.labels[wide]]}

    # ---- its parts

    @property
    def two_stage(self) -> bool:
        """Whether it is an R-CNN."""
        return hasattr(self.model, "roi_heads")

    @property
    def extras(self) -> tuple[str, ...]:
        """What an R-CNN gives beside boxes: "mask", "keypoint"."""
        return tuple(kind for kind in EXTRAS if self.two_stage and getattr(self.model.roi_heads, f"{kind}_head", None) is not None)

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """The backbone's maps by name."""
        maps = self.model.backbone(pixels)
        return {"0": maps} if isinstance(maps, Tensor) else dict(maps)

    def propose(self, maps: Mapping[str, Tensor], batch: Batch) -> tuple[Proposals, dict[str, Tensor]]:
        """The proposal network's regions, and no losses."""
        boxes, _ = self.model.rpn(_listed(batch), dict(maps), None)
        valid = nn.utils.rnn.pad_sequence([torch.ones(len(each), dtype=torch.bool, device=each.device) for each in boxes], batch_first=True)
        padded = nn.utils.rnn.pad_sequence(boxes, batch_first=True)
        return Proposals(padded, valid, torch.tensor(batch.sizes, device=padded.device)), {}

    def dense(self, features: Mapping[str, Tensor], batch: Batch) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """A one-stage model: the head's outputs, the anchors of each image, the number of anchors of each level."""
        maps = list(features.values())
        said = self.model.head(maps)
        anchors = self.model.anchor_generator(_listed(batch), maps)
        cells = [x.shape[-2] * x.shape[-1] for x in maps]
        each = said["cls_logits"].shape[1] // sum(cells)
        return said, anchors, [count * each for count in cells]

    def decode(self, raw: Raw) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each image, in pixels of the network's input."""
        if self.two_stage:
            logits, deltas, proposals = raw.said
            columns = self.model.roi_heads.postprocess_detections(logits, deltas, proposals, list(raw.sizes))
            return [dict(zip(("boxes", "scores", "labels"), one, strict=True)) for one in zip(*columns, strict=True)]
        said, anchors, levels = raw.said
        if self.model_kind == "SSD":  # its softmax has background at 0 and leaves it out itself
            return list(self.model.postprocess_detections(said, anchors, list(raw.sizes)))
        logits = said["cls_logits"].clone()
        logits[..., 0] = NEVER
        split = {key: list(tensor.split(levels, 1)) for key, tensor in (said | {"cls_logits": logits}).items()}
        return list(self.model.postprocess_detections(split, [list(one.split(levels)) for one in anchors], list(raw.sizes)))

    @property
    def model_kind(self) -> str:
        """The class of torchvision, or the one of its own that it derives from."""
        own = [kind.__name__ for kind in type(self.model).__mro__ if kind.__module__.startswith("torchvision.")]
        return own[0] if own else type(self.model).__name__

    def parts(self, height: int, width: int) -> tuple[Part, ...]:
        """What runs once an image of exactly that size (padding left out), and what once a RoI."""
        pixels = ((1, 3, height, width),)
        if not self.two_stage:
            return (Part("network", _Dense(self.model), pixels),)
        heads = self.model.roi_heads
        extras = tuple(_extra_part(heads, kind, self.model.backbone.out_channels) for kind in self.extras)
        region = (1, self.model.backbone.out_channels, *heads.box_roi_pool.output_size)
        box = Part("box_head", nn.Sequential(heads.box_head, heads.box_predictor), (region,), per_roi=True, head=True)
        return (Part("body", _Body(self.model), pixels), box, *extras)

    def framework_params(self) -> int:
        """As torchvision counts them; what it publishes leaves out those of norms where it froze them."""
        return sum(parameter.numel() for parameter in self.model.parameters())


class _Body(nn.Module):
    """What an R-CNN does once an image: backbone and the proposal network's head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.rpn.head

    def forward(self, pixels: Tensor) -> Any:
        maps = self.backbone(pixels)
        return self.head([maps] if isinstance(maps, Tensor) else list(maps.values()))


class _Dense(nn.Module):
    """Backbone and head of a one-stage model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, pixels: Tensor) -> Any:
        maps = self.backbone(pixels)
        return self.head([maps] if isinstance(maps, Tensor) else list(maps.values()))


def _extra_part(heads: Any, kind: str, channels: int) -> Part:
    """A mask or keypoint head: it runs for every detection, at most so many an image, which is what it is counted at."""
    pooled = getattr(heads, f"{kind}_roi_pool").output_size
    module = nn.Sequential(getattr(heads, f"{kind}_head"), getattr(heads, f"{kind}_predictor"))
    return Part(f"{kind}_head", module, ((heads.detections_per_img, channels, *pooled),))


def _listed(batch: Batch) -> ImageList:
    from torchvision.models.detection.image_list import ImageList

    return ImageList(batch.pixels, list(batch.sizes))


# ---- building


def build(wanted: Wanted) -> TorchvisionDetector:
    """The model of that name; UserError for a file of weights that is of another one."""
    state = read_state(wanted.weights) if wanted.weights else None
    outputs = _outputs(wanted, state)
    torch.manual_seed(0)
    model = _model(wanted, outputs)
    if wanted.weights and state is not None:
        fill(model, state, wanted.weights, f"torchvision's {wanted.name} for {outputs - 1} classes")
        if wanted.name in NO_EPSILON and wanted.weights.name == Path(_published(wanted.name).url).name:
            _without_epsilon(model)
    told = Told(wanted.name, _label_map(outputs, wanted.classes), wanted.weights.name if wanted.weights else "random")
    return TorchvisionDetector(model.eval(), told)


def wrapped(model: nn.Module, name: str) -> TorchvisionDetector:
    """Somebody's own instance of one of torchvision's detection classes, whose label 0 is background."""
    whole: Any = model
    if hasattr(whole, "roi_heads"):
        count = whole.roi_heads.box_predictor.cls_score.out_features
    else:
        head = whole.head.classification_head
        count = getattr(head, "num_classes", None) or head.num_columns
    return TorchvisionDetector(model.eval(), Told(name, shifted(int(count)), "its builder"))


def _outputs(wanted: Wanted, state: Mapping[str, Tensor] | None) -> int:
    """How many labels the model has, background counted: as many as its file says, else as the data asks for, else as torchvision publishes."""
    published = len(_published(wanted.name).meta["categories"])
    asked = published if wanted.classes is None else wanted.classes + 1
    if state is None:
        return asked
    with torch.device("meta"):
        told = _told_by(_model(wanted, published).state_dict(), state, published)
    for outputs in dict.fromkeys((asked, published, told)):
        with torch.device("meta"):
            own = _model(wanted, outputs).state_dict()
            fits = not misfit(own, named_as(own, state))
        if fits:
            break
    else:
        return asked
    if wanted.classes is not None and outputs - 1 != wanted.classes and (outputs, wanted.classes) != (COCO_OUTPUTS, COCO_CLASSES):
        raise UserError(f"{wanted.weights}: of {outputs - 1} classes and the data has {wanted.classes}; give weights that learnt this data's classes")
    return outputs


def _told_by(own: Mapping[str, Tensor], state: Mapping[str, Tensor], outputs: int) -> int:
    """How many labels a state is of, by the first tensor whose first side, which grows with them, is another than in a model of `outputs`."""
    theirs = state | {name.removeprefix(OURS): tensor for name, tensor in state.items()}
    for name, tensor in own.items():
        other = theirs.get(name)
        if other is not None and other.shape != tensor.shape and other.shape[1:] == tensor.shape[1:]:
            return max(2, round(outputs * other.shape[0] / tensor.shape[0]))
    return outputs


def _label_map(outputs: int, classes: int | None) -> tuple[int, ...]:
    """Ours for each of theirs: without background, and for COCO's 80 classes without the gaps in its numbering."""
    if (outputs, classes) != (COCO_OUTPUTS, COCO_CLASSES):
        return shifted(outputs)
    from torchvision.models._meta import _COCO_CATEGORIES

    real = [label for label, name in enumerate(_COCO_CATEGORIES) if name not in {"__background__", "N/A"}]
    return tuple(real.index(label) if label in real else DROPPED for label in range(outputs))


def _published(name: str) -> Any:
    """What torchvision publishes of a model: address, categories, parameters. Opens no connection."""
    import torchvision

    return torchvision.models.get_model_weights(name).DEFAULT.value


def _model(wanted: Wanted, outputs: int) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": outputs}
    fixed = wanted.name.startswith("ssd")
    if wanted.size and not fixed:
        options |= {"min_size": min(wanted.size), "max_size": max(wanted.size)}
    if wanted.score is not None:
        options["box_score_thresh" if "rcnn" in wanted.name else "score_thresh"] = wanted.score
    model: Any = torchvision.models.get_model(wanted.name, **options)
    if wanted.size and fixed:
        model.transform.fixed_size = (wanted.size[1], wanted.size[0])  # torchvision's order: width, height
    built: nn.Module = model
    return built


def _without_epsilon(model: nn.Module) -> None:
    """As torchvision does with these files, which were trained with norms without epsilon."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0


ADAPTER = Adapter(
    key="torchvision",
    title="the detection models of torchvision, with random weights or those of a file",
    example="torchvision:fasterrcnn_resnet50_fpn_v2",
    needs=("torchvision",),
    install="pip install 'torchvision>=0.23,<1'",
    names=names,
    build=build,
    bounds=MappingProxyType({"torchvision": ("0.23", "1")}),
)
