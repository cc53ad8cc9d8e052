"""transformers:TYPE or transformers:PATH: DETR and its kin of Hugging Face's transformers; nothing is ever downloaded.

TYPE (rt_detr, detr, ...) is a fresh configuration with random weights; PATH is a folder as `save_pretrained` leaves it, or a config.json. Images go
through the model's own image processor, answers through its own post-processing, which turns cx cy w h into corners in pixels.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from bench.adapters import Adapter, Wanted, nearest
from bench.types import Batch, Detections, Target, Unavailable, UserError
from implementations.adapters.answers import DROPPED, answer
from implementations.adapters.weights import OURS, fill, misfit, named_as
from implementations.layers.parts import Part
from implementations.layers.pickled import read_state

TYPES = ("conditional_detr", "d_fine", "dab-detr", "deformable_detr", "deimv2", "detr", "rt_detr", "rt_detr_v2", "yolos")
PROCESSED_AS = {"dab-detr": "conditional_detr", "rt_detr_v2": "rt_detr", "d_fine": "rt_detr"}  # types whose checkpoints bring another's processor
STRIDE = 32  # px: a fixed input of models that enlarge their coarsest map again is a multiple of it
SCORE = 0.0  # every query is an answer, as DETR's own evaluation has it
GAPS = {"N/A", "background", "__background__"}  # names of labels that are no class
NETWORK = {"httpx", "httpx2", "huggingface_hub", "requests"}  # whose errors say that something was to be fetched
STATES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Raw:
    """What the model says of a batch before it is decoded."""

    said: Any
    originals: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Told:
    """What is known of a model beside its weights."""

    size: dict[str, int]  # as its processor takes it
    label_map: tuple[int, ...]  # ours for each of its labels
    score: float
    weights_from: str


class TransformersDetector(nn.Module):
    """A model of transformers as a Detector that learns."""

    on_meta = False  # several of them ask tensors for values on their way

    def __init__(self, model: nn.Module, processor: Any, told: Told) -> None:
        super().__init__()
        self.model: Any = model
        self.processor, self.told = processor, told
        self.weights_from = told.weights_from

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Its tensors by name, those that several names share copied: a file of safetensors keeps no two names of one tensor."""
        state, seen = super().state_dict(*args, **kwargs), set[tuple[int, int]]()
        for name, tensor in state.items():
            place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
            if place in seen and not tensor.is_meta and tensor.numel():
                state[name] = tensor.clone()
            seen.add(place)
        return state

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad, as the model's own processor does."""
        given = self.processor(images=list(images), do_rescale=False, size=self.told.size, return_tensors="pt", device=images[0].device)
        pixels = given["pixel_values"]
        canvas = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        masks = given.get("pixel_mask")
        sizes = [canvas] * len(images) if masks is None else [(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in masks]
        return Batch(pixels, tuple(sizes), tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images))

    def network(self, batch: Batch) -> Raw:
        """All that learns."""
        return Raw(self.model(**self._inputs(batch)), batch.originals)

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        if not self.processor.do_pad:
            return {"pixel_values": batch.pixels}
        mask = torch.zeros(len(batch.sizes), *batch.pixels.shape[-2:], dtype=torch.int64, device=batch.pixels.device)
        for one, (height, width) in zip(mask, batch.sizes, strict=True):
            one[:height, :width] = 1
        return {"pixel_values": batch.pixels, "pixel_mask": mask}

    def finish(self, raw: Raw) -> list[Detections]:
        """Decode, and go to the pixels of each image as given; these models suppress nothing."""
        device = raw.said.logits.device
        sizes = torch.tensor(raw.originals, device=device)
        found = self.processor.post_process_object_detection(raw.said, threshold=self.told.score, target_sizes=sizes)
        each = zip(found, raw.originals, strict=True)
        return [answer(one["boxes"], one["scores"], one["labels"], size=size, label_map=self.told.label_map) for one, size in each]

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The model's own loss, its parts weighted by its configuration. Crowds are left out, as it has no place for them."""
        try:
            import scipy  # noqa: F401 - the losses match queries to objects with it
        except ImportError as error:
            raise Unavailable("the losses of DETR and its kin need scipy; next: pip install scipy") from error
        batch = self.prepare(images)
        labels = [self._truth(target, size, batch) for target, size in zip(targets, zip(batch.sizes, batch.originals, strict=True), strict=True)]
        with torch.autocast(batch.pixels.device.type, enabled=False):
            said = self.model(**self._inputs(batch), labels=labels)
        return {"loss": said.loss}

    def _truth(self, target: Target, sides: tuple[tuple[int, int], tuple[int, int]], batch: Batch) -> dict[str, Tensor]:
        """Boxes as centre and sides, as shares of the image; its padding is no part of it, as in DETR."""
        _, (height, width) = sides
        theirs = {ours: label for label, ours in enumerate(self.told.label_map) if ours != DROPPED}
        kept, device = ~target.crowd, batch.pixels.device
        boxes = target.boxes[kept].to(device) / torch.tensor([width, height] * 2, device=device)
        labels = target.labels[kept].to(device)
        if theirs:
            labels = torch.tensor([theirs[ours] for ours in sorted(theirs)], device=device)[labels]
        return {"class_labels": labels, "boxes": torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)}

    def parts(self, height: int, width: int) -> tuple[Part, ...]:
        """One part: nothing runs once a RoI."""
        return (Part("network", _Whole(self.model), ((1, 3, height, width),)),)

    def framework_params(self) -> int:
        """As transformers counts them."""
        return int(self.model.num_parameters())


class _Whole(nn.Module):
    """The model of pixels alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        said: Tensor = self.model(pixel_values=pixels).logits
        return said


# ---- building


def names() -> tuple[str, ...]:
    """None to choose from: a type or any path goes."""
    return ()


def build(wanted: Wanted) -> TransformersDetector:
    """The model of a type or a path; UserError for a configuration that would need a download."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when it is imported, if it is not yet
    import transformers
    from huggingface_hub import constants
    from transformers.utils import logging

    constants.HF_HUB_OFFLINE = True

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config, folder = _config(wanted, transformers)
    path = wanted.weights or next((folder / name for name in STATES if folder and (folder / name).is_file()), None)
    state = read_state(path) if path else None
    if state is not None:
        with torch.device("meta"):
            more = _more_labels(_fresh(config, wanted, transformers).state_dict(), state)
        config.num_labels += more if config.num_labels + more > 0 else 0
    elif wanted.classes is not None:
        config.num_labels = wanted.classes
    torch.manual_seed(0)
    model = _fresh(config, wanted, transformers)
    if path is not None and state is not None:
        model = _filled(model, state, path)
    processor = _processor(config, folder, transformers)
    told = Told(_size(processor, config, wanted), _label_map(config, wanted), SCORE if wanted.score is None else wanted.score, _whose(wanted, path))
    return TransformersDetector(model.eval(), processor, told)


def _fresh(config: Any, wanted: Wanted, transformers: Any) -> Any:
    """A model of the configuration with random weights."""
    return _offline(wanted.name, lambda: transformers.AutoModelForObjectDetection.from_config(config))


def _more_labels(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int:
    """How many labels more a state is of than a model, from the first tensor that differs in its first side alone; 0 where none does."""
    theirs = state | {name.removeprefix(OURS): tensor for name, tensor in state.items() if all(key.startswith(OURS) for key in state)}
    for name, tensor in own.items():
        other = theirs.get(name)
        if other is not None and other.shape != tensor.shape and other.shape[1:] == tensor.shape[1:]:
            return int(other.shape[0] - tensor.shape[0])
    return 0


def _filled(model: Any, state: Mapping[str, Tensor], path: Path) -> Any:
    """The model with a state under its names of now, or under older ones, which transformers itself brings up to date; UserError for another's."""
    own, what = model.state_dict(), f"transformers' {model.config.model_type} of this configuration"
    if not misfit(own, named_as(own, state)):
        fill(model, state, path, what)
        return model
    with contextlib.suppress(RuntimeError):  # shapes that differ
        made, info = type(model).from_pretrained(None, config=model.config, state_dict=dict(state), output_loading_info=True)
        if not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            return made
    fill(model, state, path, what)
    return model


def _whose(wanted: Wanted, state: Path | None) -> str:
    if state is None:
        return "random"
    return state.name if wanted.weights else f"{state.parent.name}/{state.name}"


def _config(wanted: Wanted, transformers: Any) -> tuple[Any, Path | None]:
    """The configuration, and the folder that it stands in; None for a fresh one."""
    if wanted.name in TYPES:
        return _offline(wanted.name, lambda: transformers.AutoConfig.for_model(wanted.name)), None
    path = Path(wanted.name)
    file = path if path.suffix == ".json" else path / "config.json"
    if not file.is_file():
        told = f"transformers:{wanted.name}: there is no such folder with a config.json here, and leandet downloads nothing"
        raise UserError(f"{told}{nearest(wanted.name, TYPES)}; get it yourself and give its folder, or a type: {', '.join(TYPES)}")
    try:
        kind = json.loads(file.read_text()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a configuration ({' '.join(str(error).split())}); give a config.json as transformers writes it") from error
    if kind not in TYPES:
        raise UserError(f"{file}: its model_type is {kind!r}; allowed: {', '.join(TYPES)}")
    return _offline(str(file), lambda: transformers.AutoConfig.from_pretrained(str(file), local_files_only=True)), file.parent


def _offline(name: str, make: Any) -> Any:
    """What `make` gives; UserError where it asks for something that is not on this machine."""
    try:
        return make()
    except ImportError as error:
        raise UserError(f"{name}: needs a package that is not here ({' '.join(str(error).split())[:120]}); next: pip install timm") from error
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in NETWORK:
            raise
        raise UserError(f"{name}: would need a download, and leandet makes none ({said}); get it yourself and name a local folder") from error


def _processor(config: Any, folder: Path | None, transformers: Any) -> Any:
    """The image processor that stands beside the configuration, else the one of its type."""
    if folder is not None and (folder / "preprocessor_config.json").is_file():
        return _offline(
            str(folder), lambda: transformers.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, backend="torchvision")
        )
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    kind = PROCESSED_AS.get(config.model_type, config.model_type)
    kinds = IMAGE_PROCESSOR_MAPPING[type(transformers.AutoConfig.for_model(kind))]
    return kinds["torchvision"]()


def _size(processor: Any, config: Any, wanted: Wanted) -> dict[str, int]:
    """The processor's size with what was asked put in its place: height and width of a fixed input, else the shorter side and a bound."""
    own = {key: value for key, value in dict(processor.size).items() if value is not None}
    if wanted.size is None:
        return own
    if "height" in own:
        sides = [max(STRIDE, round(side / STRIDE) * STRIDE) for side in wanted.size]
        _enough(config, sides)
        return dict(zip(("height", "width"), sides, strict=True))
    return {"shortest_edge": min(wanted.size), "longest_edge": max(wanted.size)}


def _enough(config: Any, sides: Sequence[int]) -> None:
    """UserError where the maps have fewer places than the model chooses queries from."""
    strides = getattr(config, "feat_strides", None) or (8, 16, 32)
    places, wanted = sum((sides[0] // stride) * (sides[1] // stride) for stride in strides), int(config.num_queries)
    if places < wanted:
        told = f"an input of {sides[0]}x{sides[1]} has {places} places and {config.model_type} chooses {wanted} queries from them"
        raise UserError(f"{told}; give a larger --size, a larger tier (proxy), or a configuration with fewer num_queries")


def _label_map(config: Any, wanted: Wanted) -> tuple[int, ...]:
    """Ours for each of its labels: gaps in the numbering are left out where the data has none."""
    named = [str(config.id2label.get(label, "")) for label in range(config.num_labels)]
    if wanted.classes in {None, len(named)}:
        return tuple(range(len(named)))
    real = [label for label, name in enumerate(named) if name not in GAPS]
    if len(real) != wanted.classes:
        raise UserError(
            f"transformers:{wanted.name}: has {len(real)} classes and the data {wanted.classes}; give weights that learnt this data's classes"
        )
    return tuple(real.index(label) if label in real else DROPPED for label in range(len(named)))


ADAPTER = Adapter(
    key="transformers",
    title="DETR, Conditional and Deformable DETR, RT-DETR and their kin, of a type or from a local folder",
    example="transformers:rt_detr",
    needs=("transformers", "timm"),
    install="pip install 'transformers>=5.20,<6' timm scipy",
    names=names,
    build=build,
    bounds=MappingProxyType({"transformers": ("5.20", "6")}),
)
