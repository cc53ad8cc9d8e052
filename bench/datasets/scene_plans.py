"""Where everything in a scene is, before a pixel is drawn: objects, distractors, occluders, each a list of patches. Plain numbers, no arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench.datasets.scene_parts import ARRANGEMENTS, BANK, COMMON, OPAQUE, SHAPES, textures, uniforms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Draw = Callable[[], float]

RECTANGLE = -1  # the shape of a plate and of an occluder
ATTEMPTS = 24  # places tried for an object before it is left out
PALETTE = (  # of the control whose classes are told by colour
    (200, 60, 60),
    (60, 200, 60),
    (60, 60, 200),
    (200, 200, 60),
    (200, 60, 200),
    (60, 200, 200),
    (230, 140, 40),
    (130, 60, 130),
    (225, 225, 225),
    (30, 30, 30),
)
Box = tuple[int, int, int, int]  # x0 y0 x1 y1, whole pixels, the right and lower edge outside
Colour = tuple[int, ...]  # red, green, blue, 0..255


@dataclass(frozen=True)
class Scenes:
    """What the scenes of one name are like. Lengths in pixels, colours and strengths of 255, ranges with both ends."""

    seed: int = 1
    canvas: int = 128
    train: int = 4000  # images
    val: int = 500
    test: int = 1000
    objects: tuple[int, int] = (1, 8)  # few are likelier than many
    smallest: float = 8.0  # longer side of an object's box, log-uniform ...
    largest: float = 0.8  # ... up to this share of the canvas
    parts: tuple[int, int] = (3, 6)  # drawn alike for every class
    cue: Literal["arrangement", "colour"] = "arrangement"  # what tells the classes apart; "colour": the arrangement is any class's
    similarity: float = 0.0  # 0: each class's own arrangement, 1: one arrangement for all
    jitter: float = 0.15  # of a part's place, in cells (a third of an object), either way
    tilt: float = 0.15  # tangent of an object's turn, either way
    stretch: float = 0.15  # of an object's height against its width, either way
    part: tuple[float, float] = (0.8, 1.05)  # diameter of a part, in cells
    contrast: int = 140  # of a part against its plate, a channel: half of it to all of it
    plate: float = 0.9  # opacity of the plate behind an object's parts and behind a distractor
    plate_contrast: int = 90  # of a plate against the background
    texture: int = 18  # of the background, each of two textures a channel
    shading: int = 10  # texture on parts and plates
    noise: int = 5  # standard deviation of the grain over everything
    distractors: tuple[int, int] = (0, 3)  # single parts
    occluders: tuple[int, int] = (0, 1)  # bars in front
    hidden: float = 0.25  # at most this share of an object's part boxes lies behind something
    hidden_part: float = 0.7  # and at most this share of any one part's


SCENES: dict[str, Scenes] = {
    "scenes-v1": Scenes(),
    "scenes-v1-uninformative": Scenes(cue="colour"),
    "scenes-v1-onesize": Scenes(smallest=32.0, largest=0.25),
    "scenes-v1-sparse": Scenes(objects=(1, 1), distractors=(0, 0), occluders=(0, 0)),
}


class Patch(NamedTuple):
    """One thing to paint: a shape that fills a box."""

    shape: int  # index into SHAPES, or RECTANGLE
    box: Box
    colour: Colour
    opacity: int  # 0..OPAQUE


class Window(NamedTuple):
    """A cut-out of a texture: which, its upper left corner, its strength in each channel (of 255)."""

    texture: int
    top: int
    left: int
    strength: tuple[int, ...]


@dataclass
class Thing:
    """A placed object; `hidden` grows, in pixels a part, as others come to lie in front."""

    label: int
    box: Box
    patches: list[Patch]  # its plate first
    hidden: list[int]


@dataclass(frozen=True)
class Plan:
    """A whole scene: the background, the patches in the order of painting, the objects' boxes and labels."""

    ground: Colour
    windows: tuple[Window, Window, Window]  # two of the background, one that shades every patch
    grain: tuple[int, int]  # upper left corner in the bank of noise
    patches: tuple[Patch, ...]
    things: tuple[Thing, ...]


def between(draw: Draw, low: float, high: float) -> float:
    """Uniform in [low, high)."""
    return low + (high - low) * draw()


def whole(draw: Draw, low: int, high: int) -> int:
    """Uniform in low..high, both ends included."""
    return low + int((high - low + 1) * draw())


def few(draw: Draw, ends: tuple[int, int]) -> int:
    """A count in the range, by the square of a uniform: of 1..8 one comes in a third of the scenes, eight in one of fifteen."""
    chance = draw()
    return ends[0] + int((ends[1] - ends[0] + 1) * chance * chance)


def shade(draw: Draw, colour: Colour, contrast: int) -> Colour:
    """A colour that is half to all of the contrast away from another in each channel, at random up or down as far as there is room."""
    shaded = []
    for value in colour:
        way = 2 * draw() - 1
        step = int(contrast * (0.5 + 0.5 * abs(way)))
        shaded.append(value + step if value < step or (way > 0 and value + step <= 255) else value - step)
    return tuple(shaded)


def overlap(first: Box, second: Box) -> int:
    """The area that two boxes share, in pixels."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    return wide * high if wide > 0 and high > 0 else 0


def moved(box: Box, right: int, down: int) -> Box:
    """The box elsewhere."""
    return (box[0] + right, box[1] + down, box[2] + right, box[3] + down)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _place(draw: Draw, box: Box, canvas: int) -> tuple[int, int]:
    """How far to move a box that begins at 0, 0 so that it lies anywhere inside the canvas."""
    return whole(draw, 0, canvas - box[2]), whole(draw, 0, canvas - box[3])


def _part_boxes(draw: Draw, scenes: Scenes, arrangement: int, size: int) -> list[Box]:
    """The boxes of an object's parts, in the order of SHAPES, from 0, 0 on; the longer side of all together is exactly `size`."""
    tilt = between(draw, -scenes.tilt, scenes.tilt)
    stretch = 1 + between(draw, -scenes.stretch, scenes.stretch)
    edges = []  # left, top, right, bottom in cells
    for own, common in zip(ARRANGEMENTS[arrangement][: whole(draw, *scenes.parts)], COMMON, strict=False):
        x = own[0] + scenes.similarity * (common[0] - own[0])
        y = own[1] + scenes.similarity * (common[1] - own[1])
        half = between(draw, *scenes.part) / 2
        right = x - tilt * y + between(draw, -scenes.jitter, scenes.jitter)
        down = (y + tilt * x) * stretch + between(draw, -scenes.jitter, scenes.jitter)
        edges.append((right - half, down - half, right + half, down + half))
    left, top = min(edge[0] for edge in edges), min(edge[1] for edge in edges)
    scale = size / max(max(edge[2] for edge in edges) - left, max(edge[3] for edge in edges) - top)
    return [
        (round((x0 - left) * scale), round((y0 - top) * scale), round((x1 - left) * scale), round((y1 - top) * scale)) for x0, y0, x1, y1 in edges
    ]


def _around(boxes: Iterable[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return (min(x0), min(y0), max(x1), max(y1))


def _patches(draw: Draw, scenes: Scenes, ground: Colour, parts: list[tuple[int, Box]]) -> list[Patch]:
    """A plate that just holds the parts, and the parts (shape, box) on it, each of a colour of its own."""
    plate = shade(draw, ground, scenes.plate_contrast)
    patches = [Patch(RECTANGLE, _around(box for _, box in parts), plate, int(scenes.plate * OPAQUE))]
    return patches + [Patch(shape, box, shade(draw, plate, scenes.contrast), OPAQUE) for shape, box in parts]


def new_thing(draw: Draw, scenes: Scenes, ground: Colour, size: int) -> Thing:
    """An object of a class drawn at random, at 0, 0."""
    label = int(len(ARRANGEMENTS) * draw())
    arrangement = label if scenes.cue == "arrangement" else int(len(ARRANGEMENTS) * draw())
    patches = _patches(draw, scenes, ground, list(enumerate(_part_boxes(draw, scenes, arrangement, size))))
    if scenes.cue == "colour":
        tint = tuple(min(255, max(0, value + whole(draw, -25, 25))) for value in PALETTE[label])
        patches = patches[:1] + [patch._replace(colour=tint) for patch in patches[1:]]
    return Thing(label, patches[0].box, patches, [0] * (len(patches) - 1))


def _move(thing: Thing, right: int, down: int) -> Thing:
    patches = [Patch(shape, moved(box, right, down), colour, opacity) for shape, box, colour, opacity in thing.patches]
    return Thing(thing.label, patches[0].box, patches, thing.hidden)


def _hide(box: Box, things: list[Thing], scenes: Scenes) -> bool:
    """Lay a box in front of the things; False, and nothing done, if one of them would be hidden beyond recognition."""
    changes = []
    for thing in things:
        if overlap(box, thing.box):
            parts = [patch.box for patch in thing.patches[1:]]
            areas = [_area(part) for part in parts]
            hidden = [min(area, before + overlap(box, part)) for area, before, part in zip(areas, thing.hidden, parts, strict=True)]
            if sum(hidden) > scenes.hidden * sum(areas) or any(some > scenes.hidden_part * area for some, area in zip(hidden, areas, strict=True)):
                return False
            changes.append((thing, hidden))
    for thing, hidden in changes:
        thing.hidden = hidden
    return True


def _things(draw: Draw, scenes: Scenes, ground: Colour) -> list[Thing]:
    """The objects, the largest first and so behind. Their sizes are stratified: each alone is log-uniform, together they spread over the range."""
    count = few(draw, (scenes.objects[0] - 1, scenes.objects[1] - 1)) + 1
    things: list[Thing] = []
    for stratum in reversed(range(count)):
        chance = (stratum + draw()) / count
        size = round(scenes.smallest * (scenes.largest * scenes.canvas / scenes.smallest) ** chance)
        thing = new_thing(draw, scenes, ground, size)
        for _ in range(ATTEMPTS):
            placed = _move(thing, *_place(draw, thing.box, scenes.canvas))
            if _hide(placed.box, things, scenes):
                things.append(placed)
                break
    return things


def _distractors(draw: Draw, scenes: Scenes, ground: Colour, things: list[Thing]) -> list[Patch]:
    """Single parts on plates of their own, as large as parts are, behind the objects and at least three quarters clear of each."""
    patches: list[Patch] = []
    for _ in range(whole(draw, *scenes.distractors)):
        size = max(2, round(scenes.smallest * (scenes.largest * scenes.canvas / scenes.smallest) ** draw() / 3))
        box = moved((0, 0, size, size), *_place(draw, (0, 0, size, size), scenes.canvas))
        new = _patches(draw, scenes, ground, [(int(len(SHAPES) * draw()), box)])
        if all(4 * overlap(box, thing.box) <= _area(box) for thing in things):
            patches += new
    return patches


def _occluders(draw: Draw, scenes: Scenes, ground: Colour, things: list[Thing]) -> list[Patch]:
    """Bars in front of everything, upright or lying, where they hide nothing beyond recognition."""
    patches: list[Patch] = []
    for _ in range(whole(draw, *scenes.occluders)):
        long, thin = int(between(draw, 0.15, 0.6) * scenes.canvas), int(between(draw, 0.02, 0.09) * scenes.canvas)
        bar = (0, 0, long, thin) if draw() < 0.5 else (0, 0, thin, long)
        colour = shade(draw, ground, scenes.plate_contrast)
        for _ in range(ATTEMPTS // 4):
            box = moved(bar, *_place(draw, bar, scenes.canvas))
            if _hide(box, things, scenes):
                patches.append(Patch(RECTANGLE, box, colour, OPAQUE))
                break
    return patches


def _window(draw: Draw, canvas: int, strength: tuple[int, ...]) -> Window:
    texture = int(len(textures()) * draw())
    return Window(texture, whole(draw, 0, BANK - canvas), whole(draw, 0, BANK - canvas), strength)


def _windows(draw: Draw, scenes: Scenes) -> tuple[Window, Window, Window]:
    level = scenes.texture
    first, second = (_window(draw, scenes.canvas, tuple(whole(draw, -level, level) for _ in range(3))) for _ in range(2))
    return first, second, _window(draw, scenes.canvas, (whole(draw, 0, scenes.shading),))


def plan(scenes: Scenes, domain: int, index: int) -> Plan:
    """The scene of that index in that domain (its split); no other scene has a say in it."""
    draw = uniforms(16 * scenes.seed + domain, index)
    ground = tuple(whole(draw, 60, 195) for _ in range(3))
    windows = _windows(draw, scenes)
    grain = (whole(draw, 0, BANK - scenes.canvas), whole(draw, 0, BANK - scenes.canvas))
    things = _things(draw, scenes, ground)
    front = _occluders(draw, scenes, ground, things)
    behind = _distractors(draw, scenes, ground, things)
    patches = (*behind, *(patch for thing in things for patch in thing.patches), *front)
    return Plan(ground, windows, grain, patches, tuple(things))


def single_plan(scenes: Scenes, domain: int, index: int) -> Plan:
    """One object that fills 0.6 to 0.95 of the canvas, somewhere in it, over a textured background."""
    draw = uniforms(16 * scenes.seed + domain, index)
    ground = tuple(whole(draw, 60, 195) for _ in range(3))
    windows = _windows(draw, scenes)
    grain = (whole(draw, 0, BANK - scenes.canvas), whole(draw, 0, BANK - scenes.canvas))
    thing = new_thing(draw, scenes, ground, round(between(draw, 0.6, 0.95) * scenes.canvas))
    placed = _move(thing, *_place(draw, thing.box, scenes.canvas))
    return Plan(ground, windows, grain, tuple(placed.patches), (placed,))
