"""One set of weights through ours, torchvision, mmdet and detectron2: how far scores and boxes are apart, and what each difference moves.

Faster R-CNN, RetinaNet and Cascade R-CNN on R50-FPN, with random weights that spread scores and boxes as a trained net's do, then with weights that
learnt a little from them. `python -m implementations.adapters.same_weights` prints the table and writes it with the versions that it is of.

Beside DIFFERENCES some are put into the configurations, as weights would not fit or mean something else: RetinaNet's P6 from P5 (theirs: from C5),
detectron2's colours (RGB; BGR in bytes by default), detectron2's cascade without masks (its zoo has none without).
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.adapters import Wanted
from bench.types import Detections, Target, detect
from implementations.adapters import torchvision
from implementations.adapters.definitions import APPLY, DIFFERENCES, RESIZE, as_ours, grid_of
from implementations.adapters.equivalence import PX, SCORE, Residual, compared, enliven, photograph
from implementations.adapters.library_names import fits, theirs_named
from implementations.layers.images import MEAN, STD, resize, resized

if TYPE_CHECKING:
    from bench.spec import Request

NONE, ALL = "none", "all"  # which of their definitions are left
LIBRARIES = ("torchvision", "mmdet", "detectron2")
NAMES: Mapping[tuple[str, str], str] = {
    ("torchvision", "faster_rcnn"): "fasterrcnn_resnet50_fpn",
    ("torchvision", "retinanet"): "retinanet_resnet50_fpn",
    ("mmdet", "faster_rcnn"): "faster-rcnn_r50_fpn_1x_coco",
    ("mmdet", "retinanet"): "retinanet_r50_fpn_1x_coco",
    ("mmdet", "cascade_rcnn"): "cascade-rcnn_r50_fpn_1x_coco",
    ("detectron2", "faster_rcnn"): "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    ("detectron2", "retinanet"): "COCO-Detection/retinanet_R_50_FPN_1x.py",
    ("detectron2", "cascade_rcnn"): "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
}
SPREAD: Mapping[str, tuple[tuple[str, float, float | None], ...]] = {  # layer, deviation of its outputs, its bias (None: as it is), as they are read
    "faster_rcnn": (
        ("rpn.head.cls_logits", 2.0, None),
        ("rpn.head.bbox_pred", 0.3, None),
        ("regions.head.predictor.cls_score", 2.0, None),
        ("regions.head.predictor.bbox_pred", 0.7, None),
    ),
    "retinanet": (("head.class_subnet.predict", 1.5, -4.0), ("head.box_subnet.predict", 0.3, 0.0)),
    "cascade_rcnn": (
        ("rpn.head.cls_logits", 2.0, None),
        ("rpn.head.bbox_pred", 0.3, None),
        *(
            (f"regions.heads.{stage}.predictor.{layer}", deviation, None)
            for stage in range(3)
            for layer, deviation in (("cls_score", 2.0), ("bbox_pred", 0.7))
        ),
    ),
}
STEPS, RATE = 12, 1e-4  # of the brief training


@dataclass(frozen=True)
class Row:
    """One library's detector beside ours on one picture."""

    library: str
    kind: str
    weights: str  # "random", "trained"
    left: str  # the definition that is left as theirs; NONE, ALL
    residual: Residual
    alike: int  # detections with a counterpart within both tolerances

    @property
    def good(self) -> bool:
        """Whether it must be the same and is."""
        return self.left != NONE or self.residual.same


def installed() -> tuple[str, ...]:
    """Those of LIBRARIES that are here."""
    return tuple(library for library in LIBRARIES if importlib.util.find_spec(library) is not None)


def builders() -> dict[str, Callable[[Request], Any]]:
    """Ours, by kind."""
    from implementations.baselines.cascade_rcnn import cascade_rcnn
    from implementations.baselines.faster_rcnn import faster_rcnn_fpn
    from implementations.baselines.retinanet import retinanet

    return {"faster_rcnn": faster_rcnn_fpn, "retinanet": retinanet, "cascade_rcnn": cascade_rcnn}


# ---- ours


def with_random_weights(kind: str, request: Request) -> nn.Module:
    """Ours with random weights: norms with statistics of their own, and logits and offsets of the size of a trained net's."""
    torch.manual_seed(0)
    ours: Any = builders()[kind](request).eval()
    full = ours.config
    with torch.no_grad():
        enliven(ours)
        ours.config = replace(full, shorter=160, longer=320)
        for name, deviation, shift in SPREAD[kind]:
            layer, seen = ours.get_submodule(name), list[Tensor]()
            hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.flatten()))
            detect(ours, [photograph(160, 224)])
            hook.remove()
            layer.weight.mul_(deviation / torch.cat(seen).std())
            if shift is not None:
                layer.bias.fill_(shift)
    ours.config = full
    return ours


def trained(ours: Any, steps: int = STEPS) -> nn.Module:
    """The same after so many small steps on bright rectangles: all of its weights have moved."""
    full, learning = ours.config, torch.optim.AdamW(ours.parameters(), lr=RATE)
    ours.config = replace(full, shorter=160, longer=320)
    ours.train()
    for step in range(steps):
        images, targets = zip(*(_lesson(2 * step + place) for place in range(2)), strict=True)
        loss = sum(ours(list(images), list(targets)).values())
        learning.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        learning.step()
    ours.config = full
    return ours.eval()


def _lesson(seed: int) -> tuple[Tensor, Target]:
    """A picture with two bright rectangles of classes 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    image, corners = photograph(160, 224) * 0.5, []
    for label in range(2):
        x, y = (int(torch.randint(0, side - 64, (1,), generator=generator)) for side in (224, 160))
        corners.append([x, y, x + 40 + 12 * label, y + 52])
        image[label, y : y + 52, x : x + 40 + 12 * label] = 1.0
    none = torch.zeros(2, dtype=torch.bool)
    return image, Target(torch.tensor(corners, dtype=torch.float32), torch.arange(2), none, none.clone(), seed=seed)


# ---- theirs


def theirs(library: str, kind: str, ours: Any, request: Request) -> Any:
    """A library's detector behind its adapter with our weights; every tensor of both is accounted for."""
    wanted = Wanted(NAMES[library, kind], request.classes, (request.setting.min_px, request.setting.max_px))
    detector = _build(library, kind, wanted)
    state = theirs_named(ours.state_dict(), library, kind)
    own = detector.model.state_dict()
    amiss = list(fits(own, state))
    assert not amiss, f"{library}'s {kind}: {amiss[0]} ({len(amiss)} in all)"
    detector.model.load_state_dict({name: state.get(name, tensor) for name, tensor in own.items()})
    return detector.eval()


def _build(library: str, kind: str, wanted: Wanted) -> Any:
    if library == "torchvision":
        detector = torchvision.build(wanted)
        if kind == "retinanet":
            detector.model.detections_per_img = 100  # torchvision's RetinaNet keeps 300, the others as its paper 100
        return detector
    if library == "mmdet":
        from implementations.adapters import mmdet

        return mmdet.build(wanted, change=_p6_from_p5 if kind == "retinanet" else None)
    from implementations.adapters import detectron2

    return detectron2.build(wanted, change=_lazy_rgb if kind == "retinanet" else _yaml_rgb)


def _p6_from_p5(model: Any) -> None:
    model.neck.add_extra_convs = "on_output"


def _lazy_rgb(config: Any) -> None:
    config.model.backbone.top_block.in_feature, config.model.backbone.top_block.in_channels = "p5", 256
    config.model.pixel_mean, config.model.pixel_std = ([255 * each for each in values] for values in (MEAN, STD))
    config.dataloader.test.mapper.image_format = "RGB"


def _yaml_rgb(config: Any) -> None:
    config.INPUT.FORMAT, config.MODEL.MASK_ON = "RGB", False
    config.MODEL.PIXEL_MEAN, config.MODEL.PIXEL_STD = ([255 * each for each in values] for values in (MEAN, STD))


# ---- side by side


def rows(kind: str, request: Request, sizes: Sequence[tuple[int, int]], *, libraries: Collection[str], learn: bool = True) -> Iterator[Row]:
    """A kind through the libraries: our definitions on every picture, each of theirs alone where it first moves something, all of theirs."""
    ours: Any = with_random_weights(kind, request)
    for weights in ("random", "trained") if learn else ("random",):
        if weights == "trained":
            ours = trained(ours)
        for library in (each for each in LIBRARIES if each in libraries and (each, kind) in NAMES):
            other = theirs(library, kind, ours, request)
            asked = partial(beside, library, kind, (ours, other))
            for size in sizes:
                yield Row(library, kind, weights, NONE, *asked(size, ()))
            for key in APPLY[library, kind] if weights == "random" else ():
                yield Row(library, kind, weights, key, *_where_it_moves([partial(asked, size, (key,)) for size in sizes]))
            if APPLY[library, kind]:
                yield Row(library, kind, weights, ALL, *asked(sizes[0], APPLY[library, kind]))


def _where_it_moves(tries: Sequence[Callable[[], tuple[Residual, int]]]) -> tuple[Residual, int]:
    """The first answer that is not the same, else the last."""
    for each in tries:
        found = each()
        if not found[0].same:
            break
    return found


def beside(library: str, kind: str, pair: tuple[Any, Any], size: tuple[int, int], left: Collection[str]) -> tuple[Residual, int]:
    """(how far they are apart, how many of ours have their counterpart) on a picture of that size, all definitions ours but those `left`."""
    ours, other = pair
    image = photograph(*size)
    with torch.inference_mode():
        found = detect(ours, [image])[0]
        with as_ours(library, kind, other, grid_of(ours), left):
            answer = _resized_as_ours(ours, other, image) if RESIZE in APPLY[library, kind] and RESIZE not in left else detect(other, [image])[0]
    return compared(f"{library} {kind}", size, found, answer), alike(found, answer)


def alike(ours: Detections, theirs: Detections) -> int:
    """How many of ours have one of theirs with their label within both tolerances."""
    px = (ours.boxes[:, None] - theirs.boxes[None]).abs().amax(2)  # (N, M)
    score = (ours.scores[:, None] - theirs.scores[None]).abs()
    return int(((px <= PX) & (score <= SCORE) & (ours.labels[:, None] == theirs.labels[None])).any(1).sum())


def _resized_as_ours(ours: Any, other: Any, image: Tensor) -> Detections:
    """Their answer to the picture that we would resize it to, which they leave as it is, back in pixels of the one that was given."""
    given = (int(image.shape[-2]), int(image.shape[-1]))
    size = resized(given, ours.config.shorter, ours.config.longer)
    found = detect(other, [resize(image[None], size)[0]])[0]
    ratio = found.boxes.new_tensor([given[1] / size[1], given[0] / size[0]] * 2)
    return replace(found, boxes=found.boxes * ratio)


# ---- the table

HEAD = ("library", "version", "detector", "weights", "theirs", "ours_is", "theirs_is", "image", "ours", "others", "alike", "score", "px", "says")


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table as text. The largest differences in score and px are of detections that stand for one another, so of equal sets alone."""
    found, difference = row.residual, DIFFERENCES.get(row.left)
    about = (difference.ours, difference.theirs) if difference else ("", "")
    most = (f"{found.score:.1e}", f"{found.px:.1e}") if found.same else ("", "")
    says = ("same" if found.same else "DIFFERS") if row.left == NONE else ("no effect here" if found.same else "moves")
    place = (f"{found.size[0]}x{found.size[1]}", str(found.found[0]), str(found.found[1]), str(row.alike), *most)
    return (row.library, metadata.version(row.library), row.kind, row.weights, row.left, *about, *place, says)


def request_of(size: tuple[int, int], classes: int = 20) -> Request:
    """Ours at the paper's widths on images of other sides: anchors and levels keep their pixels."""
    from bench.spec import Request, Setting

    return Request(Setting("", classes, min(size), max(size), "R50"), _paper(), classes)


def _paper() -> Any:
    import importlib

    return importlib.import_module("bench.scales").SCALES["paper"]  # by name: implementations import no more of bench than its words


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where what must be the same is not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="800x1333", help="what the shorter side becomes, and what the longer never passes")
    parser.add_argument("--kinds", default=",".join(SPREAD), help="of them, by commas")
    parser.add_argument("--libraries", default=",".join(installed()), help="of those installed, by commas")
    parser.add_argument("--random", action="store_true", help="no weights that learnt")
    parser.add_argument("--out", type=Path, help="a CSV to write")
    asked = parser.parse_args(arguments)
    shorter, longer = (int(side) for side in asked.size.split("x"))
    pictures = ((shorter * 15 // 32, shorter * 5 // 8), (shorter // 2, shorter * 3 // 8))  # 375x500 at 800; the first rounds otherwise by either rule
    request, found = request_of((shorter, longer)), list[Row]()
    print("  ".join(HEAD))  # noqa: T201 - a command
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in asked.kinds.split(","):
            for row in rows(kind, request, pictures, libraries=asked.libraries.split(","), learn=not asked.random):
                found.append(row)
                print("  ".join(cells(row)), flush=True)  # noqa: T201 - a command
    print(f"resized to {shorter}, at most {longer}; must be the same where theirs is {NONE}: scores to {SCORE:g}, boxes to {PX:g} px")  # noqa: T201 - a command
    if asked.out:
        with asked.out.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([HEAD, *map(cells, found)])
    return 0 if all(row.good for row in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
