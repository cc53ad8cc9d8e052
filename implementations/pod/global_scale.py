"""Section 3.1: the global scale learner, a 3x3 convolution whose taps stand apart by a fractional scale that the map itself predicts."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import UserError

Start = Literal["plain", "he bias 1", "he"]
Sharing = Literal["image", "roi"]
TAPS = (-1.0, 0.0, 1.0)  # the paper's H and W


def checked(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """UserError for an option that is not allowed."""
    if value not in allowed:
        raise UserError(f"{option} is {value!r}; allowed: {', '.join(map(repr, allowed))}; give one of them")


class ScalePredictor(nn.Module):
    """Global average pooling, then a linear layer to the scales in both directions."""

    def __init__(self, channels: int, *, start: Start = "plain", sharing: Sharing = "image") -> None:
        """`start`: of the linear layer; `sharing`: whether regions of one image share the mean of what they predict, or have a scale each."""
        super().__init__()
        checked("start", start, get_args(Start))
        checked("sharing", sharing, get_args(Sharing))
        self.linear = nn.Linear(channels, 2)
        self.sharing = sharing
        nn.init.kaiming_normal_(self.linear.weight) if start != "plain" else nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, 0.0 if start == "he" else 1.0)

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (d_h, d_w) in cells, (B, 2) float32. `members` (B,) int64: the image of each, where they are regions."""
        if x.is_meta:
            return self.linear(x.mean((2, 3)))
        pooled = x.mean((2, 3), dtype=torch.float32)
        with torch.autocast(x.device.type, enabled=False):  # a scale of 8.49 has too few digits in bfloat16
            scales: Tensor = self.linear(pooled)
        return scales if members is None or self.sharing == "roi" else of_images(scales, members)[members]


def of_images(values: Tensor, members: Tensor) -> Tensor:
    """The mean (I, D) of the values (R, D) of each image; zeros for an image without any."""
    count = int(members.max()) + 1 if len(members) else 0
    sums = values.new_zeros(count, values.shape[1]).index_add(0, members, values)
    return sums / torch.bincount(members, minlength=count).clamp(min=1)[:, None]


def interpolation(scale: Tensor, stride: int, length: int) -> Tensor:
    """lambda(p, q) = max(0, 1 - |p - q|) of every sampled place p and cell q of one direction.

    Scales (B,) in cells, `length` cells -> (B, length / stride rounded up, 3, length). What lies outside of the map is zero. Its gradient at a cell
    is that towards the next one, as in torchvision: that of the formula as printed is 0 there, and a scale that starts at 1 would never move.
    """
    cells = torch.arange(length, device=scale.device, dtype=scale.dtype)
    taps = torch.tensor(TAPS, device=scale.device, dtype=scale.dtype)
    places = cells[::stride, None] + scale[:, None, None] * taps  # (B, out, 3)
    below = places.detach().floor()
    share = (places - below)[..., None]
    return (cells == below[..., None]) * (1 - share) + (cells == below[..., None] + 1) * share


def sampled_conv(x: Tensor, weight: Tensor, scales: Tensor, stride: int = 1) -> Tensor:
    """y(h0, w0) = sum over i, j of w_ij x(h0 + i d_h, w0 + j d_w), x between cells by bilinear interpolation (section 3.1).

    x (B, C, H, W), weight (O, C, 3, 3), scales (B, 2) -> (B, O, H / stride, W / stride), rounded up. As the scale is one for all places, the
    interpolation is a matrix a direction: columns before the kernel's own sum, rows behind it, so that no nine-fold map is ever kept.
    """
    batch, channels, height, width = x.shape
    out = weight.shape[0]
    rows, columns = (interpolation(scales[:, at], stride, length) for at, length in enumerate((height, width)))
    along = x.permute(0, 3, 2, 1).reshape(batch, width, height * channels)
    spread = torch.bmm(columns.flatten(1, 2), along).view(batch, -1, height, channels).permute(0, 3, 1, 2)  # (B, C, 3 W', H)
    kernel = weight.permute(2, 0, 1, 3).reshape(3 * out, channels, 3, 1)
    mixed = F.conv2d(spread, kernel, stride=(3, 1)).unflatten(1, (3, out))  # (B, 3, O, W', H)
    upright = mixed.permute(0, 1, 4, 3, 2).reshape(batch, 3 * height, -1)  # (B, 3 H, W' O)
    return torch.bmm(rows.flatten(2), upright).view(batch, rows.shape[1], -1, out).permute(0, 3, 1, 2)


def folded(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A normalisation with fixed statistics as a factor and a bias of each channel."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class GlobalScaleConv(nn.Module):
    """A 3x3 convolution with its scale predictor, in the place of a plain one and with the same weights."""

    def __init__(self, plain: nn.Conv2d, *, start: Start = "plain", sharing: Sharing = "image") -> None:
        super().__init__()
        self.weight, self.stride = plain.weight, int(plain.stride[0])
        self.predictor = ScalePredictor(plain.in_channels, start=start, sharing=sharing)

    def forward(self, x: Tensor, norm: nn.BatchNorm2d, members: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, O, H / stride, W / stride), normalised.

        On meta, where costs are counted, the plain convolution stands for the sampled one: the rule of the counts gives sampling nothing,
        and the interpolation's matrices are our way to do it, not the method's cost.
        """
        scales = self.predictor(x, members)
        if x.is_meta:
            counted: Tensor = norm(F.conv2d(x, self.weight, stride=self.stride, padding=1))
            return counted
        factor, bias = folded(norm)
        return sampled_conv(x, self.weight * factor.view(-1, 1, 1, 1), scales, self.stride) + bias.view(-1, 1, 1)
