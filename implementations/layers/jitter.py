"""Scale jitter: each image of a batch learnt from at a side of its own, drawn from the image's seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch, Target
from implementations.layers import images as image_layer
from implementations.layers.sampling import PURPOSES, lots


def jittered(images: Sequence[Tensor], targets: Sequence[Target], sides: tuple[int, ...], longest: int) -> Batch:
    """Images with their shorter side one of `sides` px, unless the longer would pass `longest`; padded at the right and the bottom."""
    lot = lots([target.seed for target in targets], 1, purpose=PURPOSES - 1, device=torch.device("cpu"))[:, 0].tolist()
    alone = [image_layer.prepare([image], sides[int(chance * len(sides))], longest) for image, chance in zip(images, lot, strict=True)]
    return side_by_side(alone)


def side_by_side(batches: Sequence[Batch]) -> Batch:
    """Batches of one image as one batch, padded to the largest."""
    height, width = (max(batch.pixels.shape[dim] for batch in batches) for dim in (2, 3))
    padded = [F.pad(batch.pixels, (0, width - batch.pixels.shape[3], 0, height - batch.pixels.shape[2])) for batch in batches]
    sizes, originals = (tuple(pair for batch in batches for pair in getattr(batch, name)) for name in ("sizes", "originals"))
    return Batch(torch.cat(padded).contiguous(memory_format=torch.channels_last), sizes, originals)
