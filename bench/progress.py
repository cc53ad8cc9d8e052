"""What runs and how long it still takes: a bar on a terminal, a line every 15 seconds elsewhere. No torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

EVERY = 15.0  # seconds between two lines


def duration(seconds: float) -> str:
    """Seconds as a reader says them: "45 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class Progress:
    """One run's progress. `later` is the images that the runs after it will see, so that the whole can be foretold."""

    title: str
    runs: tuple[int, int] = (1, 1)  # this one's place, how many there are
    later: int = 0
    show: Callable[[str, float], None] = field(default=lambda *_: None)
    _began: dict[str, tuple[float, int]] = field(default_factory=dict)

    def phase(self, name: str) -> Callable[[int, int], None]:
        """A callback (done, all) for one phase: "training", "testing"."""
        return lambda done, whole: self._step(name, done, whole)

    def _step(self, name: str, done: int, whole: int) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(name, (now, done))
        rate = (done - first) / (now - began) if now > began and done > first else 0.0
        place, runs = self.runs
        text = f"run {place} of {runs}: {self.title}, {name}: {done} of {whole} images"
        if rate:
            text += f", {rate:.0f}/s, {duration((whole - done) / rate)} left"
        if rate and self.later and name == "training":
            text += f", all runs about {duration((whole - done + self.later) / rate)}"
        self.show(text, done / whole)


@contextmanager
def showing(quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """Where progress is shown: standard error, as a bar if that is a terminal."""
    if quiet:
        yield lambda *_: None
    elif sys.stderr.isatty():
        yield from _bar()
    else:
        yield _lines()


def _bar() -> Iterator[Callable[[str, float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    with Bars(BarColumn(bar_width=24), TextColumn("{task.description}"), console=Console(stderr=True)) as bars:
        task = bars.add_task("starting", total=1.0)
        yield lambda text, share: bars.update(task, description=text, completed=share)


def _lines() -> Callable[[str, float], None]:
    last = [0.0]

    def show(text: str, share: float) -> None:
        if time.monotonic() - last[0] >= EVERY or share >= 1:
            last[0] = time.monotonic()
            print(f"leandet: {text}", file=sys.stderr, flush=True)  # noqa: T201 - this is its purpose

    return show
