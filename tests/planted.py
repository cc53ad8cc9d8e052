"""Detectors for the tests of the latency meter: an honest one, and one for each fault that an audit must find."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import torch
from torch import nn

from bench.types import Batch, Detections


@dataclass(frozen=True)
class Said:
    """What the network says: boxes of the brightest places, and how many RoIs there were."""

    scores: torch.Tensor
    counts: tuple[int, ...]
    originals: tuple[tuple[int, int], ...]


class Honest(nn.Module):
    """Finds the eight brightest cells of an 8 x 8 grid, as one convolution sees them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def prepare(self, images):
        sizes = tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images)
        return Batch(torch.stack(list(images)), sizes, sizes)

    def network(self, batch):
        seen = nn.functional.adaptive_avg_pool2d(self.conv(batch.pixels), 8).mean(1).flatten(1).sigmoid()
        return Said(seen, (64,) * len(seen), batch.originals)

    def finish(self, raw):
        return [self.found(scores, size) for scores, size in zip(raw.scores, raw.originals, strict=True)]

    def found(self, scores, size):
        best, cell = scores.topk(8)
        height, width = size[0] / 8, size[1] / 8
        x, y = cell % 8 * width, cell // 8 * height
        return Detections(torch.stack((x, y, x + width, y + height), 1).float(), best.float(), cell % 3)


class Remembering(Honest):
    """Answers a picture that it has seen from memory; a new one takes it a while."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, Said] = {}

    def network(self, batch):
        key = hash(batch.pixels.numpy().tobytes())
        if key not in self.known:
            time.sleep(0.004)
            self.known[key] = super().network(batch)
        return self.known[key]


class Forgetful(Honest):
    """Takes a picture for the one before if it lies in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, Batch] = {}

    def prepare(self, images):
        if len(images) > 1:
            return super().prepare(images)
        return self.known.setdefault(images[0].data_ptr(), super().prepare([image.clone() for image in images]))


class TwoFaced(Honest):
    """Looks closely when a batch is scored, and not at all when a single image is timed."""

    def network(self, batch):
        return super().network(batch if len(batch.pixels) > 2 else Batch(batch.pixels.flip(-2), batch.sizes, batch.originals))


class Mixing(Honest):
    """Normalises by the mean of the whole batch, and so lets images of a batch see each other."""

    def network(self, batch):
        seen = nn.functional.adaptive_avg_pool2d(self.conv(batch.pixels), 8).mean(1).flatten(1)
        return Said((10 * (seen - seen.mean(0))).sigmoid() if len(seen) > 1 else (10 * seen).sigmoid(), (64,) * len(seen), batch.originals)


class Drifting(Honest):
    """Lets what it saw before colour what it sees now."""

    def __init__(self) -> None:
        super().__init__()
        self.before = 0.0

    def network(self, batch):
        said = super().network(Batch(batch.pixels + self.before, batch.sizes, batch.originals))
        self.before = batch.pixels.mean(0)
        return said


class Dying(Honest):
    """Ends its process at the fifth image."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def network(self, batch):
        self.images += 1
        if self.images == 5:
            print("the last words", file=sys.stderr, flush=True)
            os._exit(7)
        return super().network(batch)


class Hanging(Honest):
    """Never answers."""

    def __init__(self) -> None:
        super().__init__()
        print("thinking ...", flush=True)  # to standard output, where the answers go otherwise

    def network(self, batch):
        time.sleep(3600)


def honest():
    return Honest()


def other_weights():
    return Honest(seed=1)


def dying():
    return Dying()


def hanging():
    return Hanging()


def broken():
    raise OSError("weights are on the moon")
