"""Image files to tensors, and the hash of a list of images.

EXIF orientation is not applied: boxes are on the stored pixels, as pycocotools has it. A file whose annotations were drawn on the turned image has
width and height swapped, which the check of the size finds. Alpha is dropped, CMYK, palettes and gray become RGB, 16 bits keep their upper range.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bench.datasets.annotations import reason
from bench.types import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

    from bench.types import Split


def read_image(path: Path, *, width: int, height: int) -> Tensor:
    """The image of a file, (3, height, width) float32 in 0..1, RGB; UserError if it cannot be decoded or has another size than is annotated."""
    import torch

    pixels = torch.from_numpy(_decode(path, width, height))
    return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div_(255)


def _decode(path: Path, width: int, height: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            size = image.size  # known before anything is decoded, so that a bomb never unfolds
            array = _rgb(image) if size == (width, height) else None
    except FileNotFoundError as error:
        raise UserError(f"{path}: the image is gone since the dataset was opened; put it back") from error
    except Exception as error:  # decoders raise a dozen kinds: SyntaxError, struct.error, EOFError, DecompressionBombError
        raise UserError(
            f"{path}: not a readable image ({reason(error)}); allowed are whole JPEG, PNG or other files that Pillow reads; copy it anew"
        ) from error
    if array is None:
        turned = "; it may be turned by EXIF, which is not applied" if size == (height, width) else ""
        raise UserError(
            f"{path}: the image is {size[0]}x{size[1]}, the annotations say {width}x{height}{turned}; correct the annotations or the file"
        )
    return array


def _rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8, writable."""
    if image.mode.startswith("I"):  # 16-bit gray, which convert() would clip at 255
        gray = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its pixels are floats, of no known range")
    if image.mode == "P":  # a palette may hold transparency, which a straight conversion to RGB stumbles over
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def image_list_hash(split: Split, indexes: Iterable[int]) -> str:
    """A hash over names, sizes and pixels of the images at these indexes, in that order: it names the list that a latency was measured on."""
    digest = hashlib.sha256()
    for index in indexes:
        pixels = split.image(index)
        digest.update(f"{split.image_name(index)} {tuple(pixels.shape)}\n".encode(errors="surrogateescape"))
        digest.update(pixels.contiguous().numpy().tobytes())
    return digest.hexdigest()
