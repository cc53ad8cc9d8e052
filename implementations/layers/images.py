"""Images as a network wants them: resized by the shorter side, normalised, padded to one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1
MULTIPLE = 32  # the coarsest stride of the nets


def normalise(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 -> zero mean, unit deviation, in the memory order that the convolutions run fastest in."""
    scale = pixels.new_tensor(STD).reciprocal()
    shift = pixels.new_tensor(MEAN) * scale
    return torch.addcmul(-shift.view(-1, 1, 1), pixels, scale.view(-1, 1, 1)).contiguous(memory_format=torch.channels_last)


def resized(size: tuple[int, int], shorter: int, longer: int) -> tuple[int, int]:
    """Height and width that bring the shorter side to `shorter`, unless the longer would pass `longer`; rounded down, as torchvision does."""
    factor = min(shorter / min(size), longer / max(size))
    return int(size[0] * factor), int(size[1] * factor)


def padded(side: int) -> int:
    """The next multiple of 32."""
    return -(-side // MULTIPLE) * MULTIPLE


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) to `size`, bilinear; the same tensor where it has that size."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def prepare(images: Sequence[Tensor], shorter: int, longer: int) -> Batch:
    """Resize, normalise, pad with zeros at the right and the bottom."""
    originals = tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images)
    sizes = tuple(resized(size, shorter, longer) for size in originals)
    height, width = padded(max(h for h, _ in sizes)), padded(max(w for _, w in sizes))
    if len(set(originals)) == 1:  # one resize and one normalisation for all
        pixels = normalise(resize(torch.stack(list(images)), sizes[0]))
        if sizes[0] != (height, width):
            pixels = F.pad(pixels, (0, width - sizes[0][1], 0, height - sizes[0][0])).contiguous(memory_format=torch.channels_last)
        return Batch(pixels, sizes, originals)
    pixels = images[0].new_zeros(len(images), 3, height, width).contiguous(memory_format=torch.channels_last)
    for slot, image, (h, w) in zip(pixels, images, sizes, strict=True):
        slot[:, :h, :w] = normalise(resize(image.unsqueeze(0), (h, w)))[0]
    return Batch(pixels, sizes, originals)
