"""Run -> record: the one impure step, and the only place that builds models. What stands is not done again; what was begun is resumed."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save
from torch import nn

from bench import machine, places
from bench.assemble import build_classifier, build_detector, continue_body, open_fabric, start_from
from bench.checkpoints import Progress as Learnt
from bench.datasets import open_split
from bench.derive import DERIVED, flat, keep, measured
from bench.devices import on_device
from bench.digest import plain
from bench.meters.compressed import compressed_values
from bench.meters.params import count_params
from bench.metrics import score_all
from bench.metrics.store import write_predictions
from bench.plan import CLASSIFIERS, Run, continuable, effort_of, metrics_digest, row_of, schedule_of
from bench.predict import HASHED, detections_hash, predict
from bench.pretrain import Pretrainer, accuracy, open_objects
from bench.progress import Progress
from bench.records import Record, machine_of, read_record, write_atomically, write_record
from bench.scales import SCALES
from bench.schedule import draw_seed
from bench.spec import PRETRAINED, Backbone, Derive, Paper, Schedule
from bench.train import CHECKPOINT, CONSTANT, Job, TrainingError, train
from bench.types import GroundTruth, Split, Unavailable, Unusable, UserError

RECORD, WEIGHTS, PREDICTIONS, BEGUN = "record.json", "weights.safetensors", "predictions.parquet", "digest.txt"
WATCHED = 100  # val images scored at the end of an epoch, for the curve
LOOKS = 8  # at most so often in a run, the last epoch among them
SMOKE = 48  # images of a split that a smoke run looks at: it proves the path, its numbers say nothing
CURVE = ("ap", "ap50")
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # which precision it uses is in the record, and --quiet is to be quiet


@dataclass(frozen=True)
class Setup:
    """What runs share: the papers, the weights given in place of a pretrained backbone, who watches, and whose plateau proof is asked for."""

    papers: Mapping[str, Paper]
    init: Path | None = None
    progress: Progress = field(default_factory=lambda: Progress("run"))
    proven: frozenset[str] = frozenset()  # ids of runs that a plateau proof will go on from


def standing(run: Run) -> Record | None:
    """The record that the run's folder holds, if it still stands."""
    path = places.run_folder(run.id) / RECORD
    record = read_record(path) if path.exists() else None
    return record if record is not None and record.status != "failed" and run.digest in record.digests else None


def execute(run: Run, setup: Setup) -> Record:
    """The run's record: the one that stands, or a new one after the work is done or resumed.

    TrainingError if a loss is not finite, Unusable if what it starts from is, after a record that says so; a detector that cannot learn gives a
    record that says why.
    """
    with _alone(run):
        record = standing(run)
        if record is None:
            folder = _begin(run)
            record = _attempt(run, setup)
            write_record(record, folder / RECORD)
            (folder / CHECKPOINT).unlink(missing_ok=True)  # the weights stand
            if not _goes_on(run, setup):
                (folder / CONSTANT).unlink(missing_ok=True)
        return record


def _goes_on(run: Run, setup: Setup) -> bool:
    """Whether a plateau proof is to go on from this run: it is planned for, as of headline rows, or asked for by its id."""
    return run.id in setup.proven or (continuable(run) and setup.papers[run.paper].row(run.row).headline)


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """One process at a time works on a run; another waits and then finds it done."""
    lock = places.runs() / ".locks" / run.id
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _begin(run: Run) -> Path:
    """The run's folder, without what another digest left there."""
    folder = places.run_folder(run.id)
    begun = folder / BEGUN
    if not begun.exists() or begun.read_text() != run.digest:
        for name in (RECORD, CHECKPOINT, CONSTANT, WEIGHTS, PREDICTIONS, DERIVED):
            (folder / name).unlink(missing_ok=True)
        write_atomically(begun, run.digest.encode())
    return folder


def _attempt(run: Run, setup: Setup) -> Record:
    began = time.time()
    fabric = open_fabric(machine.precision(), effort_of(run, row_of(setup.papers, run)).threads)
    blank = Record(run.id, run.kind, run.paper, run.row, run.tier, run.seed, "ok", "", run.digest, {}, context=_context(run, setup, fabric))
    try:
        record = (_pretrain if run.kind == "pretrain" else _detect)(run, setup, fabric, blank)
    except Unavailable as reason:
        record = replace(blank, status="skipped", reason=str(reason))
    except (TrainingError, Unusable) as error:
        write_record(replace(blank, status="failed", reason=str(error)), places.run_folder(run.id) / RECORD)
        raise
    return replace(record, context=dict(record.context) | {"seconds": round(time.time() - began, 1)})


def settings_of(run: Run, papers: Mapping[str, Paper]) -> dict[str, Any]:
    """What a run was asked to be, as plain values: all that decides its numbers apart from code and machine."""
    scale, row = SCALES[run.tier], None if run.kind == "pretrain" else papers[run.paper].row(run.row)
    schedule = schedule_of(run, row)
    always = {"batch": schedule.batch, "data": run.data.name, "needs": list(run.needs), "schedule": asdict(schedule)}
    always |= {"threads": effort_of(run, row).threads} | ({"length": run.length} if run.length > 1 else {})
    if row is None:
        return always
    asked = {"arguments": plain(row.arguments), "setting": plain(row.setting)}
    return always | asked | {"scale": {key: value for key, value in plain(scale).items() if key not in {"", "schedule", "seeds"}}}


def _context(run: Run, setup: Setup, fabric: Fabric) -> dict[str, Any]:
    """What a number may not travel without."""
    return settings_of(run, setup.papers) | machine.source_state() | {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "device": str(fabric.device),
        "precision": machine.precision(),
        "metrics": metrics_digest(),
        "init": setup.init.name if setup.init else "",
        **_trained_elsewhere(run),
    }  # fmt: skip


def _trained_elsewhere(run: Run) -> dict[str, str]:
    """Where another machine trained the weights that a transform starts from: its numbers stand beside theirs. Empty where this one did."""
    record = places.run_folder(run.needs[0]) / RECORD if run.kind == "transform" and run.needs else None
    there = machine_of(read_record(record)) if record is not None and record.exists() else ""
    return {"trained_on": there} if there not in {"", machine.describe()["name"]} else {}


def _job(run: Run, setup: Setup, seed: int) -> Job:
    row = None if run.kind == "pretrain" else setup.papers[run.paper].row(run.row)
    start = places.run_folder(run.needs[0]) / CONSTANT if run.kind == "plateau" else None
    if start is not None and not start.exists():
        raise UserError(
            f"{start}: missing, so {run.id} has nothing to continue from; delete {start.parent} and run {run.id}, which trains it anew and keeps that"
        )
    return Job(places.run_folder(run.id), schedule_of(run, row), seed, start=start)


def opening(run: Run, setup: Setup, device: torch.device) -> tuple[Any, Split]:
    """The model of a run before its first step, and the split that it learns from; both on the device, where an optimizer that resumes seeks them."""
    if run.kind == "pretrain":
        split, _ = open_objects(run.data, schedule_of(run, None).images)
        return Pretrainer(_classifier(run, len(split.classes))).to(device), on_device(split, device)
    learning = open_split(run.data, "train")
    return prepared(run, setup, len(learning.classes)).to(device), on_device(learning, device)


def _classifier(run: Run, classes: int) -> Any:
    """The network that the backbone is pretrained in; those that are no ResNet are found by name, as bench imports no implementation."""
    spec = SCALES[run.tier].backbones[run.row]
    if isinstance(spec, Backbone):
        return build_classifier(spec, classes, seed=run.seed)
    ((module, name),) = CLASSIFIERS[type(spec)]
    torch.manual_seed(draw_seed(run.seed, 0, 2))
    return getattr(importlib.import_module(module), name)(spec, classes)


def _pretrain(run: Run, setup: Setup, fabric: Fabric, blank: Record) -> Record:
    job = replace(_job(run, setup, run.seed), on_step=_on_step(setup))
    setup.progress.phase("drawing objects")(0, 1)
    model, split = opening(run, setup, fabric.device)
    learnt = train(fabric, model, split, job)
    samples = {"losses": learnt.losses, "curve": learnt.curve, "weights": _keep_weights(run, model.classifier)}
    _, held_out = open_objects(run.data, job.schedule.images)
    shown: Any = on_device(held_out, fabric.device)
    return replace(blank, values={"top1": accuracy(model, shown)}, samples=samples, context=_seen(blank, split, learnt))


def _detect(run: Run, setup: Setup, fabric: Fabric, blank: Record) -> Record:
    testing, watched = (on_device(open_split(run.data, name), fabric.device) for name in ("test", "val"))
    limit = SMOKE if run.tier == "smoke" else len(testing)
    detector, learning = opening(run, setup, fabric.device)
    learnt = Learnt()
    if run.kind != "transform":
        job = _job(run, setup, run.seed)
        watch = _watch(fabric, watched, min(WATCHED, limit), job.schedule)
        learnt = train(fabric, detector, learning, replace(job, on_step=_on_step(setup), on_epoch=watch))
    else:
        check_device(detector, fabric.device)
        fabric.setup_module(detector)  # to the device
        calibrate(detector, learning)
    samples = {"losses": learnt.losses, "curve": learnt.curve, "weights": _keep_weights(run, detector)}
    samples["detections"] = detections_hash(fabric, detector, watched)
    found = predict(fabric, detector, testing, images=limit, on_images=setup.progress.phase("testing"))
    values = score_all(write_predictions(places.run_folder(run.id) / PREDICTIONS, found), _first(testing.ground_truth(), limit))
    derived = derive(run, setup, fabric, detector) | compressed_values(detector)
    if derived:
        values, samples["derived"] = dict(values) | derived, derived
    context = _seen(blank, testing, learnt) | {
        "test_images": limit,
        "model": plain(getattr(detector, "config", None)),
        **_head(detector),
        **_compression(detector),
    }
    return replace(blank, values=values, samples=samples, context=context)


def derive(run: Run, setup: Setup, fabric: Fabric, detector: Any) -> dict[str, float]:
    """Do the row's Derive steps, keep what they measure, and give it for the record; empty for a row without such a step."""
    row = row_of(setup.papers, run)
    steps = [step for step in row.recipe if isinstance(step, Derive)] if row else []
    if not steps:
        return {}
    if run.tier == "smoke":
        steps = [replace(step, images=min(step.images, SMOKE)) for step in steps]
    found = measured(steps, detector, fabric, opened=lambda name: on_device(open_split(run.data, name), fabric.device), seed=run.seed)
    keep(found, places.run_folder(run.id))
    return flat(found)


def check_device(detector: Any, device: torch.device) -> None:
    """UserError for 8-bit kernels on a GPU: they are the CPU's. No record says so, as the same machine can do the run."""
    plan = getattr(detector, "compression", None)
    if plan is not None and plan.kernels.startswith("int8") and device.type != "cpu":
        raise UserError(f"int8 kernels are the CPU's, and this run would use {device}; next: set CUDA_VISIBLE_DEVICES= (empty) and run it again")


def calibrate(detector: Any, learning: Split) -> None:
    """Show a compressed detector as many training images as its plan asks for, where the ranges of its activations are still to be found."""
    plan = getattr(detector, "compression", None)
    if plan is not None:
        plan.calibrate(detector, [learning.image(index) for index in range(min(plan.images, len(learning)))])


def _head(detector: Any) -> dict[str, float]:
    """How large the second stage is at this scale: an accuracy travels with what its row saves. Empty for a detector that names no parts."""
    parts = detector.parts(64, 64) if hasattr(detector, "parts") else ()
    modules = {part.name: part.module for part in parts if part.head}
    return {"head_params_m": count_params(*modules.values()) / 1e6} if modules else {}


def _compression(detector: Any) -> dict[str, Any]:
    """What was done to a compressed detector and what its kernels can save: a count of multiply-adds travels with both. Empty for any other."""
    plan = getattr(detector, "compression", None)
    return {"compression": plain(plan), "kernels": plan.kernels, "speedup_realised": "not timed" if plan.faster else "no"} if plan is not None else {}


def prepared(run: Run, setup: Setup, classes: int) -> Any:
    """The run's detector before it learns: built, and started from the weights that the run needs."""
    row = setup.papers[run.paper].row(run.row)
    given = {need: places.run_folder(need) / WEIGHTS for need in run.needs}
    for need, path in given.items():
        if not path.exists() and run.kind != "plateau":
            raise UserError(f"{path}: missing, but {run.id} starts from it; next: leandet run {need}")
    inputs = {need.split(".")[1]: path for need, path in given.items() if not need.startswith("pretrain.")}
    body = inputs.pop(row.body, None)
    backbones = [path for need, path in given.items() if need.startswith("pretrain.")] + ([setup.init] if setup.init else [])
    if row.start == "builder" and (body or backbones):
        inputs[PRETRAINED] = body or backbones[-1]
    detector = build_detector(row, SCALES[run.tier], classes, seed=run.seed, inputs=MappingProxyType(inputs))
    for path in backbones if row.start == "backbone" else ():
        start_from(detector, path)
    if body is not None and row.start == "backbone":
        continue_body(detector, body)
    return detector


def load_weights(run: Run, detector: nn.Module) -> None:
    """Put the weights that a run ended with into its detector."""
    detector.load_state_dict(load_file(places.run_folder(run.id) / WEIGHTS))


def _keep_weights(run: Run, model: nn.Module) -> str:
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    write_atomically(places.run_folder(run.id) / WEIGHTS, data)
    return hashlib.sha256(data).hexdigest()


def looks(schedule: Schedule) -> frozenset[int]:
    """After how many epochs the curve is told an AP: evenly spread, the last among them."""
    epochs = -(-(schedule.images + schedule.decay_images) // schedule.epoch_images)
    return frozenset(range(epochs, 0, -max(1, -(-epochs // LOOKS))))


def _watch(fabric: Fabric, split: Split, images: int, schedule: Schedule) -> Callable[[nn.Module, int], dict[str, float]]:
    """What the curve holds of an epoch: AP on the first val images, which chooses nothing."""
    truth, due = _first(split.ground_truth(), images), looks(schedule)

    def measure(model: nn.Module, seen: int) -> dict[str, float]:
        if -((schedule.batch - 1 - seen) // schedule.epoch_images) not in due:  # the epoch that has just ended
            return {}
        scores = score_all(predict(fabric, model, split, images=images), truth)
        return {f"val_{key}": round(scores[key], 3) for key in CURVE if key in scores}

    return measure


def _first(truth: GroundTruth, images: int) -> GroundTruth:
    """The ground truth of the first so many images of a split."""
    known = truth.image_ids[:images]
    kept = np.isin(truth.image, known)
    return replace(
        truth, image_ids=known, **{name: getattr(truth, name)[kept] for name in ("image", "boxes", "labels", "crowd", "difficult", "area")}
    )


def _on_step(setup: Setup) -> Callable[[int, int, float], None]:
    tell = setup.progress.phase("training")
    return lambda done, whole, _: tell(done, whole)


def _seen(blank: Record, split: Split, learnt: Learnt) -> dict[str, Any]:
    learning = {"images": learnt.images, "training_seconds": round(learnt.seconds, 1), "hashed_images": HASHED}
    return dict(blank.context) | learning | {"data_digest": split.digest, "tested_on": split.name}
