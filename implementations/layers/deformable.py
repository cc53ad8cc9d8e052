"""Deformable convolution (Dai et al., 2017): each tap of the kernel reads the map at its own place, moved by an offset, bilinearly.

On a CPU torchvision's operator walks the map channel by channel, one number at a time. Here each tap is a weighted sum of four rows of the map with
its channels last, which torch's `embedding_bag` does in vectors and on all threads, and the kernel is one matrix product.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rows_of(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as one row a position, (B, H * W, C); a view where the channels are last in memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def corners(offsets: Tensor, kernel: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The four positions that each tap reads, as places in H * W, and how much of each.

    Offsets (B, H * W, K, 2) as dy dx in cells -> (B, H * W, K, 4) both. What lies outside the map counts zero, as in torchvision's operator.
    """
    height, width = size
    taps = torch.arange(kernel, device=offsets.device) - kernel // 2
    tap_y, tap_x = (axis.flatten() for axis in torch.meshgrid(taps, taps, indexing="ij"))
    places = torch.arange(height * width, device=offsets.device)[:, None]
    lines, line_weights = _line(offsets[..., 0] + (places // width + tap_y), height)
    columns, column_weights = _line(offsets[..., 1] + (places % width + tap_x), width)
    index = lines[..., :, None] * width + columns[..., None, :]
    return index.flatten(-2), (line_weights[..., :, None] * column_weights[..., None, :]).flatten(-2)


def _line(at: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The two cells around each place of an axis and their weights, (..., 2) both; cells outside have weight 0."""
    at = at.clamp(-2, length + 1)  # both neighbours of these are outside already
    first = at.floor()
    cells = torch.stack((first, first + 1), -1)
    share = torch.stack((first + 1 - at, at - first), -1)
    return cells.clamp(0, length - 1).long(), share * ((cells >= 0) & (cells < length))


def sampled(x: Tensor, offsets: Tensor, kernel: int) -> Tensor:
    """What the taps read: a map (B, C, H, W), offsets (B, H * W, K, 2) -> (B, H * W, K * C), tap by tap."""
    batch, channels, height, width = x.shape
    if x.is_meta:  # the operator below is unknown to counters, and samples count nothing in multiply-adds
        return x.new_empty(batch, height * width, kernel * kernel * channels)
    index, weights = corners(offsets, kernel, (height, width))
    first = torch.arange(batch, device=x.device).view(-1, 1, 1, 1) * (height * width)
    table = rows_of(x).flatten(0, 1)
    read = F.embedding_bag((index + first).view(-1, 4), table, mode="sum", per_sample_weights=weights.view(-1, 4))
    return read.view(batch, height * width, -1)


def sampled_at(x: Tensor, offsets: Tensor, image: Tensor, place: Tensor) -> Tensor:
    """What the taps of some positions read: a map (B, C, H, W), of each position its offsets (M, K, 2), its image (M,) and its place in H * W (M,).

    Gives (M, K * C), tap by tap: the rows of `sampled` at these positions.
    """
    _, channels, height, width = x.shape
    kernel = math.isqrt(offsets.shape[1])
    taps = torch.arange(kernel, device=x.device) - kernel // 2
    tap_y, tap_x = (axis.flatten() for axis in torch.meshgrid(taps, taps, indexing="ij"))
    lines, line_weights = _line(offsets[..., 0] + ((place // width)[:, None] + tap_y), height)
    columns, column_weights = _line(offsets[..., 1] + ((place % width)[:, None] + tap_x), width)
    index = (image * (height * width))[:, None, None, None] + lines[..., :, None] * width + columns[..., None, :]
    weights = line_weights[..., :, None] * column_weights[..., None, :]
    read = F.embedding_bag(index.view(-1, 4), rows_of(x).flatten(0, 1), mode="sum", per_sample_weights=weights.view(-1, 4))
    return read.view(len(place), offsets.shape[1] * channels)


class DeformableConv(nn.Module):
    """A square deformable convolution of stride 1 that keeps the map's size.

    Places are read in float32 whatever the precision, from offsets as precise as they are given; the product follows the precision at hand.
    """

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """A map (B, C, H, W) and offsets (B, H * W, K, 2) in cells -> rows (B, H * W, out)."""
        if x.device.type not in {"cpu", "meta"}:
            return self._by_torchvision(x.float(), offsets.float())
        return F.linear(sampled(x.float(), offsets.float(), self.kernel), self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)

    def at(self, x: Tensor, offsets: Tensor, image: Tensor, place: Tensor) -> Tensor:
        """The rows (M, out) of some positions alone; as sampled_at is given them."""
        read = sampled_at(x.float(), offsets.float(), image, place)
        return F.linear(read, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)

    def _by_torchvision(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Whole maps on a GPU, by torchvision's operator."""
        from torchvision.ops import deform_conv2d  # here, not above: it takes as long to import as torch, and costs are counted without it

        moved = offsets.flatten(2).transpose(1, 2).unflatten(2, x.shape[2:]).contiguous()
        with torch.autocast(x.device.type, enabled=False):
            return rows_of(deform_conv2d(x.contiguous(), moved, self.weight.float(), self.bias.float(), padding=self.kernel // 2))
