"""One plain training loop on Fabric: sum of losses, step, schedule. It knows no model, no criterion and no dataset."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bench.checkpoints import Progress, load_checkpoint, save_checkpoint
from bench.schedule import draw_seed, optimizer_for, order, rate_at
from bench.spec import Schedule
from bench.types import Split, Target

CHECKPOINT = "checkpoint.safetensors"  # the newest epoch
CONSTANT = "constant.safetensors"  # the end of the constant rate: a plateau proof continues from here
REPLAYED = 20  # losses kept for `leandet attest`


class TrainingError(RuntimeError):
    """Training cannot go on; the text names the images of the batch."""


OnStep = Callable[[int, int, float], None]  # images seen, images in all, loss
OnEpoch = Callable[[nn.Module, int], dict[str, float]]


@dataclass(frozen=True)
class Job:
    """Where a run stands, how it learns, and who watches."""

    folder: Path
    schedule: Schedule
    seed: int
    start: Path | None = None  # a checkpoint to continue from, where `folder` has none
    stop_after: int = 0  # images; 0: the whole schedule (attest replays the first steps)
    on_step: OnStep | None = None
    on_epoch: OnEpoch | None = None  # its numbers join the curve


class _Opened(nn.Module):
    """A model that takes its batch from a function: Fabric looks into every argument for tensors to cast, and stops at frozen dataclasses."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Callable[[], tuple[list[Tensor], list[Target]]]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.model(*batch())
        return losses


def _load(split: Split, indices: Sequence[int], positions: Sequence[int], seed: int) -> tuple[list[Tensor], list[Target]]:
    targets = [replace(split.target(index), seed=draw_seed(seed, position)) for index, position in zip(indices, positions, strict=True)]
    return [split.image(index) for index in indices], targets


def _batches(split: Split, job: Job, first: int, fabric: Fabric) -> Iterator[tuple[list[int], list[Tensor], list[Target]]]:
    """This process's share of each global batch; the next one is read while this one is learnt."""

    def share(position: int) -> tuple[list[int], Future[tuple[list[Tensor], list[Target]]]]:
        positions = list(range(position, position + job.schedule.batch))[fabric.global_rank :: fabric.world_size]
        whole = order(len(split), job.seed, position, job.schedule.batch)
        mine = whole[fabric.global_rank :: fabric.world_size]
        return mine, reader.submit(_load, split, mine, positions, job.seed)

    positions = range(first, job.schedule.images + job.schedule.decay_images, job.schedule.batch)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as reader:  # more would take turns with those of the training
        waiting = share(positions[0])
        for following in (*positions[1:], None):
            indices, future = waiting
            if following is not None:
                waiting = share(following)
            yield indices, *future.result()


def _step(fabric: Fabric, model: Any, optimizer: Any, batch: tuple[list[Tensor], list[Target]], clip: float) -> float:
    losses: dict[str, Tensor] = model(lambda: batch)
    total: Tensor = torch.stack([loss.float() for loss in losses.values()]).sum()
    value = float(total.detach())
    if math.isfinite(value):
        fabric.backward(total)
        fabric.clip_gradients(model, optimizer, max_norm=clip, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return value


def _close_epoch(model: nn.Module, progress: Progress, losses: list[float], job: Job) -> None:
    measured = job.on_epoch(model, progress.images) if job.on_epoch else {}
    progress.curve.append({"images": progress.images, "loss": sum(losses) / len(losses), **measured})
    losses.clear()
    model.train()


def _keep(model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, job: Job) -> None:
    """Write the checkpoints that are due."""
    before, schedule = progress.images - job.schedule.batch, job.schedule
    if before < schedule.images <= progress.images:
        save_checkpoint(job.folder / CONSTANT, model, optimizer, progress)
    save_checkpoint(job.folder / CHECKPOINT, model, optimizer, progress)


def train(fabric: Fabric, model: nn.Module, split: Split, job: Job) -> Progress:
    """Train `model` in place until the schedule ends, resuming from the newest checkpoint in the job's folder.

    Each step reseeds torch, so that a resumed run draws what an unbroken one draws. TrainingError if a loss is not finite.
    """
    schedule, total = job.schedule, job.schedule.images + job.schedule.decay_images
    optimizer = optimizer_for(model, schedule)
    found = next((path for path in (job.folder / CHECKPOINT, job.start) if path is not None and path.exists()), None)
    progress = load_checkpoint(found, model, optimizer) if found else Progress()
    wrapped, stepper = fabric.setup(_Opened(model), optimizer)
    wrapped.train()
    began, losses, last = time.perf_counter() - progress.seconds, list[float](), job.stop_after or total
    for indices, images, targets in _batches(split, job, progress.images, fabric) if progress.images < last else ():
        torch.manual_seed(draw_seed(job.seed, progress.images, 1))
        for group in stepper.param_groups:
            group["lr"] = rate_at(schedule, progress.images)
        loss = _step(fabric, wrapped, stepper, (images, targets), schedule.clip_norm)
        if not math.isfinite(loss):
            names = ", ".join(split.image_name(index) for index in indices)
            raise TrainingError(f"loss is {loss} after {progress.images} images, on the batch of {names}; lower the rate or look at these images")
        progress.images += schedule.batch
        progress.losses += [loss] if len(progress.losses) < REPLAYED else []
        losses.append(loss)
        if job.on_step:
            job.on_step(progress.images, total, loss)
        ended = progress.images % schedule.epoch_images < schedule.batch or progress.images >= total
        if ended and not job.stop_after:
            _close_epoch(model, progress, losses, job)
            progress.seconds = time.perf_counter() - began
            if fabric.is_global_zero:
                _keep(model, optimizer, progress, job)
        if progress.images >= last:
            break
    progress.seconds = time.perf_counter() - began
    return progress
