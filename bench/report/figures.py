"""Committed drawings for the page: an image and a JSON beside it that says what it shows and whose it is. Closed to data that may not be shown."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from bench.types import UserError

# Whose images may be shown, by how a name of data begins: drawn by this project, or under a licence that allows it with attribution.
SHOWABLE = ("scenes", "bccd", "aquarium", "none")
TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}
KEYS = ("image", "title", "alt", "paper", "data", "attribution")
MOST = 300 * 1024  # bytes of one image, so that the page stays small enough for git


@dataclass(frozen=True)
class Drawing:
    """One picture with its words; `source` is a data: URI, so that nothing is fetched."""

    name: str
    title: str
    alt: str
    paper: str
    data: str
    attribution: str
    source: str


def drawings(folder: Path) -> tuple[Drawing, ...]:
    """Every NAME.json of a folder with its image, by name; UserError where one is not as it must be."""
    return tuple(_drawing(path) for path in sorted(folder.glob("*.json"))) if folder.is_dir() else ()


def _drawing(path: Path) -> Drawing:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        values = {key: str(about[key]) for key in KEYS}
        image = path.parent / values.pop("image")
        data = image.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no description of a drawing ({error!r}); allowed: an object with {', '.join(KEYS)}; image lies beside it"
        ) from error
    _check(path, image, data, values)
    return Drawing(path.stem, source=f"data:{TYPES[image.suffix]};base64,{base64.b64encode(data).decode()}", **values)


def _check(path: Path, image: Path, data: bytes, values: dict[str, str]) -> None:
    if image.suffix not in TYPES or image.parent.resolve() != path.parent.resolve():
        raise UserError(f"{path}: image {image.name!r}; allowed: a file beside it that ends in {', '.join(TYPES)}")
    if len(data) > MOST:
        raise UserError(f"{path}: {image.name} has {len(data)} bytes; allowed: {MOST}; make it smaller")
    if not values["data"].startswith(SHOWABLE):
        raise UserError(f"{path}: pictures of {values['data']!r} may not be shown; allowed: {', '.join(SHOWABLE)} (for a plot)")
    if not values["alt"] or not values["title"] or (values["data"] != "none" and not values["attribution"]):
        raise UserError(f"{path}: title, alt and attribution may not be empty; say what is seen, and whose picture it is")
