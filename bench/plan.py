"""Which runs a choice of rows, tier, data and seeds asks for: pure, without torch, each run with a digest of all it depends on."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bench.datasets import DATASETS
from bench.datasets.source import JOIN, Data, files_of, parse_data
from bench.digest import WHOLE, Place, callables, closure, digest, places_of
from bench.scales import PRETRAIN, SCALES
from bench.spec import Backbone, Derive, Effort, Paper, Row, Scale, Schedule, Tier, Train, Xception
from bench.types import UserError

RunKind = Literal["pretrain", "train", "transform", "plateau"]
SCENES = Data("scenes", "scenes-v1")
EMBEDDED: tuple[Tier, ...] = ("smoke", "proxy")  # the tiers on data that leandet draws itself
PRETRAINED_AT: Mapping[Tier, Tier] = {"smoke": "smoke", "proxy": "proxy", "real": "proxy"}  # `real` has the proxy's backbones; `paper` has --init
ENTRY: tuple[Place, ...] = (("bench.train", "train"), ("bench.assemble", WHOLE), ("bench.predict", WHOLE))
BACKBONES: tuple[Place, ...] = (("implementations.layers.backbones", "BackboneClassifier"), ("implementations.layers.backbones", "load_backbone"))
XCEPTION: Place = ("implementations.layers.xception", "XceptionClassifier")
CLASSIFIERS: Mapping[type, tuple[Place, ...]] = {Backbone: BACKBONES, Xception: (XCEPTION,)}  # what pretrains a backbone, by the kind of its plan
BODY: Place = ("implementations.layers.backbones", "load_body")


@dataclass(frozen=True)
class Run:
    """A row executed at one tier with one seed; what it needs is named by run id."""

    id: str  # "condensing.k16-l5.proxy.s0"
    kind: RunKind
    paper: str
    row: str  # a row's key; of a pretrain run the backbone's name
    tier: Tier
    seed: int
    data: Data
    needs: tuple[str, ...]
    digest: str
    length: int = 1  # times the tier's schedule; more than once on a user's own data alone


@dataclass(frozen=True)
class Choice:
    """What a user asks for; no rows means all of them, no seeds means five for headline rows and one for the others."""

    tier: Tier = "proxy"
    data: Data = SCENES
    rows: tuple[str, ...] = ()
    seeds: int | None = None
    init: Path | None = None  # safetensors of a backbone, in place of a pretrain run
    length: int = 1  # times the tier's schedule, at the tier `real`
    proofs: bool = False  # a plateau proof of every row that is asked for, not of headline rows alone


def plan(papers: Iterable[Paper], choice: Choice) -> tuple[Run, ...]:
    """Every run that the choice asks for, once, each after those it needs."""
    if choice.tier == "paper" and choice.init is None:
        raise UserError("--tier paper: needs --init FILE, the ImageNet weights of the backbone as safetensors, as the paper starts from them")
    papers, found = tuple(papers), dict[str, Run]()
    _known(papers, choice.rows)
    for paper in papers:
        for row in _chosen(paper, choice.rows):
            for seed in _seeds(row, choice):
                for run in _with_needs(paper, row, seed, choice):
                    found.setdefault(run.id, run)
    return tuple(sorted(found.values(), key=lambda run: (_depth(run, found), not _is_headline(run, papers))))


def everything(papers: Iterable[Paper], choice: Choice) -> tuple[Run, ...]:
    """What plain `dvc repro` needs: the plan, and after it the rows that a paper judges on other kinds of scenes too."""
    papers = tuple(papers)
    found = list(plan(papers, choice))
    for paper in papers:
        for variant in paper.variants:
            rows = tuple(row for row in variant.rows if not choice.rows or row in choice.rows)
            seeds = choice.seeds or variant.seeds or None
            found += plan([paper], replace(choice, data=parse_data(variant.data), rows=rows, seeds=seeds)) if rows else ()
    return tuple({run.id: run for run in found}.values())


def quick(papers: Iterable[Paper], tier: Tier = "proxy") -> tuple[Run, ...]:
    """What `dvc repro quick` needs: the headline rows with one seed, and what they start from; no plateau proofs."""
    papers = [paper for paper in papers if paper.quick]
    chosen = [run for paper in papers for run in plan([paper], Choice(tier, rows=headlines(paper), seeds=1)) if run.kind != "plateau"]
    return tuple({run.id: run for run in chosen}.values())


def headlines(paper: Paper) -> tuple[str, ...]:
    """Keys of the rows that the paper's headline claims rest on."""
    return tuple(row.key for row in paper.rows if row.headline)


def run_id(paper: str, row: str, seed: int, choice: Choice) -> str:
    """As in "condensing.k16-l5.proxy.s0"; other data and a length are named, as in "condensing.k16-l5.real.bccd.x10.s0"."""
    data, length = [] if choice.data == SCENES else [slug(choice.data.name)], [f"x{choice.length}"] if choice.length > 1 else []
    return ".".join([paper, row, choice.tier, *data, *length, f"s{seed}"])


def slug(name: str) -> str:
    """A dataset's name as a part of an id: "coco:bccd" is "bccd"."""
    return re.sub(r"[^a-z0-9]+", "-", name.rpartition(":")[2].lower()).strip("-") or "data"


def effort_of(run: Run, row: Row | None) -> Effort:
    """The row's own effort where the tier learns from the embedded data, else the plain one at the tier's threads."""
    threads = SCALES[run.tier].threads
    return row.effort if row is not None and run.tier in EMBEDDED else Effort(threads=threads)


def schedule_of(run: Run, row: Row | None) -> Schedule:
    """How long this run learns: the tier's schedule times the setting's and the row's factors; a plateau proof goes on for half that length again."""
    base = SCALES[run.tier].schedule
    if run.kind == "pretrain":
        return base if run.tier == "smoke" else PRETRAIN
    assert row is not None, f"{run.id}: only a pretrain run has no row"
    base = row.schedule if row.schedule and run.tier == "paper" else base
    length = row.setting.schedule * effort_of(run, row).length * run.length
    images, decay = (_epochs(count * length, base) for count in (base.images, base.decay_images))
    more = _epochs((images + decay) / 2, base) if run.kind == "plateau" else 0
    return replace(base, images=images + more, decay_images=decay)


def _epochs(images: float, schedule: Schedule) -> int:
    """Whole epochs, at least one, so that the end of the constant rate is a checkpoint."""
    return max(1, round(images / schedule.epoch_images)) * schedule.epoch_images


def canonical(paper: Paper, key: str, tier: Tier) -> str:
    """The row whose runs a row uses: at a lower tier twins share them, under the first one's name."""
    twins = {} if tier == "paper" else {second: first for first, second in paper.twins}
    while key in twins:
        key = twins[key]
    return key


def owner_of(paper: Paper, need: str) -> tuple[Paper, str]:
    """The paper and the key of a row that is needed: one of the paper's own, or PAPER.ROW of another's."""
    name, _, key = need.rpartition(".")
    return ({other.key: other for other in paper.others}[name] if name else paper), key


def row_of(papers: Mapping[str, Paper], run: Run) -> Row | None:
    """The row of a run; None for a pretrain run."""
    return None if run.kind == "pretrain" else papers[run.paper].row(run.row)


def _runnable(paper: Paper) -> dict[str, Row]:
    return {row.key: row for row in paper.rows if row.build is not None and row.recipe}


def _known(papers: tuple[Paper, ...], keys: tuple[str, ...]) -> None:
    """UserError for a key that none of the papers has a row for."""
    allowed = [key for paper in papers for key in _runnable(paper)]
    for key in keys:
        if key not in allowed:
            raise UserError(f"row {key!r}: {', '.join(paper.key for paper in papers)} has no such row to run; allowed: {', '.join(allowed)}")


def _chosen(paper: Paper, keys: tuple[str, ...]) -> Iterator[Row]:
    """The rows of this paper that are asked for, in that order; all of them where none is named."""
    runnable = _runnable(paper)
    yield from (runnable[key] for key in keys or runnable if key in runnable)


def _seeds(row: Row, choice: Choice) -> range:
    return range(choice.seeds or (SCALES[choice.tier].seeds if row.headline else 1))


def _with_needs(paper: Paper, row: Row, seed: int, choice: Choice) -> Iterator[Run]:
    """The run of a row after all that it needs, then its plateau proof if it has one."""
    row = paper.row(canonical(paper, row.key, choice.tier))
    owners = [owner_of(paper, key) for key in row.needs]
    needed = [run for owner, key in owners for run in _with_needs(owner, owner.row(key), seed, choice) if run.kind != "plateau"]
    trains = any(isinstance(step, Train) for step in row.recipe)
    begins = trains and row.start != "needs" and isinstance(row.recipe[0], Train)  # else it begins with the weights of the row that it needs
    start = _start(paper, row, choice) if begins else ()
    yield from (*needed, *start)
    direct = {run_id(owner.key, canonical(owner, key, choice.tier), seed, choice) for owner, key in owners}
    inputs = [*{run.id: run for run in needed if run.id in direct}.values(), *start[-1:]]
    name = run_id(paper.key, row.key, seed, choice)
    kind: RunKind = "train" if trains else "transform"
    main = Run(name, kind, paper.key, row.key, choice.tier, seed, choice.data, tuple(run.id for run in inputs), "", choice.length)
    main = replace(main, digest=_digest(main, row, inputs, choice.init))
    yield main
    if continuable(main) and (row.headline or choice.proofs):
        proof = replace(main, id=f"{name}.plateau", kind="plateau", needs=(name, *main.needs))
        yield replace(proof, digest=_digest(proof, row, [main], None))


def continuable(run: Run) -> bool:
    """Whether a plateau proof can go on from this run: a row's first seed, on the embedded data. Of headline rows it is planned, else by its id."""
    return run.kind == "train" and run.seed == 0 and run.tier in EMBEDDED and not run.data.parts


def _start(paper: Paper, row: Row, choice: Choice) -> tuple[Run, ...]:
    """The runs that the row starts from, the last of them directly: its body's, or its pretrained backbone's; none where weights are given."""
    if row.body and choice.tier in row.body_at:
        lower = choice if choice.tier == "paper" else replace(choice, tier=PRETRAINED_AT[choice.tier], data=SCENES, init=None, length=1)
        lower = replace(lower, proofs=False)
        return tuple(_with_needs(paper, paper.row(row.body), 0, lower))
    return () if choice.init else (_pretrain(row.setting.backbone, choice.tier),)


def _pretrain(backbone: str, tier: Tier) -> Run:
    at = PRETRAINED_AT[tier]
    run = Run(f"pretrain.{backbone}.{at}.s0", "pretrain", "pretrain", backbone, at, 0, SCENES, (), "")
    spec = SCALES[at].backbones[backbone]
    settings = {"kind": run.kind, "backbone": spec, "schedule": schedule_of(run, None), "seed": 0}
    start = (*ENTRY, ("bench.pretrain", WHOLE), *CLASSIFIERS[type(spec)])
    return replace(run, digest=digest(settings | _data(run.data), _closure(start)))


def _digest(run: Run, row: Row, inputs: Iterable[Run], init: Path | None) -> str:
    settings = {
        "kind": run.kind,
        "row": row.build,
        "arguments": row.arguments,
        "setting": row.setting,
        "recipe": row.recipe,
        "scale": _relevant(SCALES[run.tier], row),
        "schedule": schedule_of(run, row),
        "threads": effort_of(run, row).threads,
        "seed": run.seed,
        "inputs": {given.id: given.digest for given in inputs},
        "init": file_hash(init) if init else "",
    }
    started = {} if row.start == "backbone" else {"start": row.start}
    return digest(settings | started | _data(run.data), _closure(source_of(run.data, row)))


def source_of(data: Data, row: Row) -> tuple[Place, ...]:
    """Where the source begins that a run of this row on this data rests on."""
    bodies = (BODY,) if row.body else ()
    derived = [step.measure for step in row.recipe if isinstance(step, Derive)]
    return (*ENTRY, *BACKBONES, *bodies, *places_of(callables([DATASETS[data.kind], row.build, row.arguments, *derived])))


def _relevant(scale: Scale, row: Row) -> Scale:
    """The scale as far as this row depends on it: other backbones, the schedule (given apart) and the number of seeds do not count."""
    return replace(scale, backbones={row.setting.backbone: scale.backbones[row.setting.backbone]}, schedule=PRETRAIN, seeds=0)


def cost_digest(paper: Paper, row: Row) -> str:
    """Of all that a row's cost rests on, the paper's conventions too."""
    settings = {"kind": "cost", "rule": paper.costs, "row": row.build, "arguments": row.arguments, "setting": row.setting, "first": row.channel_first}
    return digest(settings | {"scale": SCALES["paper"]}, _closure((("bench.cost", "cost_record"), *places_of(callables([row.build, row.arguments])))))


def metrics_digest() -> str:
    """Of the code that turns predictions into numbers; no run rests on it."""
    return digest({}, _closure((("bench.metrics", "score_all"),)))


def _data(data: Data) -> dict[str, object]:
    """The data by its content, as far as its annotations say it, never by where it lies."""
    parts = {key: JOIN.join(map(_content, files_of(value) if data.kind == "joined" else (value,))) for key, value in data.parts}
    return {"data": data.name, "parts": parts}


def _content(value: str) -> str:
    return file_hash(Path(value)) if Path(value).is_file() else Path(value).name


def file_hash(path: Path) -> str:
    """The SHA-256 of a file; UserError if it cannot be read."""
    try:
        stat = path.stat()
        return _file_hash(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a file that exists") from error


@functools.lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 - both are the cache's key
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.lru_cache(maxsize=256)
def _closure(start: tuple[Place, ...]) -> dict[str, str]:
    return closure(start)


def _depth(run: Run, runs: Mapping[str, Run]) -> int:
    return 1 + max((_depth(runs[need], runs) for need in run.needs if need in runs), default=-1)


def _is_headline(run: Run, papers: Iterable[Paper]) -> bool:
    return any(row.key == run.row and row.headline for paper in papers if paper.key == run.paper for row in paper.rows)
