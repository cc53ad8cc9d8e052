"""The plan: each run once, after what it needs, with a digest that its settings decide."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import places
from bench import plan as planning
from bench.catalogue import built
from bench.datasets.source import Data, parse_data
from bench.orders import with_needs
from bench.plan import SCENES, Choice, everything, headlines, plan, quick, schedule_of, slug
from bench.scales import SCALES
from bench.spec import Paper, Row, Setting, Transform
from bench.types import UserError

HERE = Path(__file__).parents[1]
JUDGING = (
    "bench.metrics",
    "bench.tables",
    "bench.report",
    "bench.meters",
    "bench.claims",
    "bench.leaderboard",
    "bench.evidence",
    "bench.gather",
    "bench.cost",
)


def a_builder(request):
    return request


def toy(**changes) -> Paper:
    setting = Setting("voc07+12", 20, 600, 1000, "R50")
    rows = (
        Row("plain", "Plain", setting, a_builder, headline=True),
        Row("twin", "Plain again", setting, a_builder),
        Row("halved", "Halved", setting, a_builder, recipe=(Transform("svd"),), needs=("plain",)),
        Row("longer", "Twice as long", Setting("voc07+12", 20, 600, 1000, "R50", schedule=2.0), a_builder),
        Row("deeper", "R101", Setting("voc07+12", 20, 600, 1000, "R101"), a_builder),
        Row("quoted", "Of another paper", setting, None, quoted="printed elsewhere"),
    )
    return Paper("toy", "Toy", rows, (), (), twins=(("plain", "twin"),), **changes)


def test_ids_kinds_and_needs_by_hand():
    runs = {run.id: run for run in plan([toy()], Choice("proxy", seeds=1))}
    assert {name: (run.kind, run.needs) for name, run in runs.items()} == {
        "pretrain.R50.proxy.s0": ("pretrain", ()),
        "pretrain.R101.proxy.s0": ("pretrain", ()),
        "toy.plain.proxy.s0": ("train", ("pretrain.R50.proxy.s0",)),
        "toy.plain.proxy.s0.plateau": ("plateau", ("toy.plain.proxy.s0", "pretrain.R50.proxy.s0")),
        "toy.halved.proxy.s0": ("transform", ("toy.plain.proxy.s0",)),
        "toy.longer.proxy.s0": ("train", ("pretrain.R50.proxy.s0",)),
        "toy.deeper.proxy.s0": ("train", ("pretrain.R101.proxy.s0",)),
    }


def test_every_row_that_trains_can_be_asked_for_its_plateau_proof():
    proofs = [run.id for run in plan([toy()], Choice("proxy", proofs=True)) if run.kind == "plateau"]
    assert sorted(proofs) == ["toy.deeper.proxy.s0.plateau", "toy.longer.proxy.s0.plateau", "toy.plain.proxy.s0.plateau"]
    asked = "pod.fpn-r50-fd.proxy.s0.plateau"
    runs = with_needs(asked, Choice("proxy"))
    assert [run.id for run in runs][-2:] == [asked.removesuffix(".plateau"), asked]
    assert [run.kind for run in runs].count("plateau") == 1
    length = {run.id: schedule_of(run, built()["pod"].row("fpn-r50-fd")).images for run in runs[-2:]}
    assert 1.3 < length[asked] / length[asked.removesuffix(".plateau")] < 1.7


def test_a_headline_row_gets_its_seeds_and_one_plateau_proof():
    ids = {run.id for run in plan([toy()], Choice("proxy", rows=("plain",)))}
    seeds = {f"toy.plain.proxy.s{seed}" for seed in range(5)}
    assert ids == {"pretrain.R50.proxy.s0", "toy.plain.proxy.s0.plateau"} | seeds


def test_every_run_comes_once_and_after_what_it_needs():
    runs = plan(built().values(), Choice("proxy"))
    seen: set[str] = set()
    for run in runs:
        assert run.id not in seen
        assert set(run.needs) <= seen, run.id
        seen.add(run.id)


def test_rows_that_differ_never_share_a_digest():
    runs = plan([*built().values(), toy()], Choice("proxy"))
    assert len({run.digest for run in runs}) == len(runs)


def test_twins_share_their_runs_below_the_paper_tier_only(tmp_path):
    init = tmp_path / "r50.safetensors"
    init.write_bytes(b"weights")
    names = {run.row for run in plan([toy()], Choice("proxy"))}
    assert "twin" not in names
    assert {run.row for run in plan([toy()], Choice("paper", Data("voc", "voc:07"), init=init))} >= {"plain", "twin"}


def test_the_paper_tier_needs_weights():
    with pytest.raises(UserError, match="--init"):
        plan([toy()], Choice("paper"))


def test_an_unknown_or_quoted_row_is_named_with_the_allowed_ones():
    for key in ("nope", "quoted"):
        with pytest.raises(UserError, match=f"'{key}'.*plain"):
            plan([toy()], Choice(rows=(key,)))


def test_schedules_by_hand():
    paper, base = toy(), SCALES["proxy"].schedule
    runs = {run.id: run for run in plan([paper], Choice("proxy", seeds=1))}
    plainly = schedule_of(runs["toy.plain.proxy.s0"], paper.row("plain"))
    assert (plainly.images, plainly.decay_images) == (base.images, base.decay_images)
    longer = schedule_of(runs["toy.longer.proxy.s0"], paper.row("longer"))
    assert (longer.images, longer.decay_images) == (2 * base.images, 2 * base.decay_images)
    proof = schedule_of(runs["toy.plain.proxy.s0.plateau"], paper.row("plain"))
    assert proof.decay_images == base.decay_images
    half = (base.images + base.decay_images) / 2
    assert half - base.epoch_images / 2 <= proof.images - base.images <= half + base.epoch_images / 2
    for schedule in (plainly, longer, proof):
        assert schedule.images % schedule.epoch_images == 0


def test_other_data_is_named_and_counts(tmp_path):
    annotations = tmp_path / "a.json"
    annotations.write_text("{}")
    data = Data("coco", "coco:My Data", (("train", str(annotations)),))
    run = plan([toy()], Choice("real", data, rows=("deeper",)))[-1]
    assert run.id == "toy.deeper.real.my-data.s0"
    assert run.needs == ("pretrain.R101.proxy.s0",)
    annotations.write_text('{"changed": 1}')
    assert plan([toy()], Choice("real", data, rows=("deeper",)))[-1].digest != run.digest
    elsewhere = tmp_path / "elsewhere" / "a.json"
    elsewhere.parent.mkdir()
    elsewhere.write_text('{"changed": 1}')
    moved = Data("coco", "coco:My Data", (("train", str(elsewhere)),))
    assert plan([toy()], Choice("real", moved, rows=("deeper",)))[-1].digest == plan([toy()], Choice("real", data, rows=("deeper",)))[-1].digest


def test_slugs():
    assert [slug(name) for name in ("coco:bccd", "voc:2007_trainval+2012", "???")] == ["bccd", "2007-trainval-2012", "data"]


def test_quick_is_the_headline_rows_once():
    runs = quick(built().values())
    rows = {(run.paper, run.row) for run in runs if run.kind in {"train", "transform"}}
    wanted = {(paper.key, key) for paper in built().values() if paper.quick for key in headlines(paper)}
    assert {paper for paper, _ in wanted} == {"condensing"}
    assert wanted <= rows
    assert {run.id for run in runs if (run.paper, run.row) in rows - wanted} <= {need for run in runs for need in run.needs}
    assert {run.seed for run in runs} == {0}
    assert "plateau" not in {run.kind for run in runs}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    for name in ("bench", "implementations"):
        shutil.copytree(HERE / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(places, "SOURCE", tmp_path)
    planning._closure.cache_clear()
    yield tmp_path
    planning._closure.cache_clear()


def digests() -> dict[str, str]:
    planning._closure.cache_clear()
    return {run.id: run.digest for run in plan(built().values(), Choice("proxy"))}


def changed(path: Path, more: str, before: dict[str, str]) -> set[str]:
    path.write_text(path.read_text() + more)
    return {name for name, value in digests().items() if value != before[name]}


def test_an_edit_of_one_methods_model_changes_its_own_runs_alone(copied):
    before = digests()
    model = copied / "implementations/condensing/model.py"
    found = changed(model, "\nnn.Linear.extra = 1\n", before)  # a statement that runs at import
    assert "condensing.k16-l5.proxy.s0" in found
    assert "condensing.k16-l5.proxy.s0.plateau" in found
    assert not {name for name in found if name.startswith(("condensing.fpn-r50.", "condensing.svd.", "condensing.rfcn", "pretrain."))}


def test_an_edit_of_a_metric_or_of_the_report_changes_no_run(copied):
    before = digests()
    for name in (
        "bench/metrics/__init__.py",
        "bench/metrics/coco_ap.py",
        "bench/report/__init__.py",
        "bench/tables.py",
        "bench/meters/macs.py",
        "bench/cost.py",
    ):
        assert changed(copied / name, "\nprint('edited')\n", before) == set(), name


def test_an_edit_of_the_loop_changes_every_run_that_learns(copied):
    before = digests()
    learnt = {run.id for run in plan(built().values(), Choice("proxy"))}
    assert changed(copied / "bench/train.py", "\nprint('edited')\n", before) == learnt


def test_no_run_rests_on_what_judges_it():
    for paper in built().values():
        for row in paper.rows:
            if row.build is not None:
                found = planning.closure(planning.source_of(SCENES, row))
                assert not [name for name in found if name.startswith(JUDGING)], row.key


def test_planning_imports_no_torch():
    code = "import sys; from bench.plan import *; from bench.catalogue import built; plan(built().values(), Choice()); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


def test_everything_holds_the_rows_that_are_judged_on_other_scenes_too():
    runs = {run.id: run for run in everything(built().values(), Choice("proxy"))}
    crowded = {name: run for name, run in runs.items() if run.data.name == "scenes-v1-crowded"}
    assert {run.row for run in crowded.values()} == {"align", "nms-05"}
    assert sorted(run.seed for run in crowded.values() if run.row == "nms-05") == [0, 1, 2, 3, 4]
    assert {run.data for run in crowded.values()} == {parse_data("scenes-v1-crowded")}, "a stage of the pipeline names its data; both must be one"
    assert "light_head.align.proxy.scenes-v1-crowded.s0.plateau" in crowded, "no plateau is shown on the crowded scenes"
    sizes = {name: run for name, run in runs.items() if run.data.name == "scenes-v1-onesize"}
    assert {run.row for run in sizes.values()} == {"c4-r50", "c4-r50-gsl", "c4-r50-fd", "c4-r50-2x", "c4-r50-fd-wt"}
    assert sorted(run.seed for run in sizes.values() if run.row == "c4-r50-fd" and run.kind == "train") == [0, 1], "a control asks for its own seeds"
    assert {run.id for run in plan(built().values(), Choice("proxy"))} == set(runs) - set(crowded) - set(sizes)
    starts = {need for run in crowded.values() for need in run.needs} - set(crowded)
    assert starts == {"light_head.body-b2.proxy.s0"}, "the body is the plain scenes'"


def test_everything_of_chosen_rows_holds_no_others():
    assert everything(built().values(), Choice("proxy", rows=("rfcn",))) == plan(built().values(), Choice("proxy", rows=("rfcn",)))
