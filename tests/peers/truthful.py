"""Builders for the tests of adapters: what finds every bright square, what cannot learn, what answers outside, what is not made."""

from __future__ import annotations

import torch
from faulty import Good
from torch import nn

from bench.types import Batch, Detections


class Truthful(nn.Module):
    """Finds the box around all bright pixels of each image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def prepare(self, images):
        sizes = tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images)
        return Batch(torch.stack(list(images)), sizes, sizes)

    def network(self, batch):
        return batch.pixels.mean(1) * self.scale

    def finish(self, raw):
        return [self.found(bright > 0.5) for bright in raw]

    def found(self, bright):
        rows, columns = (bright.any(axis).nonzero()[:, 0] for axis in (1, 0))
        if not len(rows):
            return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Detections(torch.tensor([corners], dtype=torch.float32), torch.tensor([0.9]), torch.tensor([0]))


def make():
    return Truthful()


class Mute:
    why_not = "it is a graph"

    def __init__(self):
        good = Good().eval()
        self.prepare, self.network, self.finish = good.prepare, good.network, good.finish


def mute():
    return Mute()


class Outside(Good):
    def found(self, seen, size):
        one = super().found(seen, size)
        return Detections(one.boxes + 1000, one.scores, one.labels)


def outside():
    return Outside()


def broken():
    raise OSError("weights are on the moon")
