"""A detector that keeps the contract, and one for each fault that the contract must find."""

from __future__ import annotations

import torch
from torch import nn

from bench.types import Batch, Detections

SIDE = 64


class Good(nn.Module):
    """Sees every image at 64 x 64 and finds the brightest cells of an 8 x 8 grid, each as one of three classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def prepare(self, images):
        sizes = tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images)
        pixels = [nn.functional.interpolate(image[None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0] for image in images]
        return Batch(torch.stack(pixels), ((SIDE, SIDE),) * len(images), sizes)

    def seen(self, batch):
        return nn.functional.adaptive_avg_pool2d(self.conv(batch.pixels), 8)

    def network(self, batch):
        return self.seen(batch), batch.originals

    def finish(self, raw):
        return [self.found(seen, size) for seen, size in zip(*raw, strict=True)]

    def found(self, seen, size):
        best, cell = seen[0].flatten().sigmoid().topk(8)
        height, width = size[0] / 8, size[1] / 8
        x, y = cell % 8 * width, cell // 8 * height
        return Detections(torch.stack((x, y, x + width, y + height), 1).float(), best.float(), cell % 3)

    def forward(self, images, targets):
        said = self.seen(self.prepare(images)).mean((2, 3))
        count = torch.tensor([float(len(target.labels)) for target in targets])
        return {"count": ((said.mean(1) - count) ** 2).mean()}


def changed(**methods):
    return type("Faulty", (Good,), methods)


def answering(change):
    """The same with each answer changed."""
    return changed(found=lambda self, seen, size: change(Good.found(self, seen, size), size))


def _in_place(self, images):
    for image in images:
        image.sub_(0.5)
    return Good.prepare(self, images)


def _one_answer(self, raw):
    return Good.finish(self, raw)[:1]


def _mixing(self, batch):
    seen, sizes = Good.network(self, batch)
    return (10 * (seen - seen.mean(0)) if len(seen) > 1 else 10 * seen), sizes


def _restless(self, batch):
    seen, sizes = Good.network(self, batch)
    return seen + torch.randn(()), sizes


def _no_blank(self, batch):
    if not batch.pixels.any():
        raise ZeroDivisionError("nothing there")
    return Good.network(self, batch)


class Hidden(Good):
    """Keeps a layer where nn.Module does not look."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 3)]

    def framework_params(self):
        return sum(p.numel() for p in self.parameters()) + sum(p.numel() for p in self.layers[0].parameters())


class Dry(Good):
    """Has a layer that no loss reaches."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)


def _nan(self, images, targets):
    losses = Good.forward(self, images, targets)
    return {"count": losses["count"] / min(len(target.labels) for target in targets)}


def _vector(self, images, targets):
    return [Good.forward(self, images, targets)["count"]]


FAULTS = {  # what the contract must call broken -> the detectors that break it
    "one answer an image": [changed(finish=_one_answer), changed(finish=lambda self, raw: None)],
    "tensors of the right kind": [
        answering(lambda one, _: {"boxes": one.boxes, "scores": one.scores, "labels": one.labels}),
        answering(lambda one, _: Detections(one.boxes, one.scores, one.labels.float())),
        answering(lambda one, _: Detections(one.boxes[:, :3], one.scores, one.labels)),
    ],
    "corners x1 y1 x2 y2": [answering(lambda one, _: Detections(one.boxes[:, [2, 3, 0, 1]], one.scores, one.labels))],
    "boxes inside the image": [
        answering(lambda one, _: Detections(3 * one.boxes, one.scores, one.labels)),
        answering(lambda one, _: Detections(one.boxes * torch.nan, one.scores, one.labels)),
    ],
    "scores are probabilities": [answering(lambda one, _: Detections(one.boxes, one.scores + 1, one.labels))],
    "best first": [answering(lambda one, _: Detections(one.boxes, one.scores.flip(0), one.labels))],
    "labels 0..C-1": [
        answering(lambda one, _: Detections(one.boxes, one.scores, one.labels + 1)),
        answering(lambda one, _: Detections(one.boxes, one.scores, one.labels - 1)),
    ],
    "answers": [changed(network=_no_blank)],
    "the image is left as it was": [changed(prepare=_in_place)],
    "asked twice, answered alike": [changed(network=_restless)],
    "alone and in company alike": [changed(network=_mixing)],
    "pixels of the image as given": [
        answering(lambda one, size: Detections(one.boxes * torch.tensor([SIDE / size[1], SIDE / size[0]] * 2), one.scores, one.labels)),
        answering(lambda one, size: Detections(one.boxes / torch.tensor([size[1], size[0]] * 2), one.scores, one.labels)),
    ],
    "parameters as the framework counts them": [Hidden],
    "losses are named scalars": [changed(forward=_vector)],
    "losses are finite": [changed(forward=_nan)],
    "losses reach every trainable parameter": [Dry],
}
