"""`scenes`, the embedded dataset: drawn on the fly from (name, split, index), nothing downloaded, nothing on disk.

Ten classes differ only in the arrangement of three to six parts. The first n of six shapes make an object of n parts, n and all colours are drawn
alike for every class, so counts, shapes and colours tell nothing. The classes come in five twins, whose disc and cross have changed places.
A box is tight around the object's full extent, what others hide of it included; every object lies wholly inside its image.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.datasets.scene_parts import ARRANGEMENTS, CLASSES, SHAPES, noise, sprite, textures
from bench.datasets.scene_plans import RECTANGLE, SCENES, Plan, Scenes, Window, plan, single_plan
from bench.datasets.scene_variants import VARIANTS
from bench.types import GroundTruth, Target, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from bench.datasets.source import Data

GENERATOR = 1  # raise it with every change that alters a pixel or a box; a frozen name then needs a new one
DOMAINS = {"train": 0, "val": 1, "test": 2}  # of seeds: no scene of one split is ever drawn for another
SINGLE_DOMAIN = 3  # of the single objects
# name -> frozen_hash(name): these may not change any more. They were tuned with the FPN baseline alone (the crowded ones on boxes alone), before any
# method was trained on them.
FROZEN = {
    "scenes-v1": "5ebd01e00048269284c3948c398f9d9dac405d1fe9f313c0493449099372d58c",
    "scenes-v1-uninformative": "7144a66c9bafb052ecd971986dd3b801f6b8fc9c2acd2c4a91873d3ac59fe7e6",
    "scenes-v1-onesize": "bd97acee69ccac95eb2e2312a5bf494b6211d9f6e92a1d4f86d1ca0c75c7240a",
    "scenes-v1-sparse": "86d63c79c5cfd9791db3c5bd39f10031e2ec6cd60939a42b9a1a95589b20953d",
    "scenes-v1-crowded": "a0067e867b4ed7a49684890b90f5286101bef08194cb56eedfca3a648456687f",
}


def named(name: str) -> Scenes:
    """The parameters of that name; UserError lists the names there are."""
    if name not in SCENES:
        raise UserError(f"--data {name!r}: there are no scenes of that name; allowed are {', '.join(SCENES)}")
    return SCENES[name]


def _cut(bank: NDArray[np.int16], window: Window, side: int) -> NDArray[np.int16]:
    return bank[window.texture, window.top : window.top + side, window.left : window.left + side]


def _background(scene: Plan, side: int) -> NDArray[np.int16]:
    """The ground colour and its two textures, (3, side, side)."""
    canvas = np.empty((3, side, side), np.int16)
    bank = textures()
    first, second = (_cut(bank, window, side) for window in scene.windows[:2])
    for channel, value in enumerate(scene.ground):
        np.multiply(first, scene.windows[0].strength[channel], out=canvas[channel])
        canvas[channel] += second * np.int16(scene.windows[1].strength[channel])
        canvas[channel] >>= 6
        canvas[channel] += value
    return canvas


def render(scene: Plan, side: int, grain: int) -> NDArray[np.uint8]:
    """Paint a plan: (3, side, side). `grain` is the standard deviation of the noise."""
    canvas = _background(scene, side)
    shading = _cut(textures(), scene.windows[2], side) * np.int16(scene.windows[2].strength[0]) >> 6
    for shape, (x0, y0, x1, y1), colour, opacity in scene.patches:
        under = canvas[:, y0:y1, x0:x1]
        change = np.array(colour, np.int16)[:, None, None] + shading[y0:y1, x0:x1]
        change -= under
        change *= np.int16(opacity) if shape == RECTANGLE else sprite(shape, y1 - y0, x1 - x0)
        change >>= 6
        under += change
    top, left = scene.grain
    canvas += noise(grain)[:, top : top + side, left : left + side]
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


class SceneSplit:
    """A bench.types.Split of scenes. What was drawn stays in memory, as bytes, for the life of the process."""

    classes = CLASSES

    def __init__(self, name: str, scenes: Scenes, split: str) -> None:
        self.name = f"{name}/{split}"
        self.scenes = scenes
        self.domain = DOMAINS[split]
        self.digest = digest(scenes)
        self._length = int(getattr(scenes, split))
        self._drawn = np.zeros(self._length, bool)
        self._truth: dict[int, tuple[NDArray[np.int32], NDArray[np.int64]]] = {}

    @cached_property
    def _cache(self) -> NDArray[np.uint8]:  # (N, H, W, 3); empty, so that only what is drawn takes memory
        return np.empty((self._length, self.scenes.canvas, self.scenes.canvas, 3), np.uint8)

    def __len__(self) -> int:
        return self._length

    def _known(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(f"{self.name}: image {index}; there are {self._length}")
        return index

    def _note(self, index: int, scene: Plan) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        boxes = np.array([thing.box for thing in scene.things], np.int32).reshape(-1, 4)
        self._truth[index] = (boxes, np.array([thing.label for thing in scene.things], np.int64))
        return self._truth[index]

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        """One image, (H, W, 3), drawn when first asked for."""
        if not self._drawn[self._known(index)]:
            scene = plan(self.scenes, self.domain, index)
            self._note(index, scene)
            self._cache[index] = render(scene, self.scenes.canvas, self.scenes.noise).transpose(1, 2, 0)
            self._drawn[index] = True
        pixels: NDArray[np.uint8] = self._cache[index]
        return pixels

    def pixels(self, indices: Iterable[int]) -> NDArray[np.uint8]:
        """Images as bytes, (N, H, W, 3), a copy."""
        return np.stack([self._pixels(int(index)) for index in indices])

    def truth(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Boxes (N, 4) x1 y1 x2 y2 and labels (N,), without painting anything."""
        return self._truth.get(self._known(index)) or self._note(index, plan(self.scenes, self.domain, index))

    def image(self, index: int) -> Tensor:
        """The image, (3, H, W) float32 in 0..1."""
        import torch

        return torch.from_numpy(self._pixels(index)).permute(2, 0, 1).contiguous().float() / 255

    def target(self, index: int) -> Target:
        """Its ground truth, without painting the image."""
        import torch

        boxes, labels = self.truth(index)
        none = torch.zeros(len(labels), dtype=torch.bool)
        return Target(torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(labels.copy()), none, none.clone())

    def image_id(self, index: int) -> int:
        """The index itself."""
        return self._known(index)

    def image_name(self, index: int) -> str:
        """What an error message calls it."""
        return f"{self.name}/{self._known(index):05d}"

    def ground_truth(self) -> GroundTruth:
        """All annotations as columns, without painting an image."""
        truths = [self.truth(index) for index in range(self._length)]
        boxes = np.concatenate([boxes for boxes, _ in truths]).astype(np.float64)
        none = np.zeros(len(boxes), bool)
        return GroundTruth(
            image_ids=np.arange(self._length, dtype=np.int64),
            image=np.repeat(np.arange(self._length, dtype=np.int64), [len(labels) for _, labels in truths]),
            boxes=boxes,
            labels=np.concatenate([labels for _, labels in truths]),
            crowd=none,
            difficult=none.copy(),
            area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            classes=CLASSES,
        )


@lru_cache(maxsize=16)
def _split(name: str, scenes: Scenes, split: str) -> SceneSplit:
    return SceneSplit(name, scenes, split)


def open_scenes(data: Data, split: str) -> SceneSplit:
    """The "train", "val" or "test" scenes of a name in SCENES; the same object each time, so that its memory is shared."""
    return _split(data.name, named(data.name), split)


def open_variant(data: Data, split: str) -> SceneSplit:
    """The same for a name in VARIANTS."""
    return _split(data.name, VARIANTS[data.name], split)


def single_objects(data: Data, count: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Objects alone, to pretrain a backbone: images (count, size, size, 3), labels (count,). None of them is in a split."""
    scenes = replace(named(data.name), canvas=size)
    images, labels = np.empty((count, size, size, 3), np.uint8), np.empty(count, np.int64)
    for index in range(count):
        scene = single_plan(scenes, SINGLE_DOMAIN, index)
        images[index] = render(scene, size, scenes.noise).transpose(1, 2, 0)
        labels[index] = scene.things[0].label
    return images, labels


def digest(scenes: Scenes) -> str:
    """A hash of all that decides the scenes: the parameters, the arrangements and the generator's version."""
    parts: Any = {"generator": GENERATOR, "scenes": asdict(scenes), "shapes": SHAPES, "arrangements": ARRANGEMENTS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def frozen_hash(name: str, images: int = 100) -> str:
    """A hash of the pixels, boxes and labels of so many images, drawn in turn from train, val and test."""
    scenes, total = VARIANTS.get(name) or named(name), hashlib.sha256()
    for index in range(images):
        scene = plan(scenes, index % len(DOMAINS), index // len(DOMAINS))
        total.update(render(scene, scenes.canvas, scenes.noise).tobytes())
        total.update(np.array([(*thing.box, thing.label) for thing in scene.things], "<i4").tobytes())
    return total.hexdigest()
