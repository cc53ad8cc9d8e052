"""dvc.yaml from the plan, and the file of digests by which DVC sees what has changed. No torch.

The first stage writes runs/.plan.json, a digest for each run; every other stage depends on its own entry there. So an edit re-runs what it
touches and nothing else, and what DVC has to look at stays small enough to answer "nothing to do" in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench import places
from bench.catalogue import built
from bench.digest import WHOLE, closure, digest
from bench.plan import Choice, Run, cost_digest, plan, quick
from bench.records import write_atomically

PLAN = "runs/.plan.json"
HEAD = """\
# Written by `leandet plan --write`; a test holds that it is current. Do not edit.
# runs/ is in no commit. `persist` keeps checkpoints when a stage runs again; what stands is not done again (see CONTRIBUTING.md).
stages:
"""
SHOWN = (("bench.publish", WHOLE), ("bench.report", WHOLE), ("bench.report.page", WHOLE), ("bench.report.plots", WHOLE), ("bench.metrics", WHOLE))


def runs_of(choice: Choice) -> tuple[Run, ...]:
    """Every run of plain `dvc repro`."""
    return plan(built().values(), choice)


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


def write_pipeline(choice: Choice) -> Path:
    """Write dvc.yaml."""
    path = places.home() / "dvc.yaml"
    write_atomically(path, pipeline_text(choice).encode())
    return path


def pipeline_text(choice: Choice) -> str:
    """dvc.yaml: the plan, the costs, a stage a run, `quick`, and the tables of everything."""
    runs = runs_of(choice)
    fast = [run for run in runs if run.id in {each.id for each in quick(built().values(), choice.tier)}]
    lines = [HEAD.rstrip(), *_plan_stage(choice), *_costs_stage()]
    for needs in sorted({len(run.needs) for run in runs}):
        lines += _run_stages([run for run in runs if len(run.needs) == needs], needs)
    lines += _shown("quick", "The headline rows with one seed, and every table on the screen and in results/local.", fast)
    lines += _shown("tables", "Every row, seed and plateau proof, then every table.", runs)
    return "\n".join(lines) + "\n"


def _plan_stage(choice: Choice) -> Iterator[str]:
    rows = f" --rows {','.join(choice.rows)}" if choice.rows else ""
    yield from ("  plan:", "    desc: What each run depends on, as one digest a run.", f"    cmd: leandet plan --digests --tier {choice.tier}{rows}")
    yield from ("    deps:", "      - bench", "      - implementations", "    outs:", f"      - {PLAN}:", "          cache: false")


def _costs_stage() -> Iterator[str]:
    yield from ("  costs:", "    desc: Parameters, bytes and multiply-adds of every row at the paper's own scale.", "    cmd: leandet cost --quiet")
    yield from ("    params:", f"      - {PLAN}: [costs]", "    outs:", "      - runs/costs:", "          persist: true")


def _run_stages(runs: Iterable[Run], needs: int) -> Iterator[str]:
    """The runs that start from so many others; one template, since DVC reads a long file slowly."""
    yield from (f"  run{needs}:", "    foreach:")
    for run in runs:
        given = "".join(f", n{index}: {need}" for index, need in enumerate(run.needs))
        yield f"      {run.id}: {{id: {run.id}{given}}}"
    yield from ("    do:", "      cmd: leandet run ${item.id}", "      params:", f'        - {PLAN}: ["${{item.id}}.digest"]')
    if needs:
        yield from ("      deps:", *(f"        - runs/${{item.n{index}}}" for index in range(needs)))
    yield from ("      outs:", "        - runs/${item.id}:", "            persist: true")


def _shown(name: str, meaning: str, runs: Iterable[Run]) -> Iterator[str]:
    """A stage without outputs: what it writes is no run's, and not DVC's."""
    yield from (
        f"  {name}:",
        f"    desc: {meaning}",
        "    cmd: leandet tables",
        "    params:",
        f"      - {PLAN}: [shown]",
        "    deps:",
        "      - runs/costs",
    )
    yield from (f"      - runs/{run.id}" for run in runs)
