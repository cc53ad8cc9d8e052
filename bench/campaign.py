"""Many runs, one after another or several at once; each is a process of its own or this one. No torch until a run starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine, places
from bench.catalogue import built
from bench.orders import remaining, state
from bench.plan import Choice, Run, effort_of, quick, row_of, schedule_of
from bench.progress import Progress, duration, showing
from bench.records import read_record
from bench.types import UserError

if TYPE_CHECKING:
    from bench.spec import Row

LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # a process must be started with it: 3 % more images a second, the same bits
EARLY = 0.01  # of all images; before so many the time left is a guess
LEARNT = re.compile(r"training: (\d+) of ")  # in the words of a run's own progress


def images_of(run: Run) -> int:
    """How many images a run will see; 0 if it does not learn."""
    return 0 if run.kind == "transform" else images_of_row(run, row_of(built(), run))


def images_of_row(run: Run, row: Row | None) -> int:
    """The same for a run of this row, which need not be of a built paper."""
    schedule = schedule_of(run, row)
    return schedule.images + schedule.decay_images


def here(runs: Sequence[Run], choice: Choice, *, quiet: bool = False) -> None:
    """Do the runs in this process, in order; what stands is left as it is.

    A run that cannot be done keeps none from being done but those that need it; UserError at the end says why, each reason once.
    """
    todo = remaining(runs)
    if not todo:
        return
    check_data(todo)
    from bench.execute import Setup, execute

    undone: dict[str, str] = {}
    proven = frozenset(run.needs[0] for run in runs if run.kind == "plateau")
    with showing(quiet=quiet) as show:
        for run in todo:
            without = [need for need in run.needs if need in undone]
            if without:
                undone[run.id] = undone[without[0]]
                continue
            if _attested(run, show):
                continue
            place, whole = _place(run, runs)
            later = sum(images_of(other) for other in remaining(whole) if other.id != run.id)
            progress = Progress(run.id, place, later, show)
            try:
                execute(run, Setup(built(), choice.init, progress, proven))
            except UserError as error:
                undone[run.id] = str(error)
    if undone:
        raise UserError("; ".join(dict.fromkeys(undone.values())))


def check_data(runs: Sequence[Run]) -> None:
    """Open every split that the runs are about, so that a mistake in the data is said before hours are spent on what they start from."""
    from bench.datasets import open_split
    from bench.datasets.source import SPLITS

    for data in dict.fromkeys(run.data for run in runs if run.data.parts):
        for split in SPLITS:
            open_split(data, split)


def _attested(run: Run, show: Callable[[str, float], None]) -> bool:
    """Whether what other code made stands for the code of now: a replay of its first steps is bit-equal, under the same settings."""
    folder = places.run_folder(run.id)
    if state(run) != "stale" or not (folder / "weights.safetensors").exists():
        return False
    from bench.attest import attest

    show(f"{run.id}: the code has changed since; replaying its first steps", 0.0)
    found = attest(run, read_record(folder / "record.json"), folder / "record.json")
    show(f"{run.id}: {'kept' if found.equal else 'made anew'}: {found.said}", 1.0)
    return found.equal


def _place(run: Run, runs: Sequence[Run]) -> tuple[tuple[int, int], Sequence[Run]]:
    """(place, number) of a run, and the runs it is counted among: those asked for, or, asked for alone, the quick ones or all of its tier."""
    whole = runs
    if len(remaining(runs)) <= 1 and run.tier in {"proxy", "smoke"}:
        among = quick(built().values(), run.tier)
        whole = among if run.id in {each.id for each in among} else runs
    left = [each.id for each in remaining(whole)]
    return (len(whole) - len(left) + (left.index(run.id) if run.id in left else 0) + 1, len(whole)), whole


def at_once(runs: Sequence[Run], choice: Choice, jobs: int) -> list[str]:
    """Do the runs as processes, `jobs` threads at a time, each after its needs; ids of those that failed. What rests on a failed run is left out."""
    check_data(remaining(runs))
    options, todo = _options(choice), remaining(runs)
    waiting, failed = {run.id: run for run in todo}, list[str]()
    underway: dict[Future[int], str] = {}
    with ThreadPoolExecutor(max_workers=jobs) as workers, showing() as show:
        tell = _together(todo, show)
        while waiting or underway:
            failed += [waiting.pop(run.id).id for run in todo if run.id in waiting and any(need in failed for need in run.needs)]
            for name in _next(list(waiting.values()), list(underway.values()), todo, jobs):
                underway[workers.submit(_process, name, asked_for(waiting.pop(name), todo), options)] = name
            done, _ = wait(underway, timeout=2, return_when=FIRST_COMPLETED)
            tell(list(underway.values()), [*waiting, *underway.values()])
            for future in done:
                name = underway.pop(future)
                failed += [name] if future.result() else []
                print(f"leandet: {name} {'failed' if name in failed else 'done'}, {len(waiting) + len(underway)} to go", file=sys.stderr, flush=True)  # noqa: T201
    return failed


def _next(waiting: Sequence[Run], underway: Sequence[str], runs: Sequence[Run], jobs: int) -> list[str]:
    """The runs to start now, those first that most rests on, so that none ends alone; one that needs more threads is not overtaken for ever."""
    undone, begun, path = {*underway, *(run.id for run in waiting)}, list[str](), _paths(waiting)
    ready = [run for run in waiting if not undone.intersection(run.needs)]
    for run in sorted(ready, key=lambda run: -path[run.id]):
        if not _fits(run, [*underway, *begun], runs, jobs):
            break
        begun.append(run.id)
    return begun


def _paths(runs: Sequence[Run]) -> dict[str, int]:
    """Of each run how many images must be seen in a row until the last that rests on it is done: its own and its longest line of heirs'."""
    found: dict[str, int] = {}

    def path(run: Run) -> int:
        if run.id not in found:
            found[run.id] = images_of(run) + max((path(heir) for heir in runs if run.id in heir.needs), default=0)
        return found[run.id]

    return {run.id: path(run) for run in runs}


def _threads(run: Run) -> int:
    """Threads of the CPU that a run keeps busy: what its row was given, but one where a GPU learns."""
    return 1 if machine.describe()["gpus"] else effort_of(run, row_of(built(), run)).threads


def _fits(run: Run, underway: Sequence[str], runs: Sequence[Run], jobs: int) -> bool:
    """Whether a run may start beside those underway: together they take `jobs` threads, or it is alone."""
    taken = sum(_threads(other) for other in runs if other.id in underway)
    return not underway or taken + _threads(run) <= jobs


def _together(runs: Sequence[Run], show: Callable[[str, float], None]) -> Callable[[Sequence[str], Sequence[str]], None]:
    """What tells how far several processes are, from the ids underway and the ids not done: of each its last words, of all the time left."""
    images = {run.id: 0 if run.kind == "pretrain" else images_of(run) for run in runs}  # single objects are nothing beside scenes
    whole, began, first = max(1, sum(images.values())), time.monotonic(), dict[str, tuple[float, int]]()

    def slowest(now: float, seen: Mapping[str, int]) -> float:
        """Seconds that the one with most before it takes at its own pace: others cannot help it."""
        own = [0.0]
        for name, count in seen.items():
            then, before = first.setdefault(name, (now, count))
            own += [(images[name] - count) * (now - then) / (count - before)] if count > before else []
        return max(own)

    def tell(underway: Sequence[str], undone: Sequence[str]) -> None:
        nonlocal began
        now, words = time.monotonic(), {name: _last_words(name) for name in underway}
        seen = {name: int(found[1]) for name, said in words.items() if images[name] and (found := LEARNT.search(said))}
        done = whole - sum(images[name] for name in undone) + sum(seen.values())
        began = began if done else now  # what passes before the first image tells nothing of the pace
        rest = max((now - began) * (whole - done) / max(done, 1), slowest(now, seen))
        left = f", all runs about {duration(rest)}" if done > EARLY * whole else ""
        show(f"{len(runs) - len(undone)} of {len(runs)} runs done{left}; {'; '.join(words.values())}", min(done / whole, 0.99))  # 1 ends a line

    return tell


def _last_words(name: str) -> str:
    """The newest line of a run's log, without what only a run alone can say of the rest."""
    log = _log(name)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    words = next((line for line in reversed(lines) if line.startswith("leandet: run ")), f": {name}, starting")
    return words.partition(": ")[2].partition(": ")[2].partition(", all runs")[0] or f"{name}, starting"


def _options(choice: Choice) -> list[str]:
    data = ",".join(f"{key}={value}" for key, value in choice.data.parts) or choice.data.name
    return ["--data", data, *(["--init", str(choice.init)] if choice.init else [])]


def _log(name: str) -> Path:
    return places.runs() / ".logs" / f"{name}.txt"


def asked_for(run: Run, runs: Sequence[Run]) -> str:
    """What a process is told to run: the run, or its plateau proof where nobody plans that, so that the run keeps what its proof needs."""
    proof = next((each for each in runs if each.kind == "plateau" and each.needs[0] == run.id), None)
    row = row_of(built(), run)
    return run.id if proof is None or (row is not None and row.headline) else proof.id


def _process(name: str, asked: str, options: Sequence[str]) -> int:
    log = _log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "bench.cli", "run", asked, *options]
        return subprocess.run(command, stdout=stream, stderr=stream, check=False, env=LARGE_PAGES | os.environ).returncode  # noqa: S603 - our own command


def jobs_allowed(jobs: int) -> int:
    """The number of processes; UserError if it is not one."""
    if not 1 <= jobs <= 4 * machine.cores():
        raise UserError(f"--jobs {jobs}: allowed: 1 to {4 * machine.cores()} on this machine")
    return jobs


@contextmanager
def downloading() -> Iterator[Callable[[str, int, int], None]]:
    """What shows the progress of a download."""
    with showing() as show:
        yield lambda what, done, whole: show(f"{what}: {done / 1e6:.0f} of {whole / 1e6:.0f} MB", done / max(1, whole))
