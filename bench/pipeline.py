"""The stages of DVC from the plan, and the file of digests by which it sees what has changed. No torch.

dvc.yaml holds what is shared and what `quick` needs; every other paper has a file of its own below pipeline/, as DVC's time grows with the square of
a file's stages.

The first stage writes runs/.plan.json, a digest for each run; every other stage depends on its own entry there. So an edit re-runs what it
touches and nothing else, and what DVC has to look at stays small enough to answer "nothing to do" in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench import places
from bench.catalogue import built
from bench.digest import WHOLE, closure, digest
from bench.plan import Choice, Run, cost_digest, everything, quick
from bench.records import write_atomically

PLAN = "runs/.plan.json"
ROOT, PAPERS, UP = "dvc.yaml", "pipeline", "../.."
LONGEST = 80  # stages of a file
HEAD = """\
# Written by `leandet plan --write`; a test holds that it is current. Do not edit.
# runs/ is in no commit. `persist` keeps checkpoints when a stage runs again; what stands is not done again (see CONTRIBUTING.md).
stages:
"""
SHOWN = (
    ("bench.publish", WHOLE),
    ("bench.report", WHOLE),
    ("bench.report.page", WHOLE),
    ("bench.report.plots", WHOLE),
    ("bench.report.figures", WHOLE),
    ("bench.metrics", WHOLE),
)


def runs_of(choice: Choice) -> tuple[Run, ...]:
    """Every run of plain `dvc repro`."""
    return everything(built().values(), choice)


def write_digests(choice: Choice) -> Path:
    """Write runs/.plan.json: the digest of each run, of the costs, and of what renders; unchanged content leaves the file as it is."""
    tree: dict[str, object] = {"costs": _costs_digest(), "shown": digest({}, closure(SHOWN))}
    for run in runs_of(choice):
        _put(tree, run.id.split("."), run.digest)
    path = places.home() / PLAN
    write_atomically(path, (json.dumps(tree, indent=1, sort_keys=True) + "\n").encode())
    return path


def _put(tree: dict[str, object], parts: list[str], value: str) -> None:
    """DVC reads a dot as a level, so an id is a path, and its digest a leaf of its own below it."""
    for part in parts:
        inner = tree.setdefault(part, {})
        assert isinstance(inner, dict)
        tree = inner
    tree["digest"] = value


def _costs_digest() -> str:
    return digest(
        {f"{paper.key}.{row.key}": cost_digest(paper, row) for paper in built().values() for row in paper.rows if row.build is not None}, {}
    )


def write_pipeline(choice: Choice) -> tuple[Path, ...]:
    """Write dvc.yaml and the papers' own files; those of papers that are gone are removed."""
    texts = {places.home() / name: text for name, text in pipeline_texts(choice).items()}
    for path in {*(places.home() / PAPERS).glob(f"*/{ROOT}")} - {*texts}:
        path.unlink()
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    return tuple(texts)


def pipeline_texts(choice: Choice) -> dict[str, str]:
    """Each file's text by its name from the project's folder."""
    runs = runs_of(choice)
    apart = {run.paper for run in runs if run.kind != "pretrain" and not built()[run.paper].quick}
    own = {name: part for key in sorted(apart) for name, part in _parts(key, [run for run in runs if run.kind != "pretrain" and run.paper == key])}
    inner = [run for run in runs if run.kind == "pretrain" or run.paper not in apart]
    return {
        ROOT: _root_text(choice, inner, runs),
        **{name: "\n".join([HEAD.rstrip(), *_stages(of_paper, UP)]) + "\n" for name, of_paper in own.items()},
    }


def _parts(key: str, runs: Sequence[Run]) -> Iterator[tuple[str, Sequence[Run]]]:
    """A paper's runs in files of at most `LONGEST` stages."""
    for number, first in enumerate(range(0, len(runs), LONGEST), 1):
        yield f"{PAPERS}/{key}{f'-{number}' if number > 1 else ''}/{ROOT}", runs[first : first + LONGEST]


def _root_text(choice: Choice, inner: Iterable[Run], runs: Iterable[Run]) -> str:
    """dvc.yaml: the plan, the costs, the runs that it holds itself, `quick`, and the tables of everything."""
    fast = {each.id for each in quick(built().values(), choice.tier)}
    lines = [HEAD.rstrip(), *_plan_stage(choice), *_costs_stage(), *_stages(inner)]
    (paper,) = (key for key, paper in built().items() if paper.quick)
    meaning = "The headline rows with one seed, their paper's tables on the screen, and every table in results/local."
    lines += _shown("quick", meaning, [run for run in runs if run.id in fast], paper)
    lines += _shown("tables", "Every row, seed and plateau proof, then every table.", runs)
    return "\n".join(lines) + "\n"


def _stages(runs: Iterable[Run], folder: str = "") -> Iterator[str]:
    """A stage a run, by how many others it starts from; `folder`: where its commands run, seen from its file."""
    runs = tuple(runs)
    for needs in sorted({len(run.needs) for run in runs}):
        yield from _run_stages([run for run in runs if len(run.needs) == needs], needs, folder)


def _plan_stage(choice: Choice) -> Iterator[str]:
    rows = f" --rows {','.join(choice.rows)}" if choice.rows else ""
    yield from ("  plan:", "    desc: What each run depends on, as one digest a run.", f"    cmd: leandet plan --digests --tier {choice.tier}{rows}")
    yield from ("    deps:", "      - bench", "      - implementations", "    outs:", f"      - {PLAN}:", "          cache: false")


def _costs_stage() -> Iterator[str]:
    yield from ("  costs:", "    desc: Parameters, bytes and multiply-adds of every row at the paper's own scale.", "    cmd: leandet cost --quiet")
    yield from ("    params:", f"      - {PLAN}: [costs]", "    outs:", "      - runs/costs:", "          persist: true")


def _run_stages(runs: Iterable[Run], needs: int, folder: str) -> Iterator[str]:
    """The runs that start from so many others; one template, since DVC reads a long file slowly."""
    yield from (f"  run{needs}:", "    foreach:")
    for run in runs:
        given = "".join(f", n{index}: {need}" for index, need in enumerate(run.needs))
        yield f"      {run.id}: {{id: {run.id}{given}}}"
    yield from ("    do:", "      cmd: leandet run ${item.id}", *([f"      wdir: {folder}"] if folder else []))
    yield from ("      params:", f'        - {PLAN}: ["${{item.id}}.digest"]')
    if needs:
        yield from ("      deps:", *(f"        - runs/${{item.n{index}}}" for index in range(needs)))
    yield from ("      outs:", "        - runs/${item.id}:", "            persist: true")


def _shown(name: str, meaning: str, runs: Iterable[Run], paper: str = "") -> Iterator[str]:
    """A stage without outputs: what it writes is no run's, and not DVC's. On the screen come the tables of one paper, or of all."""
    yield from (
        f"  {name}:",
        f"    desc: {meaning}",
        f"    cmd: leandet tables {paper}".rstrip(),
        "    params:",
        f"      - {PLAN}: [shown]",
        "    deps:",
        "      - runs/costs",
    )
    yield from (f"      - runs/{run.id}" for run in runs)
