"""Scale jitter: each training image at a side of its own, drawn from its own seed, in one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch
from implementations.layers import images as image_layer
from implementations.layers.sampling import PURPOSES, lots


def jittered(images: Sequence[Tensor], seeds: Sequence[int], sides: Sequence[int], longest: int) -> Batch:
    """Images whose shorter side is one of `sides` px, all alike, unless the longer would pass `longest`."""
    lot = lots(seeds, 1, purpose=PURPOSES - 1, device=torch.device("cpu"))[:, 0].tolist()
    return side_by_side([image_layer.prepare([image], sides[int(chance * len(sides))], longest) for image, chance in zip(images, lot, strict=True)])


def side_by_side(batches: Sequence[Batch]) -> Batch:
    """Batches of one image as one batch, padded at the right and the bottom to the largest."""
    height, width = (max(batch.pixels.shape[dim] for batch in batches) for dim in (2, 3))
    padded = [F.pad(batch.pixels, (0, width - batch.pixels.shape[3], 0, height - batch.pixels.shape[2])) for batch in batches]
    sizes, originals = (tuple(pair for batch in batches for pair in getattr(batch, name)) for name in ("sizes", "originals"))
    return Batch(torch.cat(padded).contiguous(memory_format=torch.channels_last), sizes, originals)
