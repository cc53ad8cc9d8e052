"""What scenes are made of: part shapes, the ten arrangements, textures, noise. Integer arithmetic, made once a process, equal on every machine."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Ints = NDArray[np.int16]

OPAQUE = 64  # a mask's full value: 8 x 8 samples a pixel, and 64 * 511 still fits in int16
BANK = 384  # side of textures and noise in pixels; a scene cuts its own window out of them

SHAPES = ("disc", "triangle", "cross", "ring", "square", "diamond")  # an object of n parts has the first n, whatever its class

# Columns and rows -1, 0, 1 of each part in the order of SHAPES. The first three, the key parts, tell the class alone, and span three cells one
# way at least, so that a part's share of an object's size is the same for all classes. The rows are y downwards.
PATTERNS = {
    "row": ((-1, 0), (0, 0), (1, 0), (0, -1), (0, 1), (-1, 1)),
    "column": ((0, -1), (0, 0), (0, 1), (1, -1), (-1, -1), (1, 1)),
    "vee": ((-1, -1), (0, 1), (1, -1), (0, 0), (-1, 1), (1, 0)),
    "slope": ((-1, -1), (0, 0), (1, 1), (1, -1), (-1, 1), (0, 1)),
    "corner": ((-1, -1), (-1, 1), (1, 1), (-1, 0), (0, 1), (1, 0)),
}
COMMON = ((-1, -1), (0, 0), (1, 1), (1, -1), (0, 1), (-1, 0))  # what all classes become at similarity 1

Cells = tuple[tuple[float, float], ...]


def swapped(cells: Cells) -> Cells:
    """The twin of an arrangement: its disc and its cross have changed places, and nothing else."""
    return (cells[2], cells[1], cells[0], *cells[3:])


CLASSES = tuple(f"{name}-{side}" for name in PATTERNS for side in ("a", "b"))
ARRANGEMENTS: tuple[Cells, ...] = tuple(twin for cells in PATTERNS.values() for twin in (cells, swapped(cells)))


def uniforms(domain: int, index: int) -> Callable[[], float]:
    """Numbers in [0, 1) that depend on (domain, index) alone: Philox's raw bits, which NumPy keeps stable between versions."""
    bits = np.random.Philox(key=np.array([index, domain], dtype=np.uint64))

    def stream() -> Iterator[float]:
        while True:
            yield from ((bits.random_raw(256) >> np.uint64(11)) * 2.0**-53).tolist()

    return stream().__next__


def _disc(x: Any, y: Any) -> Any:
    return x * x + y * y <= 1


def _triangle(x: Any, y: Any) -> Any:
    return 2 * abs(x) <= 1 + y


def _cross(x: Any, y: Any) -> Any:
    return (abs(3 * x) <= 1) | (abs(3 * y) <= 1)


def _ring(x: Any, y: Any) -> Any:
    return _disc(x, y) & (x * x + y * y >= 0.3)


def _square(x: Any, y: Any) -> Any:
    return (x == x) & (y == y)  # noqa: PLR0124 - true everywhere, at the shape that x and y broadcast to


def _diamond(x: Any, y: Any) -> Any:
    return abs(x) + abs(y) <= 1


_INSIDE: tuple[Callable[[Any, Any], Any], ...] = (_disc, _triangle, _cross, _ring, _square, _diamond)


@cache
def sprite(shape: int, height: int, width: int) -> Ints:
    """Coverage of a shape that fills a box: (height, width), 0..OPAQUE, counted on 8 x 8 samples a pixel."""
    y = ((2 * np.arange(8 * height) + 1) / (8 * height) - 1)[:, None]
    x = ((2 * np.arange(8 * width) + 1) / (8 * width) - 1)[None, :]
    inside: NDArray[np.bool_] = _INSIDE[shape](x, y)
    counted: Ints = inside.reshape(height, 8, width, 8).sum(axis=(1, 3)).astype(np.int16)
    return counted


def _random_grid(seed: int, *shape: int) -> NDArray[np.int64]:
    """Integers 0..255 from a domain of their own."""
    bits = np.random.Philox(key=np.array([seed, 2**63], dtype=np.uint64))
    return (bits.random_raw(int(np.prod(shape))) >> np.uint64(56)).astype(np.int64).reshape(shape)


def _value_noise(seed: int, cell: int) -> NDArray[np.int64]:
    """A random grid, interpolated linearly over cells of so many pixels: (BANK, BANK), -64..64."""
    grid = _random_grid(seed, BANK // cell + 1, BANK // cell + 1)
    low, step = np.divmod(np.arange(BANK, dtype=np.int64), cell)
    rows = grid[low] * (cell - step)[:, None] + grid[low + 1] * step[:, None]
    both: NDArray[np.int64] = rows[:, low] * (cell - step) + rows[:, low + 1] * step
    return both * 128 // (255 * cell * cell) - 64


def _stripes(right: int, down: int, period: int) -> NDArray[np.int64]:
    """A triangle wave along (right, down): (BANK, BANK), -64..64."""
    pixel = np.arange(BANK, dtype=np.int64)
    phase: NDArray[np.int64] = (right * pixel[None, :] + down * pixel[:, None]) % period
    return np.abs(2 * phase - period) * 128 // period - 64


@cache
def textures() -> Ints:
    """Smooth noise, mottles with edges, stripes and checks: (T, BANK, BANK), about -64..64."""
    smooth = [_value_noise(seed, cell) for seed, cell in enumerate((3, 4, 6, 8, 12, 16, 24, 32))]
    mottles = [np.clip(8 * _value_noise(100 + seed, cell), -64, 64) for seed, cell in enumerate((4, 6, 8, 12, 16, 24))]
    stripes = [_stripes(right, down, period) for right, down, period in ((1, 0, 8), (0, 1, 12), (1, 1, 11), (1, -2, 23), (3, 1, 31), (2, -3, 48))]
    checks = [np.where((first > 0) ^ (second > 0), 64, -64) for first, second in ((stripes[0], stripes[1]), (stripes[2], stripes[3]))]
    return np.stack(smooth + mottles + stripes + checks).astype(np.int16)


@cache
def noise(level: int) -> Ints:
    """Grain for three channels: (3, BANK, BANK), standard deviation `level` (of 255), the sum of four uniforms."""
    total = _random_grid(1000, 4, 3, BANK, BANK).sum(axis=0) - 510  # standard deviation 147.8
    grain: Ints = (total * level // 148).astype(np.int16)
    return grain
