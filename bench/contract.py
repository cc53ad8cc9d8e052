"""What a detector must do, rule by rule: what is broken, and how to mend it. One contract for ours, for adapters' and for anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.meters.params import count_params
from bench.types import Detections, Target, Unavailable, UserError, detect

SLACK = 1e-3  # px beyond the image that rounding may cause
ALIKE_SCORE, ALIKE_PX = 1e-3, 0.1  # how far an answer may move in company, and when it is asked again
MATCHED = 0.5  # IoU


@dataclass(frozen=True)
class Finding:
    """One rule: "ok", "broken", or "not seen" where nothing could be said; `mend` for what is broken."""

    rule: str
    state: str
    said: str = ""
    mend: str = ""


Broken = tuple[str, str]  # what is wrong, how to mend it


def photograph(height: int, width: int, seed: int = 0) -> Tensor:
    """(3, height, width) in 0..1: smooth colour with detail at every size."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + height * 10_000 + width)
    layers = [torch.rand(1, 3, max(1, height // n), max(1, width // n), generator=generator) for n in (64, 16, 4, 1)]
    grown = [nn.functional.interpolate(layer, size=(height, width), mode="bilinear", align_corners=False) for layer in layers]
    return torch.stack(grown).mean(0)[0]


# ---- an answer


def broken_answers(detector: Any, images: Sequence[Tensor], classes: int | None) -> list[Finding]:
    """What the answers to these images break, each rule once; empty where they hold. `classes`: None where nobody knows how many there are."""
    answers = detector.finish(detector.network(detector.prepare(list(images))))
    if not isinstance(answers, list | tuple) or len(answers) != len(images):
        given = f"{len(answers)} answers" if isinstance(answers, list | tuple) else f"a {type(answers).__name__}"
        return [Finding("one answer an image", "broken", f"{given} for {len(images)} images", "return a list of bench.types.Detections from finish")]
    found: dict[str, Finding] = {}
    for image, answer in zip(images, answers, strict=True):
        for rule, check in RULES:
            broken = check(answer, image, classes)
            if broken and rule not in found:
                found[rule] = Finding(rule, "broken", *broken)
            if broken and rule == "tensors of the right kind":
                break  # the other rules read them
    return list(found.values())


def _kinds(answer: Any, _: Tensor, __: int | None) -> Broken | None:
    mend = "return bench.types.Detections(boxes float32 (N, 4), scores float32 (N,), labels int64 (N,))"
    columns = {name: getattr(answer, name, None) for name in ("boxes", "scores", "labels")}
    absent = [name for name, column in columns.items() if not isinstance(column, Tensor)]
    if absent:
        return f"an answer is a {type(answer).__name__} without tensors {', '.join(absent)}", mend
    count = len(answer.scores)
    wanted = {"boxes": ((count, 4), torch.float32), "scores": ((count,), torch.float32), "labels": ((count,), torch.int64)}
    for name, (shape, kind) in wanted.items():
        column = getattr(answer, name)
        if tuple(column.shape) != shape or column.dtype != kind:
            return (
                f"{name} are {str(column.dtype).removeprefix('torch.')} {tuple(column.shape)}, not {str(kind).removeprefix('torch.')} {shape}",
                mend,
            )
    return None


def _corners(answer: Detections, _: Tensor, __: int | None) -> Broken | None:
    wrong = int((answer.boxes[:, 2:] < answer.boxes[:, :2]).any(1).sum())
    return (f"{wrong} of {len(answer.boxes)} boxes end before they begin", "give x1 y1 x2 y2: not x y w h, not cx cy w h, not y x") if wrong else None


def _inside(answer: Detections, image: Tensor, _: int | None) -> Broken | None:
    height, width = image.shape[-2:]
    limit = answer.boxes.new_tensor([width, height, width, height])
    beyond = torch.maximum(-answer.boxes, answer.boxes - limit)
    if not len(beyond) or (bool(torch.isfinite(answer.boxes).all()) and float(beyond.max()) <= SLACK):
        return None
    mend = "go back from the network's pixels to those of the image as given, and clip"
    return f"a box reaches {float(beyond.max()):.1f} px beyond an image of {height} x {width}", mend


def _scores(answer: Detections, _: Tensor, __: int | None) -> Broken | None:
    good = bool(((answer.scores >= 0) & (answer.scores <= 1)).all())
    return None if good else ("scores outside 0..1", "give probabilities: apply the sigmoid or softmax in finish")


def _sorted(answer: Detections, _: Tensor, __: int | None) -> Broken | None:
    return ("scores are not in falling order", "sort each answer by its scores, best first") if bool((answer.scores.diff() > 0).any()) else None


def _labels(answer: Detections, _: Tensor, classes: int | None) -> Broken | None:
    if not len(answer.labels):
        return None
    least, most = int(answer.labels.min()), int(answer.labels.max())
    if least >= 0 and (classes is None or most < classes):
        return None
    return (
        f"labels from {least} to {most}, not 0 to {'C-1' if classes is None else classes - 1}",
        "number the classes from 0 and leave background out",
    )


RULES: tuple[tuple[str, Callable[[Any, Tensor, int | None], Broken | None]], ...] = (
    ("tensors of the right kind", _kinds),
    ("corners x1 y1 x2 y2", _corners),
    ("boxes inside the image", _inside),
    ("scores are probabilities", _scores),
    ("best first", _sorted),
    ("labels 0..C-1", _labels),
)


# ---- a detector


def examine(detector: Any, classes: int | None, size: tuple[int, int] = (160, 224)) -> tuple[Finding, ...]:
    """Every rule over a detector; it is left in eval mode, and its weights as they were but for the statistics of norms."""
    if isinstance(detector, nn.Module):
        detector.eval()
    findings: list[Finding] = []
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "answers": lambda: _answered(detector, classes, size),
        "the image is left as it was": lambda: _untouched(detector, size),
        "asked twice, answered alike": lambda: _again(detector, size),
        "alone and in company alike": lambda: _company(detector, size),
        "pixels of the image as given": lambda: _scaled(detector, size),
        "parameters as the framework counts them": lambda: _params(detector),
        "losses": lambda: _losses(detector, classes, size),
    }
    for rule, check in checks.items():
        try:
            findings += check()
        except (UserError, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 - a rule that raises is a rule that is broken
            said = " ".join(f"raises {type(error).__name__}: {error}".split())[:300]
            findings.append(Finding(rule, "broken", said, "let the detector take any RGB image (3, H, W) float32 in 0..1, several at once"))
    return tuple(findings)


def _asked(detector: Any, images: Sequence[Tensor]) -> list[Detections]:
    with torch.inference_mode():
        return detect(detector, [image.clone() for image in images])


def _answered(detector: Any, classes: int | None, size: tuple[int, int]) -> Iterator[Finding]:
    """The rules of an answer, on two images of two sizes in one batch, and on a blank one."""
    height, width = size
    with torch.inference_mode():
        broken = {each.rule: each for each in broken_answers(detector, [photograph(height, width), photograph(width, height)], classes)}
    readable = not {"one answer an image", "tensors of the right kind"} & set(broken)
    seen = readable and len(_asked(detector, [photograph(height, width)])[0].scores) > 0
    yield broken.pop("one answer an image", Finding("one answer an image", "ok", "two sizes in one batch"))
    for rule, _ in RULES:
        yield broken.get(rule, Finding(rule, "ok" if seen else "not seen", "" if seen else "it found nothing; give it weights that find something"))
    with torch.inference_mode():
        blank = broken_answers(detector, [torch.zeros(3, height, width)], classes)
    yield Finding("a blank image", "broken", blank[0].said, blank[0].mend) if blank else Finding("a blank image", "ok")


def _untouched(detector: Any, size: tuple[int, int]) -> Iterator[Finding]:
    image = photograph(*size)
    with torch.inference_mode():
        detect(detector, [image])
    same = torch.equal(image, photograph(*size))
    rule = "the image is left as it was"
    yield Finding(rule, "ok") if same else Finding(rule, "broken", "prepare changes the tensor that it is given", "copy before normalising in place")


def _apart(one: Detections, other: Detections) -> str:
    """How two answers differ, in words; empty where they are alike."""
    if len(one.scores) != len(other.scores):
        return f"{len(one.scores)} detections, then {len(other.scores)}"
    if not len(one.scores):
        return ""
    score, px = (float((a - b).abs().max()) for a, b in ((one.scores, other.scores), (one.boxes, other.boxes)))
    return f"scores move by {score:.1g}, boxes by {px:.1g} px" if score > ALIKE_SCORE or (px > ALIKE_PX and _order_is_certain(one)) else ""


def _order_is_certain(answer: Detections) -> bool:
    """Whether no two scores are so close that rounding may swap them, so that boxes can be compared place by place."""
    return len(answer.scores) < 2 or bool((-answer.scores.diff()).min() > 1e-5)


def _again(detector: Any, size: tuple[int, int]) -> Iterator[Finding]:
    first, second = (_asked(detector, [photograph(*size)])[0] for _ in range(2))
    said, rule = _apart(first, second), "asked twice, answered alike"
    yield Finding(rule, "broken", said, "switch dropout and every random draw off in eval mode") if said else Finding(rule, "ok")


def _company(detector: Any, size: tuple[int, int]) -> Iterator[Finding]:
    images = [photograph(*size), photograph(*size, seed=1)]
    said, rule = _apart(_asked(detector, images[:1])[0], _asked(detector, images)[0]), "alone and in company alike"
    yield (
        Finding(rule, "broken", said, "let no image of a batch see another: no statistics over the batch in eval mode")
        if said
        else Finding(rule, "ok")
    )


def _scaled(detector: Any, size: tuple[int, int]) -> Iterator[Finding]:
    """The same picture twice as large: its boxes must be twice as large too. Said only where the network finds the same in both."""
    rule, picture = "pixels of the image as given", photograph(*size)
    larger = nn.functional.interpolate(picture[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    small, large = (_asked(detector, [image])[0] for image in (picture, larger))
    if not len(small.scores) or not len(large.scores):
        yield Finding(rule, "not seen", "it found nothing")
        return
    grown, same = (_agreement(small.boxes * factor, large.boxes) for factor in (2.0, 1.0))
    if same > max(grown, MATCHED):
        yield Finding(
            rule, "broken", "boxes do not grow with the image", "go back from the network's pixels, or from 0..1, to those of the image as given"
        )
    else:
        yield Finding(rule, "ok" if grown > MATCHED else "not seen", "" if grown > MATCHED else "it finds other things in a larger picture")


def _agreement(boxes: Tensor, others: Tensor) -> float:
    """The mean best IoU of the first boxes (N, 4) with any of the others (M, 4)."""
    from torchvision.ops import box_iou

    return float(box_iou(boxes[:20], others).amax(1).mean())


def _params(detector: Any) -> Iterator[Finding]:
    rule = "parameters as the framework counts them"
    if not isinstance(detector, nn.Module):
        yield Finding(rule, "not seen", "it is no nn.Module")
        return
    own = sum(parameter.numel() for parameter in detector.parameters())
    told = getattr(detector, "framework_params", None)
    theirs = told() if told is not None else own
    named = _named_by_parts(detector)
    if own != theirs:
        yield Finding(rule, "broken", f"{own:,} here, {theirs:,} there", "keep the framework's module as it is, every part of it a submodule")
    elif named is not None and named != count_params(detector):
        said = f"its parts hold {named:,} of {count_params(detector):,}"
        yield Finding(rule, "broken", said, "name every module that learns in parts(height, width), each once")
    else:
        yield Finding(rule, "ok", f"{own:,}")


def _named_by_parts(detector: Any) -> int | None:
    return count_params(*(part.module for part in detector.parts(128, 128))) if hasattr(detector, "parts") else None


# ---- learning


def truths(classes: int | None, size: tuple[int, int], *, empty: bool = False) -> Target:
    """Two objects on an image of that size, or none."""
    height, width = size
    corners = [] if empty else [[0.1 * width, 0.1 * height, 0.5 * width, 0.6 * height], [0.4 * width, 0.3 * height, 0.9 * width, 0.9 * height]]
    none = torch.zeros(len(corners), dtype=torch.bool)
    labels = torch.arange(len(corners)) % (classes or 1)
    return Target(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4), labels, none, none.clone(), seed=5)


def why_not(detector: Any) -> str:
    """Why a detector does not learn; empty where it does, as far as shows without trying."""
    if not isinstance(detector, nn.Module):
        return str(getattr(detector, "why_not", "it is no nn.Module"))
    if type(detector).forward is nn.Module.forward:
        return "it has no forward(images, targets) that gives losses"
    return "" if any(parameter.requires_grad for parameter in detector.parameters()) else "none of its parameters is trainable (requires_grad)"


def _losses(detector: Any, classes: int | None, size: tuple[int, int]) -> Iterator[Finding]:
    reason = why_not(detector)
    if reason:
        yield Finding("losses", "not seen", f"inference only: {reason}")
        return
    detector.train()
    detector.zero_grad(set_to_none=True)
    other = (size[0], size[0])
    images = [photograph(*size), photograph(*other, seed=2), photograph(*size, seed=3)]
    targets = [truths(classes, size), truths(classes, other), truths(classes, size, empty=True)]
    try:
        yield from _learnt(detector, detector(images, targets))
        yield from _learnt_from_nothing(detector([photograph(*size)] * 2, [truths(classes, size, empty=True)] * 2))
    except Unavailable as reason_given:
        yield Finding("losses", "not seen", f"inference only: {reason_given}")
    finally:
        detector.eval()
        detector.zero_grad(set_to_none=True)


def _learnt(detector: nn.Module, losses: Any) -> Iterator[Finding]:
    mend = "return a dict of named scalar tensors, whose sum is what is minimised"
    if not isinstance(losses, dict) or not losses or not all(isinstance(loss, Tensor) and loss.ndim == 0 for loss in losses.values()):
        yield Finding("losses are named scalars", "broken", f"forward gives a {type(losses).__name__}", mend)
        return
    yield Finding("losses are named scalars", "ok", ", ".join(losses))
    wild = [name for name, loss in losses.items() if not bool(torch.isfinite(loss))]
    yield Finding("losses are finite", "broken", ", ".join(wild), "divide by at least one") if wild else Finding("losses are finite", "ok")
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
    learning = [(name, parameter) for name, parameter in detector.named_parameters() if parameter.requires_grad]
    dry = [name for name, parameter in learning if parameter.grad is None]
    rule = "losses reach every trainable parameter"
    said = f"{len(dry)} of {len(learning)} have no gradient, as {dry[0]}" if dry else ""
    mend = "use every trainable parameter in a loss, or set requires_grad to False"
    yield Finding(rule, "broken", said, mend) if dry else Finding(rule, "ok", f"{len(learning)} tensors")


def _learnt_from_nothing(losses: Any) -> Iterator[Finding]:
    rule = "images without objects can be learnt from"
    wild = [name for name, loss in losses.items() if not bool(torch.isfinite(loss))]
    yield (
        Finding(rule, "broken", f"not finite: {', '.join(wild)}", "divide by at least one, and let empty targets through")
        if wild
        else Finding(rule, "ok")
    )
