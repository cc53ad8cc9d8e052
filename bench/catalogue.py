"""Which papers there are: each folder of implementations with a published.json; its paper.py, where it has one, holds the rows. No torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.published import Published, read_published
from bench.types import UserError

if TYPE_CHECKING:
    from bench.spec import Paper

FOLDER = Path(__file__).parents[1] / "implementations"


@dataclass(frozen=True)
class Entry:
    """A paper as printed, and as rows of ours; `paper` is None until its folder has a paper.py."""

    published: Published
    paper: Paper | None


def catalogue() -> dict[str, Entry]:
    """Every paper by its key (the folder's name), in alphabetical order."""
    return {path.parent.name: _entry(path) for path in sorted(FOLDER.glob("*/published.json"))}


def built() -> dict[str, Paper]:
    """The papers that have rows, by key."""
    return {key: entry.paper for key, entry in catalogue().items() if entry.paper is not None}


def find_paper(key: str) -> Paper:
    """The built paper of that key; UserError names those there are."""
    papers = built()
    if key not in papers:
        raise UserError(f"paper {key!r}: unknown or not built yet; allowed: {', '.join(papers)}; see `leandet list`")
    return papers[key]


def _entry(path: Path) -> Entry:
    if not path.with_name("paper.py").exists():
        return Entry(read_published(path), None)
    module = importlib.import_module(f"{FOLDER.name}.{path.parent.name}.paper")
    paper: Paper = module.PAPER
    assert paper.key == path.parent.name, f"{path.parent}: its paper calls itself {paper.key}"
    return Entry(read_published(path), paper)
