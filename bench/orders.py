"""What a command names, as runs: a paper, a row, a run's id. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import places
from bench.catalogue import built, find_paper
from bench.datasets.source import CONTROLS, VARIANTS, parse_data
from bench.plan import EMBEDDED, PRETRAINED_AT, SCENES, Choice, Run, plan, quick
from bench.spec import TIERS, Tier
from bench.types import UserError

ID = re.compile(
    r"(?P<paper>[\w-]+)\.(?P<row>[\w-]+)\.(?P<tier>[a-z]+)(\.(?P<data>[\w-]+?))?(\.x(?P<length>\d+))?\.s(?P<seed>\d+)(?P<proof>\.plateau)?"
)


def choice_of(tier: str, data: str, rows: str, seeds: int, init: str) -> Choice:
    """The options of `plan` and `run` as a Choice; UserError names an option that is not allowed."""
    if tier not in TIERS:
        raise UserError(f"--tier {tier!r}: unknown; allowed: {', '.join(TIERS)}")
    if not data and tier in {"real", "paper"}:
        raise UserError(f"--tier {tier}: needs --data, as in train=A.json,val=B.json,test=C.json or voc=DIR; `leandet download` gets VOC and COCO")
    if seeds < 0:
        raise UserError(f"--seeds {seeds}: allowed: 1 or more, or leave it out")
    keys = tuple(key.strip() for key in rows.split(",") if key.strip())
    return Choice(tier, parse_data(data) if data else SCENES, keys, seeds or None, Path(init) if init else None)


def longer(choice: Choice, length: int) -> Choice:
    """The choice with the option --length; UserError where it is not allowed."""
    if length < 1 or (length > 1 and choice.tier != "real"):
        raise UserError(f"--length {length}: allowed: 1 or more at --tier real; at the other tiers records of one length are compared")
    return replace(choice, length=length)


def ordered(target: str, choice: Choice) -> tuple[Run, ...]:
    """The runs that a paper's key, a run's id, "quick" or nothing (every built paper) asks for, each after those it needs."""
    if target == "quick":
        return quick(built().values(), choice.tier)
    if "." in target:
        return with_needs(target, choice)
    papers = [find_paper(target)] if target else list(built().values())
    return plan(papers, choice)


def with_needs(name: str, choice: Choice) -> tuple[Run, ...]:
    """The run of that id after all that it needs; UserError for an id that names none."""
    known = {run.id: run for run in plan_around(name, choice)}
    if name not in known:
        near = ", ".join(sorted(run for run in known if run.split(".")[:2] == name.split(".")[:2])[:5]) or "`leandet plan` lists them"
        raise UserError(f"run {name!r}: there is none of that id; {near}")
    wanted = {name}
    for run in reversed(tuple(known.values())):  # each stands after its needs
        wanted |= set(run.needs) if run.id in wanted else set()
    return tuple(run for run in known.values() if run.id in wanted)


def plan_around(name: str, choice: Choice) -> tuple[Run, ...]:
    """A plan that holds the run of that id, if there is one; its tier, row and seed come from the id itself."""
    found = ID.fullmatch(name)
    if found is None:
        raise UserError(f"run {name!r}: an id is PAPER.ROW.TIER.sSEED, as in condensing.k16-l5.proxy.s0; `leandet plan` lists them")
    tier = _tier(found["tier"], name)
    if found["paper"] == "pretrain":
        return plan(built().values(), Choice(tier, seeds=1)) if PRETRAINED_AT.get(tier) == tier else ()
    if not found["data"] and tier in EMBEDDED:
        choice = replace(choice, data=SCENES)  # what else it was asked with names the data of those that start from it
    if found["data"] and choice.data == SCENES and found["data"] in (*VARIANTS, *CONTROLS):
        choice = replace(choice, data=parse_data(found["data"]))
    if found["data"] and choice.data == SCENES:
        raise UserError(f"run {name!r}: say where its data is, as in --data train=A.json,val=B.json,test=C.json")
    paper = find_paper(found["paper"])
    chosen = Choice(tier, choice.data, (found["row"],), int(found["seed"]) + 1, choice.init, int(found["length"] or 1), bool(found["proof"]))
    return plan([paper], chosen)


def _tier(name: str, what: str) -> Tier:
    if name not in TIERS:
        raise UserError(f"{what}: {name!r} is no tier; allowed: {', '.join(TIERS)}")
    return name


def of_line(name: str, choice: Choice) -> tuple[Run, ...]:
    """The runs of one leaderboard row, named by its id there (PAPER.ROW.TIER), all its seeds, after what they need."""
    parts = name.split(".")
    if len(parts) != 3:
        raise UserError(f"--row {name!r}: a row's id is PAPER.ROW.TIER, as in condensing.k16-l5.proxy; `leandet leaderboard` lists them")
    paper, row, tier = parts[0], parts[1], _tier(parts[2], f"--row {name!r}")
    runs = plan([find_paper(paper)], replace(choice, tier=tier, rows=(row,)))
    return tuple(run for run in runs if run.kind != "plateau")


def state(run: Run) -> str:
    """What the run's folder holds: "stands", "stale", "begun", "to do", "failed"."""
    from bench.records import read_record

    folder = places.run_folder(run.id)
    if (folder / "record.json").exists():
        record = read_record(folder / "record.json")
        stands = run.digest in record.digests
        return ("stands" if record.status == "ok" else record.status) if stands else "stale"
    return "begun" if (folder / "checkpoint.safetensors").exists() else "to do"


def remaining(runs: Sequence[Run]) -> list[Run]:
    """Those that do not stand yet."""
    return [run for run in runs if state(run) not in {"stands", "skipped"}]
