"""The process that holds one measured detector: reads a request a line from standard input, and answers a line each, until the input ends.

What a detector prints goes to standard error, so that it cannot be taken for an answer. `python -m bench.timing_process` starts one.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.datasets.source import parse_data
from bench.subjects import PREDICTIONS, Conditions, Subject, check, run_of
from bench.types import Unavailable, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.audits import Finding
    from bench.meters.latency import Runtime
    from bench.types import Split

AUDITED = 8  # images
MEMORISED = 3  # images of the memory pass
BENCHED = 3  # times that each shape is shown before warm-up


@dataclass(frozen=True)
class Opened:
    """A detector ready to be measured, and the images for it."""

    subject: Subject
    detector: Any
    split: Split
    runtime: Runtime
    conditions: Conditions

    def image(self, place: int) -> Tensor:
        """The image at a place of the list, decoded anew, on the CPU."""
        return self.split.image(place)


def open_detector(subject: Subject, conditions: Conditions) -> Opened:
    """Build the subject and put it where it is measured; UserError for what this device or detector cannot."""
    import torch
    from torch import nn

    from bench import machine
    from bench.detectors import build, deployed
    from bench.meters.latency import open_runtime
    from bench.meters.rois import hold_equal

    split = check(conditions)
    runtime = open_runtime(conditions.device, conditions.precision)
    machine.keep_memory()
    torch.set_num_threads(conditions.threads)
    detector = build(subject, conditions.data, len(split.classes))
    if isinstance(detector, nn.Module):
        detector.to(runtime.device)
    if subject.form:
        detector = deployed(detector, subject.form, runtime.dtype)
    if conditions.rois:
        hold_equal(detector, conditions.rois)
    return Opened(subject, detector, split, runtime, conditions)


# ---- requests


def facts(opened: Opened) -> dict[str, Any]:
    """What names the detector and what runs it."""
    import torch

    from bench.detectors import weights_file, weights_from, weights_hash

    gpu = opened.runtime.device.type == "cuda"
    properties: Any = torch.cuda.get_device_properties(opened.runtime.device) if gpu else None
    return {
        "weights": weights_hash(opened.detector),
        "weights_file": weights_file(opened.subject, opened.conditions.data),
        "weights_from": weights_from(opened.subject, opened.detector),
        "device": str(opened.runtime.device.type),
        "gpu": properties.name if gpu else "",
        "gpu_uuid": f"GPU-{properties.uuid}" if gpu else "",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def image_list(opened: Opened) -> dict[str, str]:
    """The hash of the images' names, sizes and pixels; UserError for one that cannot be read."""
    from bench.datasets.images import image_list_hash

    return {"hash": image_list_hash(opened.split, range(opened.conditions.images))}


def warm(opened: Opened, *, quick: bool) -> dict[str, Any]:
    """Show each shape of image, then the first image until it is steady; what a batch looks like in memory."""
    from bench.meters.latency import formats, running, time_image, warm_up

    first, shapes = opened.image(0), set[tuple[int, ...]]()
    for place in range(0 if quick else opened.conditions.images):
        image = opened.image(place)
        if tuple(image.shape) not in shapes and len(shapes) < BENCHED:
            shapes.add(tuple(image.shape))
            time_image(opened.detector, image, opened.runtime)
    warmed = warm_up(lambda: time_image(opened.detector, first, opened.runtime)[0].whole_ms, most=1 if quick else 60)
    with running(opened.runtime):
        batch = opened.detector.prepare([first.to(opened.runtime.device)])
    return asdict(warmed) | {"formats": formats(opened.detector, batch), "input": list(getattr(batch, "sizes", ((0, 0),))[0])}


def measure(opened: Opened, *, place: int) -> dict[str, Any]:
    """One image, timed."""
    from bench.meters.latency import time_image

    image = opened.image(place)
    timed, _ = time_image(opened.detector, image, opened.runtime)
    return asdict(timed) | {"height": int(image.shape[-2]), "width": int(image.shape[-1]), "image": opened.split.image_name(place)}


def memory(opened: Opened) -> dict[str, float]:
    """The peak over the first of the images."""
    from bench.meters.memory import peak_memory

    count = min(MEMORISED, opened.conditions.images)
    return peak_memory(opened.detector, [opened.image(place) for place in range(count)], opened.runtime)


def macs(opened: Opened, *, size: tuple[int, int], rois: int) -> dict[str, Any]:
    """What the detector costs at an input of that height and width with so many RoIs, in 1e9 multiply-adds; it is spent afterwards."""
    from bench.meters.detectors import cost

    return cost(opened.detector, size, rois, opened.image(0))


def answers(opened: Opened, *, first: int, count: int) -> dict[str, Any]:
    """What is found on some images of the split, alone each, as columns for the metrics."""
    from bench.meters.latency import running
    from bench.types import detect

    columns: dict[str, list[Any]] = {"image": [], "boxes": [], "scores": [], "labels": []}
    for place in range(first, min(first + count, len(opened.split))):
        with running(opened.runtime):
            found = detect(opened.detector, [opened.image(place).to(opened.runtime.device)])[0]
        columns["image"] += [opened.split.image_id(place)] * len(found.scores)
        for name in ("boxes", "scores", "labels"):
            columns[name] += getattr(found, name).float().cpu().tolist()
    return columns


def contract(opened: Opened) -> dict[str, Any]:
    """What the first image's answer breaks of the contract, as one line a rule; empty where it holds."""
    from bench.contract import broken_answers
    from bench.meters.latency import running

    image = opened.image(0).to(opened.runtime.device)
    with running(opened.runtime):
        broken = broken_answers(opened.detector, [image], opened.subject.classes or None)
    return {"broken": [f"{each.rule}: {each.said}; {each.mend}" for each in broken]}


def audits(opened: Opened) -> dict[str, Any]:
    """What the audits find against the detector; a run's answers are also held against its stored predictions."""
    from bench.audits import audit

    count = min(AUDITED, opened.conditions.images)
    found = audit(opened.detector, [opened.image(place) for place in range(count)], opened.runtime) + _against_stored(opened, count)
    return {"findings": [asdict(finding) for finding in found]}


def _against_stored(opened: Opened, count: int) -> tuple[Finding, ...]:
    from bench import places
    from bench.audits import stored
    from bench.meters.latency import time_image
    from bench.metrics.store import read_predictions

    run = run_of(opened.subject, opened.conditions.data) if opened.subject.kind == "run" else None
    path = places.run_folder(run.id) / PREDICTIONS if run else None
    if run is None or path is None or not path.exists() or run.data != parse_data(opened.conditions.data):
        return ()
    timed = {opened.split.image_id(place): time_image(opened.detector, opened.image(place), opened.runtime)[1] for place in range(count)}
    return stored(timed, read_predictions(path))


REQUESTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "facts": facts,
    "images": image_list,
    "warm": warm,
    "measure": measure,
    "memory": memory,
    "macs": macs,
    "answers": answers,
    "contract": contract,
    "audits": audits,
}


def serve() -> None:
    """Answer until the input ends: {"ok": ...}, {"user": a mistake in a line}, {"refused": why not in this form} or {"error": a traceback's end}."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    opened: Opened | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        name, details = asked.pop("do"), asked
        try:
            if name == "open":
                opened = open_detector(Subject(**details["subject"]), Conditions(**details["conditions"]))
                said = {"ok": facts(opened)}
            else:
                assert opened is not None, f"{name} before open"
                said = {"ok": REQUESTS[name](opened, **details)}
        except UserError as error:
            refused = isinstance(error.__cause__, (Unavailable, ImportError))  # this detector's or this machine's lack: the others go on
            said = {"refused" if refused else "user": {"text": str(error)}}
        except Exception as error:  # noqa: BLE001 - one detector's fault is its own row's result
            traceback.print_exc()
            said = {"error": {"text": f"{type(error).__name__}: {error}"}}
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    serve()
