"""Anchors: reference boxes of every cell of every feature map, as torchvision lays them out, cached by map size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

GridSizes = tuple[tuple[int, int], ...]


def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    """Anchors around the origin, ratio by ratio, (len(ratios) * len(sizes), 4); a ratio is height over width; rounded to pixels."""
    root = torch.tensor(ratios).sqrt().unsqueeze(1)
    scale = torch.tensor(sizes, dtype=torch.float32)
    width, height = (scale / root).flatten(), (scale * root).flatten()
    return (torch.stack((-width, -height, width, height), 1) / 2).round()


def grid_anchors(cell: Tensor, grid: tuple[int, int], image: tuple[int, int]) -> Tensor:
    """The cell's anchors at every cell, row by row, (H * W * A, 4). The step is image // grid, as torchvision has it."""
    y = torch.arange(grid[0], dtype=torch.float32) * (image[0] // grid[0])
    x = torch.arange(grid[1], dtype=torch.float32) * (image[1] // grid[1])
    y, x = (axis.flatten() for axis in torch.meshgrid(y, x, indexing="ij"))
    return (torch.stack((x, y, x, y), 1).unsqueeze(1) + cell.unsqueeze(0)).reshape(-1, 4)


@dataclass
class Anchors:
    """All levels' anchors; `sizes` holds the sides in pixels of each level."""

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    cache: dict[tuple[GridSizes, tuple[int, int], str], Tensor] = field(default_factory=dict, repr=False)

    @property
    def per_cell(self) -> int:
        """Anchors of one cell, the same on every level."""
        return len(self.sizes[0]) * len(self.ratios)

    def __call__(self, grids: GridSizes, image: tuple[int, int], device: torch.device) -> Tensor:
        """Every anchor, level by level, (N, 4)."""
        key = (grids, image, str(device))
        if key not in self.cache:
            cells = [cell_anchors(sizes, self.ratios) for sizes in self.sizes]
            levels = [grid_anchors(cell, grid, image) for cell, grid in zip(cells, grids, strict=True)]
            self.cache[key] = torch.cat(levels).to(device)
        return self.cache[key]
