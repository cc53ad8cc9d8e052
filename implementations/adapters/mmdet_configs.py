"""The detection configurations that mmdet's wheel carries, made into models without a download: names, label counts, sizes, pipelines."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench.adapters import Wanted
from bench.types import UserError

FOLDER = Path(".mim", "configs")  # in mmdet's package
PARTS = ("_base_", "common")  # of other configurations
TRACKING = ("bytetrack", "deepsort", "mask2former_vis", "masktrack_rcnn", "ocsort", "qdtrack", "reid", "sort", "strongsort")  # over frames
LOADED = ("Load", "Filter", "InferencerLoader")  # how steps of a pipeline begin that read files or annotations
SYNCHRONISED = ("SyncBN", "MMSyncBN")  # norms over many processes, which a process alone cannot make or train
GAP = 32  # px: sides of a fixed input are multiples of it
BOX_HEADS = ("bbox_head", "roi_head", "panoptic_head", "decode_head")


@cache
def config_files() -> Mapping[str, Path]:
    """Every configuration by name: its file's, or with its folder where several files are called alike. Imports nothing of mmdet."""
    found = importlib.util.find_spec("mmdet")
    if found is None or not found.submodule_search_locations:
        return {}
    root = Path(next(iter(found.submodule_search_locations))) / FOLDER
    files = sorted(path.relative_to(root) for path in root.rglob("*.py") if not set(PARTS) & set(path.relative_to(root).parts))
    alike = Counter(path.stem for path in files)
    return {path.stem if alike[path.stem] == 1 else path.with_suffix("").as_posix(): root / path for path in files}


def tracks(path: Path) -> bool:
    """Whether a configuration follows objects over frames, which no detector of images does."""
    return bool(set(TRACKING) & set(path.parts))


def names() -> tuple[str, ...]:
    """The detection configurations of mmdet's wheel."""
    return tuple(name for name, path in config_files().items() if not tracks(path))


def read_config(name: str) -> Any:
    """A configuration; UserError for one that is no model of its own."""
    from mmengine.config import Config

    try:
        config = Config.fromfile(str(config_files()[name]), import_custom_modules=False)
    except ModuleNotFoundError as error:
        raise UserError(f"mmdet:{name}: builds on a package that is not here ({error})") from error
    if "model" not in config:
        raise UserError(f"mmdet:{name}: has no model, it is a part of other configurations; name one that uses it")
    modules = [module for module in (config.get("custom_imports") or {}).get("imports", ()) if importlib.util.find_spec(module.split(".")[0]) is None]
    if modules:
        package = modules[0].split(".")[0]
        raise UserError(f"mmdet:{name}: takes modules of {package}, which is not installed; next: pip install {package}")
    if config.get("custom_imports"):
        from mmengine.utils import import_modules_from_strings

        import_modules_from_strings(**config.custom_imports)
    return config


def own_classes(model: Mapping[str, Any]) -> int | None:
    """How many classes a model's configuration is of; None where it does not say."""
    for head in (model[key] for key in BOX_HEADS if isinstance(model.get(key), Mapping)):
        inner = head.get("bbox_head", head)
        first = inner[0] if isinstance(inner, list) else inner
        count = first.get("num_classes", first.get("num_things_classes"))
        if count:
            return int(count)
    return None


def model_config(name: str, config: Any, wanted: Wanted, classes: int | None) -> Any:
    """The model's part of a configuration for so many classes (None: its own), with nothing in it that would be fetched."""
    model, own = config.model, own_classes(config.model)
    _refuse(name, model)
    if classes is not None and own is None:
        raise UserError(f"mmdet:{name}: does not say how many classes it has, so that it cannot be made for {classes}; name another configuration")
    for part in _dictionaries(model):
        if "init_cfg" in part and _pretrained(part["init_cfg"]):
            part["init_cfg"] = None
        for key in ("pretrained", "load_from"):
            part.pop(key, None)
        if part.get("type") in SYNCHRONISED:
            part["type"] = "BN"
        for key in ("num_classes", "num_things_classes"):
            if classes is not None and part.get(key) == own:
                part[key] = classes
        if wanted.score is not None and "score_thr" in part:
            part["score_thr"] = wanted.score
    return model


def _refuse(name: str, model: Any) -> None:
    """UserError for a model that no adapter can make a detector of, or only with what would be fetched."""
    if model.type in {"SoftTeacher", "SemiBaseDetector"}:
        raise UserError(f"mmdet:{name}: learns two copies of a detector on unlabelled images; name the configuration of the detector itself")
    if any("teacher" in key for key in model):
        raise UserError(f"mmdet:{name}: its teacher's checkpoint would have to be downloaded, and leandet downloads none; name its student's")
    if model.type == "FastRCNN":
        raise UserError(f"mmdet:{name}: has no proposals of its own and reads them from a file; name a Faster R-CNN")
    if model.type == "RPN":
        raise UserError(f"mmdet:{name}: gives proposals and no boxes of classes; name a detector")
    if model.type in {"MaskFormer", "PanopticFPN"}:
        raise UserError(f"mmdet:{name}: gives segments of the whole image and no boxes; name a detector")
    if model.type == "Detectron2Wrapper":
        raise UserError(f"mmdet:{name}: is a model of detectron2 in mmdet's clothes; name it as detectron2:NAME")


def _pretrained(init: Any) -> bool:
    return any(isinstance(each, Mapping) and each.get("type") == "Pretrained" for each in (init if isinstance(init, list) else [init]))


def _dictionaries(part: Any) -> Iterator[Any]:
    """Every dictionary in a configuration, itself included."""
    if isinstance(part, Mapping):
        yield part
    inner = part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
    for each in inner:
        yield from _dictionaries(each)


def make(wanted: Wanted, classes: int | None, *, filled: bool = False, change: Callable[[Any], None] | None = None) -> Any:
    """The model with random weights; not `filled`: those that its modules are made with, as only shapes are looked at."""
    from mmdet.registry import MODELS

    config = read_config(wanted.name)
    described = model_config(wanted.name, config, wanted, None if classes == own_classes(config.model) else classes)
    if change is not None:
        change(described)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = MODELS.build(described)
            for head in (module for module in model.modules() if is_of(module, "SSDHead") and not hasattr(module, "loss_cls")):
                head.loss_cls = None  # mmdet 3.3.0 asks for it before it decodes, and SSD's head has none
            if filled:
                with _quiet():
                    model.init_weights()
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        if "not installed" in said or "please install" in said:
            raise UserError(f"mmdet:{wanted.name}: needs a package that is not here ({said})") from error
        if isinstance(error, OSError) or "huggingface" in said or "offline" in said:
            raise UserError(
                f"mmdet:{wanted.name}: would need a download, and leandet makes none ({said}); name a configuration without a text encoder"
            ) from error
        raise
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the thousand lines of which layer was filled how."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def is_of(module: Any, kind: str) -> bool:
    """Whether a module is of mmdet's class of that name, or of one derived from it; subclasses of RoI heads that do more are not."""
    own = {"StandardRoIHead", "CascadeRoIHead", "DynamicRoIHead", "DoubleHeadRoIHead"}
    return type(module).__name__ == kind if kind in own else any(base.__name__ == kind for base in type(module).__mro__)


# ---- what is done to an image


def pipeline_steps(name: str, config: Any, size: tuple[int, int] | None) -> list[Any]:
    """The configuration's own steps for testing, without those that read files; `size` in the place of theirs."""
    found = next((part["pipeline"] for part in _dictionaries(config.get("test_dataloader") or {}) if "pipeline" in part), None)
    if found is None:
        raise UserError(f"mmdet:{name}: says nothing of how an image is tested; name another configuration")
    steps = [step for step in found if not step["type"].startswith(LOADED)]
    if any(step["type"] == "TestTimeAug" for step in steps):
        raise UserError(f"mmdet:{name}: tests an image many times over; name a configuration without augmentation")
    return [_sized(step, size) for step in steps] if size else steps


def _sized(step: Any, size: tuple[int, int]) -> Any:
    """A step with another size: shorter side and longest longer side, or of a fixed input height and width, or its square."""
    if step["type"] in {"Resize", "FixScaleResize"} and "scale" in step:
        square = step["scale"][0] == step["scale"][1] and step.get("keep_ratio")
        side = whole(max(size))
        wanted = (side, side) if square else (max(size), min(size)) if step.get("keep_ratio") else (whole(size[1]), whole(size[0]))
        return {**step, "scale": wanted}
    if step["type"] == "Pad" and step.get("size"):
        side = whole(max(size))
        return {**step, "size": (side, side)}
    return step


def whole(side: int) -> int:
    """The multiple of 32 that is nearest."""
    return max(GAP, round(side / GAP) * GAP)


def wants_bytes(steps: list[Any]) -> bool:
    """Whether a step takes nothing but images of bytes, as Pillow's resizing does."""
    return any(step.get("backend") == "pillow" for step in steps)
