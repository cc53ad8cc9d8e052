"""Which configurations of mmdet's wheel and of detectron2's zoo make a detector that answers, and why the others do not: a table with its versions.

`python -m implementations.adapters.zoo mmdet --out implementations/adapters/mmdet_zoo.csv` builds each with random weights in a process of its own
and asks it on a small picture, then on a larger one where that was too small for it. What stands in the table is kept; `--again` asks once more those
that failed, `--only PART` takes those whose name has that in it.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import multiprocessing
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.adapters import Wanted
from bench.types import Unavailable, UserError, detect
from implementations.adapters.equivalence import photograph

PACKAGES = {"mmdet": ("mmdet", "mmcv", "torch"), "detectron2": ("detectron2", "torch")}
PICTURES = ((96, 128), (320, 427))  # px, as given and as the network sees them: quick, and enough for the many queries of a DINO
PATIENCE_S = 300.0  # for one configuration
BUILDS, REFUSED, FAILS = "answers", "refused", "fails"
HEAD = ("name", "state", "params_m", "detections", "learns", "cost", "says")


@dataclass(frozen=True)
class Entry:
    """What became of one configuration."""

    name: str
    state: str  # BUILDS, REFUSED (one line with the reason), FAILS (the library raises)
    params_m: float = 0.0
    detections: int = 0
    learns: str = ""  # "boxes", or what it needs beside them
    cost: str = ""  # "by parts", or "by one call" that is watched
    says: str = ""

    def cells(self) -> tuple[str, ...]:
        """As text."""
        numbers = (f"{self.params_m:.3f}", str(self.detections)) if self.state == BUILDS else ("", "")
        return (self.name, self.state, *numbers, self.learns, self.cost, self.says)


def every_name(framework: str) -> tuple[tuple[str, str], ...]:
    """(name, why it is none that the adapter offers; empty where it is) of each configuration."""
    module = importlib.import_module(f"implementations.adapters.{framework}_configs")
    offered = set(module.names())
    return tuple((name, "" if name in offered else NOT_OFFERED[framework]) for name in module.config_files())


NOT_OFFERED = {
    "mmdet": "follows objects over frames, or tells persons apart; no detector of single images",
    "detectron2": "a schedule of detectron2's own tests; its model stands in another folder",
}


def entry(framework: str, name: str) -> Entry:
    """A configuration built and asked, on the larger picture only where it fails on the smaller."""
    torch.set_num_threads(1)
    build, failed = importlib.import_module(f"implementations.adapters.{framework}").build, Entry(name, FAILS)
    for size in PICTURES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _answered(build, name, size)
        except (UserError, Unavailable) as reason:
            return Entry(name, REFUSED, says=_line(str(reason).partition(f"{framework}:{name}: ")[2] or str(reason)))
        except Exception as error:  # noqa: BLE001 - anything may happen in somebody's model, and it is this entry's result
            failed = Entry(name, FAILS, says=_line(f"{type(error).__name__}: {error}"))
    return failed


def _answered(build: Callable[[Wanted], Any], name: str, size: tuple[int, int]) -> Entry:
    detector = build(Wanted(name, size=size, score=0.0))
    with torch.inference_mode():
        (found,) = detect(detector, [photograph(*size)])
    params = sum(parameter.numel() for parameter in detector.parameters())
    beside = "masks" if getattr(detector, "with_masks", False) else ", ".join(getattr(detector, "extras", ()))
    learns = f"boxes and {beside}" if beside else "boxes"
    return Entry(name, BUILDS, params / 1e6, len(found.scores), learns, "by parts" if hasattr(detector, "parts") else "by one call")


def _line(text: str) -> str:
    """In one line, without the trace of a library's own and without where it lies."""
    told = text.partition("Exception raised from")[0].partition("(most recent call")[0]
    return re.sub(r"(?<=[\s(])/\S*/", "", " ".join(told.split()))[:200]


def entries(framework: str, names: Sequence[tuple[str, str]]) -> Iterator[Entry]:
    """One after another, each in a process of its own that is forked off here: one that dies or hangs is its own result."""
    importlib.import_module(f"implementations.adapters.{framework}").opened()  # here, so that no process imports the framework again
    context = multiprocessing.get_context("fork")
    for name, why in names:
        if why:
            yield Entry(name, REFUSED, says=why)
            continue
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_tell, args=(send, framework, name))
        child.start()
        send.close()
        yield _received(receive, child, name)


def _tell(send: Any, framework: str, name: str) -> None:
    send.send(entry(framework, name))


def _received(receive: Any, child: Any, name: str) -> Entry:
    try:
        found: Entry = receive.recv() if receive.poll(PATIENCE_S) else Entry(name, FAILS, says=f"no answer within {PATIENCE_S:g} s")
    except EOFError:
        child.join()
        found = Entry(name, FAILS, says=f"its process died with code {child.exitcode}")
    child.kill()
    child.join()
    return found


def kept(path: Path | None, versions: str) -> dict[str, tuple[str, ...]]:
    """The rows of a table that was begun with the same versions, by name."""
    if path is None or not path.is_file():
        return {}
    with path.open(newline="") as stream:
        head, _, *found = (tuple(row) for row in csv.reader(stream))
    return {row[0]: row for row in found} if head[1:] == (versions,) else {}


def write(path: Path, versions: str, found: Iterable[tuple[str, ...]]) -> None:
    """The table, in the order of names."""
    with path.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("versions", versions), HEAD, *sorted(found)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the table; what stands in it already for these versions is kept, so that it can be gone on with."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("framework", choices=PACKAGES)
    parser.add_argument("--only", default="", help="those whose name has this in it")
    parser.add_argument("--again", action="store_true", help="also those that failed before")
    parser.add_argument("--out", type=Path, help="a CSV to write, or to go on with")
    asked = parser.parse_args(arguments)
    versions, began = " ".join(f"{package} {metadata.version(package)}" for package in PACKAGES[asked.framework]), time.monotonic()
    found = {name: row for name, row in kept(asked.out, versions).items() if not (asked.again and row[1] == FAILS)}
    chosen = [(name, why) for name, why in every_name(asked.framework) if asked.only in name and name not in found]
    for place, each in enumerate(entries(asked.framework, chosen), 1):
        found[each.name] = each.cells()
        print(f"{place}/{len(chosen)}", *each.cells(), sep="  ", flush=True)  # noqa: T201 - a command
        if asked.out:
            write(asked.out, versions, found.values())
    counts = ", ".join(f"{sum(row[1] == state for row in found.values())} {state}" for state in (BUILDS, REFUSED, FAILS))
    print(f"{versions}: {counts} of {len(found)}, in {time.monotonic() - began:.0f} s")  # noqa: T201 - a command
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
