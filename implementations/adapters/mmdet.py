"""mmdet:NAME: every detection configuration that mmdet's wheel carries, with random weights or those of a file; nothing is ever downloaded.

Images go through the configuration's own steps for testing (resizing, padding; in training too, without their random changes) and its own data
preprocessor, in BGR bytes' range as mmdet reads files. mmdet numbers its classes from 0 and puts background last, so labels are ours as they are.

`network` ends where the last box head would decode: its `predict_by_feat` is called in `finish`. Models that read their own detections (masks), and
those whose head decodes in other ways, decode within `network`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.adapters import Adapter, Wanted
from bench.types import Batch, Detections, Target, Unavailable, UserError
from implementations.adapters.answers import answer
from implementations.adapters.mmdet_configs import config_files, is_of, make, names, own_classes, pipeline_steps, read_config, wants_bytes
from implementations.adapters.weights import agreed_classes, apart, fill
from implementations.layers.parts import Part
from implementations.layers.pickled import read_state
from implementations.layers.rpn import Proposals

HOW = "nox -s mmdet makes an environment with torch 2.8, mmcv 2.1.0 with its operators and mmdet 3.3.0; call leandet from there"
BOUNDS = {"mmdet": ("3.0", "4.0"), "mmcv": ("2.0", "2.2"), "mmengine": ("0.7", "1.0")}  # mmdet 3's own


@dataclass(frozen=True)
class Told:
    """What is known of a model beside its weights."""

    name: str
    weights_from: str  # "random", or a file's name
    bytes_only: bool  # its resizing takes images of bytes


@dataclass(frozen=True)
class Samples(Batch):
    """A batch with what mmdet knows of each image."""

    samples: tuple[Any, ...]  # DetDataSample


@dataclass(frozen=True)
class Raw:
    """What a model says of a batch before its last box head decodes it."""

    call: tuple[tuple[Any, ...], Mapping[str, Any]] | None  # of predict_by_feat; None: the answers stand in `samples`
    samples: tuple[Any, ...]
    originals: tuple[tuple[int, int], ...]
    counts: tuple[int, ...] | None = None  # RoIs of each image
    device: str = "cpu"


class _Decoding(Exception):  # noqa: N818 - no fault: the network has said all
    """Thrown where the last head begins to decode."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__()
        self.call = (given, named)


class MmdetDetector(nn.Module):
    """A model of mmdet as a Detector that learns."""

    on_meta = False  # its operators and priors are not made for the meta device

    def __init__(self, model: nn.Module, pipeline: Any, told: Told) -> None:
        super().__init__()
        self.model: Any = model
        self.pipeline, self.told = pipeline, told
        self.weights_from = told.weights_from
        if _params(*(part.module for part in self.known_parts(64, 64))) == self.framework_params():
            self.parts = self.known_parts  # else its cost is that of one call, watched

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Its tensors by name, those that several names share (a head's layers for every level, say) copied."""
        return apart(super().state_dict(*args, **kwargs))

    # ---- the three phases

    def prepare(self, images: Sequence[Tensor]) -> Samples:
        """Resize, normalise, pad, as the configuration does."""
        return self._prepared(images, [None] * len(images))

    def _prepared(self, images: Sequence[Tensor], targets: Sequence[Target | None]) -> Samples:
        packed = [self.pipeline(self._read(image, target)) for image, target in zip(images, targets, strict=True)]
        data = {"inputs": [one["inputs"].to(images[0].device) for one in packed], "data_samples": [one["data_samples"] for one in packed]}
        self.model._set_device(images[0].device)  # noqa: SLF001 - mmengine hears of a move only where the model itself is moved
        given = self.model.data_preprocessor(data, training=False)
        shapes = ([sample.img_shape for sample in given["data_samples"]], [image.shape[-2:] for image in images])
        sizes, originals = (tuple((int(shape[0]), int(shape[1])) for shape in each) for each in shapes)
        return Samples(given["inputs"], sizes, originals, tuple(given["data_samples"]))

    def _read(self, image: Tensor, target: Target | None) -> dict[str, Any]:
        """What mmdet's readers of files and annotations would give."""
        pixels = np.ascontiguousarray((image.detach().cpu().flip(0) * 255).permute(1, 2, 0).numpy())
        if self.told.bytes_only:
            pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        shape = pixels.shape[:2]
        read = {"img": pixels, "img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0), "img_id": 0, "img_path": ""}
        return read if target is None else read | _annotations(target)

    def network(self, batch: Samples) -> Raw:
        """All that learns, proposals included."""
        samples = list(batch.samples)
        try:
            with decoding_in_float32(self.model, batch.pixels.device.type), self._decoding_later():
                samples = self._predicted(batch, samples)
        except _Decoding as found:
            return Raw(found.call, tuple(samples), batch.originals, _counts(found.call), batch.pixels.device.type)
        return Raw(None, tuple(samples), batch.originals)

    def _predicted(self, batch: Samples, samples: list[Any]) -> list[Any]:
        """As the model's own `predict`; where it is that of two stages, its proposals can be replaced."""
        if not self.two_stage:
            return list(self.model.predict(batch.pixels, samples, rescale=True))
        maps = self.model.extract_feat(batch.pixels)
        proposals, _ = self.propose(maps, batch)
        results = self.model.roi_head.predict(maps, _listed(proposals), samples, rescale=True)
        return list(self.model.add_pred_to_datasample(samples, results))

    def propose(self, maps: Any, batch: Samples) -> tuple[Proposals, dict[str, Tensor]]:
        """The proposal network's regions, and no losses."""
        if not self.two_stage:
            raise UserError(f"mmdet:{self.told.name}: has no proposals that could be replaced; leave --rois out")
        boxes = [one.bboxes for one in self.model.rpn_head.predict(maps, list(batch.samples), rescale=False)]
        valid = nn.utils.rnn.pad_sequence([torch.ones(len(each), dtype=torch.bool, device=each.device) for each in boxes], batch_first=True)
        padded = nn.utils.rnn.pad_sequence(boxes, batch_first=True)
        return Proposals(padded, valid, torch.tensor(batch.sizes, device=padded.device)), {}

    def finish(self, raw: Raw) -> list[Detections]:
        """Decode, suppress, and go back to the pixels of each image as given."""
        if raw.call is None:
            found = [sample.pred_instances for sample in raw.samples]
        else:
            given, named = raw.call
            with decoding_in_float32(self.model, raw.device):
                found = self.last_head.predict_by_feat(*given, **named)
        return [answer(_corners(one.bboxes), one.scores, one.labels, size=size) for one, size in zip(found, raw.originals, strict=True)]

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of mmdet, those that its own runner sums. Crowds are regions to ignore, as there."""
        if self.with_masks:
            raise Unavailable(f"mmdet:{self.told.name} learns from masks, and boxes do not give them; take the configuration of its box detector")
        batch = self._prepared(images, targets)
        with decoding_in_float32(self.model, batch.pixels.device.type):
            losses = self.model.loss(batch.pixels, list(batch.samples))
        each = {key: value if isinstance(value, Tensor) else torch.stack([one.mean() for one in value]).sum() for key, value in losses.items()}
        return {key: loss.mean() for key, loss in each.items() if "loss" in key}

    # ---- its parts

    @property
    def two_stage(self) -> bool:
        """Whether its proposals come from a proposal network and its second stage is one of the plain kinds."""
        from mmdet.models.detectors.two_stage import TwoStageDetector
        from mmdet.models.roi_heads.base_roi_head import BaseRoIHead

        plain = isinstance(self.model, TwoStageDetector) and type(self.model).predict is TwoStageDetector.predict
        return plain and self.model.with_rpn and is_of(self.model.rpn_head, "RPNHead") and isinstance(self.model.roi_head, BaseRoIHead)

    @property
    def with_masks(self) -> bool:
        """Whether it gives masks beside boxes, or in their place."""
        return bool(self.model.with_mask) or any(name.endswith(("mask_head", "panoptic_head", "semantic_head")) for name, _ in _upper(self.model))

    @property
    def last_head(self) -> Any:
        """The head that decodes the answer; None where none does in the plain way."""
        heads = getattr(self.model, "roi_head", self.model)
        head = getattr(heads, "bbox_head", None)
        return head[-1] if isinstance(head, nn.ModuleList) else head

    @contextlib.contextmanager
    def _decoding_later(self) -> Iterator[None]:
        """Let the last head throw what it would decode."""
        head = None if self.with_masks or not self.splits else self.last_head
        if head is None:
            yield
            return

        def throw(*given: Any, **named: Any) -> None:
            raise _Decoding(*given, **named)

        head.__dict__["predict_by_feat"] = throw
        try:
            yield
        finally:
            del head.__dict__["predict_by_feat"]

    @property
    def splits(self) -> bool:
        """Whether what the last head decodes is the answer: in models that do nothing with it afterwards."""
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
        from mmdet.models.detectors.base_detr import DetectionTransformer
        from mmdet.models.detectors.single_stage import SingleStageDetector

        if self.two_stage:
            return any(is_of(self.model.roi_head, kind) for kind in ("StandardRoIHead", "CascadeRoIHead", "DynamicRoIHead", "DoubleHeadRoIHead"))
        if isinstance(self.model, DetectionTransformer):
            return is_of(self.last_head, "DETRHead")
        plain = isinstance(self.model, SingleStageDetector) and type(self.model).predict is SingleStageDetector.predict
        return plain and type(self.last_head).predict is BaseDenseHead.predict

    def known_parts(self, height: int, width: int) -> tuple[Part, ...]:
        """What runs once an image of exactly that size (padding left out), and what once a RoI; nothing where the model is of another kind."""
        pixels = ((1, 3, height, width),)
        if not self.two_stage:
            head = self.last_head
            plain = head is not None and not self.with_masks and self.splits and not is_of(head, "DETRHead")
            return (Part("network", _Body(self.model, head), pixels),) if plain else ()
        heads = self.model.roi_head
        pools = heads.bbox_roi_extractor
        each = zip(pools, heads.bbox_head, strict=True) if isinstance(pools, nn.ModuleList) else ((pools, heads.bbox_head),)
        body = Part("body", _Body(self.model, self.model.rpn_head), pixels)
        return (body, *(self._region_part(f"box_head_{place}", pool, head) for place, (pool, head) in enumerate(each, 1)))

    def _region_part(self, name: str, pool: Any, head: nn.Module) -> Part:
        shared = self.model.roi_head.shared_head if self.model.roi_head.with_shared_head else nn.Identity()
        region = (1, pool.out_channels, *pool.roi_layers[0].output_size)
        return Part(name, nn.Sequential(shared, head), (region,), per_roi=True, head=True)

    def framework_params(self) -> int:
        """As mmengine's own analysis counts them."""
        from mmengine.analysis.complexity_analysis import parameter_count

        return int(parameter_count(self.model)[""])


@contextlib.contextmanager
def decoding_in_float32(model: nn.Module, device: str) -> Iterator[None]:
    """Under autocast let heads decode and compare, and RoIs be pooled, in float32, as mmdet 2 did: on a CPU mmcv's operators take no bfloat16."""
    if not torch.is_autocast_enabled(device):
        yield
        return
    wide = [(module, name) for module in model.modules() for name in ("predict_by_feat", "loss_by_feat") if hasattr(module, name)]
    wide += [(module, "forward") for module in model.modules() if hasattr(module, "roi_layers")]
    for module, name in wide:
        module.__dict__[name] = _in_float32(getattr(module, name), device)
    try:
        yield
    finally:
        for module, name in wide:
            module.__dict__.pop(name, None)


def _in_float32(call: Callable[..., Any], device: str) -> Callable[..., Any]:
    def widened(*given: Any, **named: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return call(*_widened(given), **_widened(named))

    return widened


def _widened(value: Any) -> Any:
    """With its tensors of lower precision as float32, through plain containers."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if type(value) is dict:  # a ConfigDict stays what it is
        return {key: _widened(each) for key, each in value.items()}
    return type(value)(_widened(each) for each in value) if type(value) in {list, tuple} else value


class _Body(nn.Module):
    """What a model does once an image: backbone, neck and a dense head."""

    def __init__(self, model: Any, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = model.backbone, getattr(model, "neck", None), head

    def forward(self, pixels: Tensor) -> Any:
        maps = self.backbone(pixels)
        return self.head(maps if self.neck is None else self.neck(maps))


def _params(*modules: nn.Module) -> int:
    return sum(parameter.numel() for parameter in {p for module in modules for p in module.parameters()})


def _upper(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if name.count(".") < 2)


def _corners(boxes: Any) -> Tensor:
    return boxes if isinstance(boxes, Tensor) else boxes.tensor


def _counts(call: tuple[tuple[Any, ...], Mapping[str, Any]]) -> tuple[int, ...] | None:
    rois = call[1].get("rois")
    return None if rois is None else tuple(len(each) for each in rois)


def _listed(proposals: Proposals) -> list[Any]:
    from mmengine.structures import InstanceData

    return [InstanceData(bboxes=boxes[valid]) for boxes, valid in zip(proposals.boxes, proposals.valid, strict=True)]


def _annotations(target: Target) -> dict[str, Any]:
    """Objects as mmdet's reader of annotations gives them; crowds are to be ignored, boxes without a side are left out."""
    from mmdet.structures.bbox import HorizontalBoxes

    wide = (target.boxes[:, 2:] > target.boxes[:, :2]).all(1)
    return {
        "gt_bboxes": HorizontalBoxes(target.boxes[wide].detach().cpu().clone()),
        "gt_bboxes_labels": target.labels[wide].cpu().numpy(),
        "gt_ignore_flags": target.crowd[wide].cpu().numpy(),
    }


# ---- building


def build(wanted: Wanted, *, change: Callable[[Any], None] | None = None) -> MmdetDetector:
    """The model of that configuration; `change` is given the model's part of it before it is built.

    UserError for a framework that does not fit, a configuration that needs more, a file of another model.
    """
    scope = opened()
    config = read_config(wanted.name)
    steps = pipeline_steps(wanted.name, config, wanted.size)
    state = read_state(wanted.weights) if wanted.weights else None
    with scope:
        classes = _classes(wanted, state)
        torch.manual_seed(0)
        model = make(wanted, classes, filled=True, change=change)
        if wanted.weights and state is not None:
            fill(model, state, wanted.weights, f"mmdet's {wanted.name} for {classes} classes")
        pipeline = _composed(steps)
    told = Told(wanted.name, wanted.weights.name if wanted.weights else "random", wants_bytes(steps))
    return MmdetDetector(model.eval(), pipeline, told)


def opened() -> Any:
    """With mmdet imported, its registry the one that names are looked up in, as a context; UserError where it cannot be used as it is installed."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"  # of text encoders; read when they are imported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for package in ("mmcv.ops", "mmdet.datasets.transforms", "mmdet.models"):
                importlib.import_module(package)
    except (AssertionError, ImportError) as error:
        said = " ".join(str(error).split())[:160]
        raise UserError(f"mmdet cannot be used as it is installed ({type(error).__name__}: {said}); next: {HOW}") from error
    from mmengine.registry import DefaultScope

    return DefaultScope.overwrite_default_scope("mmdet")


def _classes(wanted: Wanted, state: Mapping[str, Tensor] | None) -> int | None:
    """How many classes the model has: as many as its file says, else as the data asks for, else the configuration's own."""
    own = own_classes(read_config(wanted.name).model)
    asked = wanted.classes if wanted.classes is not None else own
    if state is None or asked is None:
        return asked

    def shapes(classes: int) -> Mapping[str, Tensor]:
        made: Mapping[str, Tensor] = make(wanted, classes).state_dict()
        return made

    return agreed_classes(wanted, state, asked, shapes)


def _composed(steps: list[Any]) -> Any:
    from mmcv.transforms import Compose

    return Compose(steps)


ADAPTER = Adapter(
    key="mmdet",
    title="the detection configurations of OpenMMLab's mmdet, with random weights or those of a file",
    example="mmdet:faster-rcnn_r50_fpn_1x_coco",
    needs=("mmdet", "mmcv", "mmengine"),
    install=HOW,
    names=names,
    build=build,
    bounds=BOUNDS,
)

__all__ = ["ADAPTER", "MmdetDetector", "build", "config_files"]
