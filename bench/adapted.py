"""A detector of an adapter as a row that leandet trains: planned, executed, resumed and recorded as any paper's row is. No torch until it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import adapters
from bench.campaign import check_data, images_of_row
from bench.orders import remaining
from bench.plan import Choice, Run, plan
from bench.progress import Progress, showing
from bench.showing import result_line
from bench.spec import PRETRAINED, Paper, Request, Row, Setting
from bench.subjects import Subject
from bench.types import Unavailable, UserError

if TYPE_CHECKING:
    from bench.records import Record

SIDES = (800, 1333)  # px at the paper's scale, as R-CNNs and DETRs are published; a tier multiplies them
BACKBONE = "R50"  # named because a row names one; the model brings its own, so that no tier changes it


def adapted_paper(name: str, *, init: Path | None = None) -> Paper:
    """A paper of one row, the detector of that name; `init`: a file with the state that it starts from, else random weights.

    The row rests on the adapter's source, on its framework's versions, and on the files behind the name, where it names any.
    """
    adapter = adapters.known_name(name)
    key, row = Subject(name).place
    row = f"{row}-trained"  # what is measured as it was given is another row
    settings = {"name": name, "versions": tuple(sorted(adapters.framework_versions(adapter).items())), "adapter": adapter.build}
    settings["source"] = adapters.source_of(name)
    # With `init` its builder reads the file; without, it needs no pretrained backbone of ours
    start: Any = "builder" if init else "needs"
    made = Row(row, f"{adapter.title}: {name}", Setting("", 0, *SIDES, BACKBONE), build_row, settings, start=start)
    return Paper(key, adapter.title, (made,), (), ())


def build_row(request: Request, *, name: str, versions: tuple[tuple[str, str], ...], adapter: Callable[..., Any], source: str) -> Any:
    """The detector at the tier's pixels, for the data's classes; Unavailable, which reaches the table, for one that does not learn."""
    del versions, adapter, source  # are there for the digest
    sides = (round(request.scale.pixels(request.setting.min_px)), round(request.scale.pixels(request.setting.max_px)))
    sides = (max(32, sides[0]), max(32, sides[1]))
    detector = adapters.build_adapted(name, classes=request.classes, size=sides, weights=request.inputs.get(PRETRAINED))
    from bench.contract import why_not

    reason = why_not(detector)
    if reason:
        raise Unavailable(f"inference only: {reason}")
    return detector


def runs_of(name: str, choice: Choice) -> tuple[Paper, tuple[Run, ...]]:
    """The paper and the runs of a name; UserError for options that mean nothing here."""
    if choice.rows:
        raise UserError(f"--rows {','.join(choice.rows)}: {name} is one row; leave it out")
    paper = adapted_paper(name, init=choice.init)
    return paper, plan([paper], choice)


def train_adapted(name: str, choice: Choice, *, jobs: int = 1, quiet: bool = False) -> Iterator[str]:
    """Train and score an adapter's detector on the data, one run a seed, in this process; a line of results each."""
    if jobs != 1:
        raise UserError(f"--jobs {jobs}: a detector of an adapter is trained in this process; leave it out")
    paper, runs = runs_of(name, choice)
    todo = remaining(runs)
    check_data(todo)
    if todo:
        from bench.datasets import open_split
        from bench.execute import Setup, execute

        with showing(quiet=quiet) as show:
            for place, run in enumerate(runs, 1):
                later = sum(images_of_row(other, paper.row(other.row)) for other in runs[place:])
                record = execute(run, Setup({paper.key: paper}, choice.init, Progress(run.id, (place, len(runs)), later, show)))
        if record.status == "ok":
            yield from _keep_cost(name, record, len(open_split(choice.data, "train").classes))
    yield from map(result_line, () if quiet else runs)


def _keep_cost(name: str, trained: Record, classes: int) -> Iterator[str]:
    """Keep what the row costs at SIDES, with as many RoIs as a published count has; a line where it cannot be counted, which undoes no training."""
    import torch

    from bench import machine, places
    from bench.cost import WHOLE
    from bench.meters.detectors import cost
    from bench.records import Record, write_record

    try:
        found = cost(adapters.build_adapted(name, classes=classes, size=SIDES), SIDES, WHOLE.rois, torch.zeros(3, *SIDES))
    except Exception as error:  # noqa: BLE001 - anything may happen in somebody's model
        yield f"{name}: trained, but its cost at {SIDES[0]} x {SIDES[1]} cannot be counted ({type(error).__name__}: {error})"
        return
    unknown = found.pop("unknown")
    context = machine.source_state() | {"versions": machine.versions(), "machine": machine.describe(), "scope": "model", "convention": "mac"}
    context |= {"input": list(SIDES), "rois": WHOLE.rois, "unknown": unknown, "precision": "float32", "detector": Subject(name).told}
    record = Record(
        f"{trained.paper}.{trained.row}.cost", "cost", trained.paper, trained.row, "", 0, "ok", "", trained.digest, found, context=context
    )
    write_record(record, places.costs() / f"{record.id}.json")
