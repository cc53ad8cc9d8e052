"""What a command names, as runs."""

from __future__ import annotations

import coco_files
import pytest

from bench import places
from bench.catalogue import built
from bench.orders import choice_of, longer, of_line, ordered, remaining, state, with_needs
from bench.plan import Choice, plan, schedule_of
from bench.records import Record, write_record
from bench.types import UserError


def test_an_id_names_its_run_after_all_that_it_needs():
    runs = with_needs("condensing.svd.proxy.s0", Choice())
    assert runs[-1].id == "condensing.svd.proxy.s0"
    assert "condensing.fpn-r50.proxy.s0" in {run.id for run in runs}
    seen: set[str] = set()
    for run in runs:
        assert set(run.needs) <= seen
        seen.add(run.id)


@pytest.mark.parametrize(
    "name", ["condensing.k16-l5.proxy.s3", "condensing.k16-l5.proxy.s0.plateau", "pretrain.R101.proxy.s0", "pretrain.R50.smoke.s0"]
)
def test_every_kind_of_id_is_found_with_the_digest_of_the_plan(name):
    (found,) = with_needs(name, Choice())[-1:]
    tier = found.tier
    (planned,) = [run for run in plan(built().values(), Choice(tier)) if run.id == name]
    assert found == planned


def test_every_planned_run_is_found_by_its_id():
    """As `dvc repro` calls each one by its id; a digest of its own there would train it twice."""
    runs = {run.id: run for run in plan(built().values(), Choice("proxy"))}
    for name in [*list(runs)[::7], *[name for name in runs if name.endswith(".plateau")]]:
        assert with_needs(name, Choice())[-1] == runs[name]


@pytest.mark.parametrize(
    "name", ["condensing", "condensing.k16-l5", "condensing.k16-l5.huge.s0", "condensing.k16-l5.proxy.s0.more", "condensing.quoted.proxy.s0"]
)
def test_what_is_no_id_says_so(name):
    with pytest.raises(UserError):
        with_needs(name, Choice())


def test_an_id_on_other_drawn_scenes_says_where_its_data_is():
    name = "light_head.nms-05.proxy.scenes-v1-crowded.s1"
    assert with_needs(name, Choice())[-1].id == name


def test_a_leaderboard_row_is_all_its_seeds_and_what_they_start_from():
    runs = of_line("condensing.k1-l1.proxy", Choice())
    assert {run.id for run in runs if run.row == "k1-l1"} == {f"condensing.k1-l1.proxy.s{seed}" for seed in range(5)}
    needed = {need for run in runs for need in run.needs}
    assert {run.id for run in runs if run.row != "k1-l1"} <= needed


def test_a_paper_or_nothing_is_its_whole_plan():
    choice = choice_of("proxy", "", "", 0, "")
    assert ordered("condensing", choice) == plan([built()["condensing"]], choice)
    assert ordered("", choice) == plan(built().values(), choice)


def test_states_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    run = with_needs("condensing.rfcn.proxy.s0", Choice())[-1]
    folder = places.run_folder(run.id)
    assert state(run) == "to do"
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"")
    assert state(run) == "begun"
    for status, digest, said in (
        ("ok", run.digest, "stands"),
        ("ok", "older", "stale"),
        ("failed", run.digest, "failed"),
        ("skipped", run.digest, "skipped"),
    ):
        write_record(Record(run.id, "train", "condensing", "rfcn", "proxy", 0, status, "why", digest, {}), folder / "record.json")
        assert state(run) == said
        assert (run in remaining([run])) == (said in {"stale", "failed"})


def test_a_length_is_named_in_the_id_and_learns_so_many_times_as_long(tmp_path):
    """At the tier real alone; what its rows start from is the proxy's, as long as ever."""
    paths = [f"{split}={coco_files.write(tmp_path, split, [at], [(at, 7)])}" for at, split in enumerate(("train", "val", "test"))]
    once = choice_of("real", ",".join(paths), "dense,both-30-tuned", 1, "")
    plain, long = (plan([built()["compression"]], longer(once, length)) for length in (1, 10))
    assert [run.id.replace(".x10", "") for run in long] == [run.id for run in plain]
    for ours, other in zip(long, plain, strict=True):
        row = None if ours.kind == "pretrain" else built()["compression"].row(ours.row)
        factor = 10 if ours.tier == "real" else 1
        assert schedule_of(ours, row).images == factor * schedule_of(other, row).images
        assert (ours.digest != other.digest) == (factor > 1)
        assert with_needs(ours.id, once)[-1] == ours
    for tier, length in (("proxy", 2), ("real", 0)):
        with pytest.raises(UserError, match="--length"):
            longer(Choice(tier), length)


@pytest.mark.parametrize(
    "name",
    [
        "condensing.k16-l5.proxy.s1.plateau",
        "condensing.svd.proxy.s0.plateau",
        "pretrain.R50.proxy.s0.plateau",
        "pod.fpn-r50.real.aquarium.s0.plateau",
        "pod.fpn-r50.proxy.s0.plateau.plateau",
    ],
)
def test_what_no_plateau_proof_goes_on_from_is_one_line(name, tmp_path):
    """Another seed than the first, a row that learns nothing, a pretrained backbone, a user's own data."""
    file = coco_files.write(tmp_path, "all", [1], [(1, 7)])
    data = ",".join(f"{split}={file}" for split in ("train", "val", "test"))
    choice = choice_of("proxy", data if "real" in name else "", "", 0, "")
    with pytest.raises(UserError) as caught:
        with_needs(name, choice)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
