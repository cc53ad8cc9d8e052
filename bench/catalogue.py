"""Which papers there are: each folder of implementations with a published.json or a paper.py, which holds the rows. No torch.

A folder without a published.json prints nothing: its rows are measured and judge no cell (combinations of what others print).
"""

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
    """A paper as printed (nothing, for combinations), and as rows of ours; `paper` is None until its folder has a paper.py."""

    published: Published
    paper: Paper | None


def catalogue() -> dict[str, Entry]:
    """Every paper by its key (the folder's name), in alphabetical order."""
    folders = {path.parent for name in ("published.json", "paper.py") for path in FOLDER.glob(f"*/{name}")}
    return {folder.name: _entry(folder) for folder in sorted(folders)}


def printing() -> dict[str, Entry]:
    """Those that print a table."""
    return {key: entry for key, entry in catalogue().items() if entry.published.tables}


def built() -> dict[str, Paper]:
    """The papers that have rows, by key."""
    return {key: entry.paper for key, entry in catalogue().items() if entry.paper is not None}


def find_paper(key: str) -> Paper:
    """The built paper of that key; UserError names those there are."""
    papers = built()
    if key not in papers:
        raise UserError(f"paper {key!r}: unknown or not built yet; allowed: {', '.join(papers)}; see `leandet list`")
    return papers[key]


def _entry(folder: Path) -> Entry:
    printed = folder / "published.json"
    if not (folder / "paper.py").exists():
        return Entry(read_published(printed), None)
    module = importlib.import_module(f"{FOLDER.name}.{folder.name}.paper")
    paper: Paper = module.PAPER
    assert paper.key == folder.name, f"{folder}: its paper calls itself {paper.key}"
    return Entry(read_published(printed) if printed.exists() else Published(paper.key, paper.title, "", (), (), ()), paper)
