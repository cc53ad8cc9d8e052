"""Audits of a measured detector: what would make its latency, or its accuracy beside it, untrue. Each gives what it found; nothing is well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.meters.latency import Runtime, running, time_image
from bench.two_samples import mann_whitney
from bench.types import Detections, Detector, Predictions, detect

if TYPE_CHECKING:
    from bench.records import Record

PX, SCORE = 1.0, 5e-3  # within which two detections are one: float sums in another order move them less
SHARE = 0.02  # of detections that may find no counterpart: scores at a threshold, ties in a suppression
PAIRS = 8  # of a new picture and one that was seen: the rank test needs seven to decide
FASTER, P = 1.25, 0.002  # a seen picture is answered so many times as fast, and not by chance


@dataclass(frozen=True)
class Finding:
    """What an audit found against a detector."""

    audit: str
    said: str


def audit(detector: Detector, images: Sequence[Tensor], runtime: Runtime) -> tuple[Finding, ...]:
    """Every audit of one detector, on these images; the detector is on the runtime's device."""
    timed = [time_image(detector, image, runtime)[1] for image in images]
    return (
        *accuracy(timed, scored(detector, images, runtime)),
        *batch(detector, images, runtime),
        *order(detector, images, runtime),
        *repeats(detector, images, runtime),
    )


# ---- does it answer in timing what it answers in accuracy


def scored(detector: Detector, images: Sequence[Tensor], runtime: Runtime) -> list[Detections]:
    """What the path that makes predictions for the metrics answers on the images, in their order."""
    from bench.predict import BATCH

    found: list[Detections] = []
    for first in range(0, len(images), BATCH):
        for alike in _alike(images[first : first + BATCH]):  # padding changes answers rightly, and no latency is measured with it
            with running(runtime):
                found += detect(detector, [image.to(runtime.device) for image in alike])
    return found


def _alike(images: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one shape together."""
    groups: list[list[Tensor]] = []
    for image in images:
        if groups and groups[-1][0].shape == image.shape:
            groups[-1].append(image)
        else:
            groups.append([image])
    return groups


def accuracy(timed: Sequence[Detections], expected: Sequence[Detections]) -> tuple[Finding, ...]:
    """Whether the answers of the timed images are those that accuracy is computed from."""
    return _differ("accuracy", "in timing it answers otherwise than for accuracy", timed, expected)


def stored(timed: Mapping[int, Detections], predictions: Predictions) -> tuple[Finding, ...]:
    """Whether the timed answers, by image id, hold the stored ones that an accuracy was computed from: one artefact makes both numbers."""
    lost = whole = 0
    for image, found in timed.items():
        rows = predictions.image == image
        kept = Detections(*(torch.from_numpy(column[rows]) for column in (predictions.boxes, predictions.scores, predictions.labels)))
        whole += len(kept.scores)
        lost += unmatched(kept, found)  # the other way round proves nothing: low scores are not stored
    if lost <= SHARE * whole:
        return ()
    return (
        Finding("accuracy", f"{lost} of {whole} stored predictions, from which its accuracy was computed, are not what it answers when it is timed"),
    )


# ---- does the batch, or the order, change the answer


def batch(detector: Detector, images: Sequence[Tensor], runtime: Runtime) -> tuple[Finding, ...]:
    """Whether an image's answer depends on what shares its batch: each image beside its mirror image, and alone."""
    alone = [_answer(detector, [image], runtime)[0] for image in images]
    beside = [_answer(detector, [image, image.flip(-1)], runtime)[0] for image in images]
    behind = [_answer(detector, [image.flip(-1), image], runtime)[1] for image in images]
    return _differ("batch", "an image beside another is answered otherwise than alone", [*beside, *behind], [*alone, *alone])


def order(detector: Detector, images: Sequence[Tensor], runtime: Runtime) -> tuple[Finding, ...]:
    """Whether an image's answer depends on those before it: the images forwards and backwards."""
    forwards = [_answer(detector, [image], runtime)[0] for image in images]
    backwards = [_answer(detector, [image], runtime)[0] for image in reversed(images)]
    return _differ("order", "in another order the same images are answered otherwise", backwards[::-1], forwards)


def _answer(detector: Detector, images: Sequence[Tensor], runtime: Runtime) -> list[Detections]:
    with running(runtime):
        return detect(detector, [image.to(runtime.device) for image in images])


def _differ(name: str, said: str, found: Sequence[Detections], expected: Sequence[Detections]) -> tuple[Finding, ...]:
    """A finding where more detections than may be have no counterpart on the same image."""
    lost = sum(unmatched(a, b) + unmatched(b, a) for a, b in zip(found, expected, strict=True))
    whole = sum(len(one.scores) for one in (*found, *expected))
    if lost <= SHARE * whole:
        return ()
    return (Finding(name, f"{said}: {lost} of {whole} detections have no counterpart within {PX:g} px and {SCORE:g} of the score"),)


def unmatched(some: Detections, others: Detections) -> int:
    """How many of `some` have no counterpart among `others`: same label, box and score but for rounding."""
    if not len(some.scores) or not len(others.scores):
        return len(some.scores)
    near = (some.boxes.float()[:, None] - others.boxes.float()[None]).abs().amax(2) <= PX
    near &= (some.scores.float()[:, None] - others.scores.float()[None]).abs() <= SCORE
    near &= some.labels[:, None] == others.labels[None]
    return int((~near.any(1)).sum())


# ---- does it remember


def repeats(detector: Detector, images: Sequence[Tensor], runtime: Runtime) -> tuple[Finding, ...]:
    """Whether it remembers pictures: one that was seen is answered faster than a new one, or the old answer is given for a new picture.

    New pictures are made by turning an image round its edge by some pixels, so that size and content stay alike.
    """
    stale = _stale(detector, images[0], runtime)
    new, seen = [], []
    for turn in range(PAIRS):
        image = images[turn % len(images)]
        time_image(detector, image.clone(), runtime)  # seen now, if it was not
        new.append(time_image(detector, image.roll(turn + 1, -1), runtime)[0].whole_ms)
        seen.append(time_image(detector, image.clone(), runtime)[0].whole_ms)
    ratio, p = median(new) / median(seen), mann_whitney(new, seen)
    if ratio > FASTER and p < P:
        return (*stale, Finding("repeats", f"a picture that it has seen is answered {ratio:.1f} times as fast as a new one (p = {p:.1g})"))
    return stale


def _stale(detector: Detector, image: Tensor, runtime: Runtime) -> tuple[Finding, ...]:
    """Whether another picture in the same memory gets the answer of the one before."""
    memory, mirrored = image.clone(), image.flip(-1)
    _answer(detector, [memory], runtime)
    memory.copy_(mirrored)
    again, fresh = _answer(detector, [memory], runtime), _answer(detector, [mirrored.clone()], runtime)
    return _differ("repeats", "another picture in the same memory is answered as the one before", again, fresh)


# ---- do two detectors share a name


def names(records: Iterable[Record]) -> tuple[Finding, ...]:
    """Whether records of one id are of detectors with other weights: then one stands for the other."""
    known: dict[str, set[str]] = {}
    for record in records:
        if record.kind == "latency":
            known.setdefault(record.id, set()).add(_weights(record.context))
    return tuple(
        Finding("names", f"{name}: {len(hashes)} detectors with other weights share this record") for name, hashes in known.items() if len(hashes) > 1
    )


def _weights(context: Mapping[str, Any]) -> str:
    return str(context.get("weights", "unknown"))
