"""The latency meter: sessions of several processes, their records, and what a mistake says."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from commands import called_in as called
from rich.console import Console

from bench import machine, places
from bench.datasets import open_split, parse_data
from bench.detectors import load_module, weights_hash
from bench.gather import standing
from bench.percentiles import bound
from bench.publish import publish
from bench.records import Record, read_record
from bench.report import render
from bench.showing import record_text
from bench.subjects import Conditions, Subject, check, find_subject
from bench.timing import Manner, time_subjects
from bench.timing_records import column, current_digest, keep, ratios, records_of, spread
from bench.timing_table import as_csv, conditions_line, print_latencies, ratio_line
from bench.timing_worker import Died, Worker
from bench.watching import Seen

PLANTED = Path(__file__).with_name("planted.py")
planted = load_module(PLANTED)
CONDITIONS = Conditions(images=12, threads=1, device="cpu")


def subject(function):
    return Subject(f"{PLANTED}:{function}")


# ---- a session


@pytest.fixture(scope="module")
def session():
    """Two detectors of the same kind with other weights, one that dies on the way, one that cannot be built."""
    names = ("honest", "other_weights", "dying", "broken")
    return time_subjects([subject(name) for name in names], CONDITIONS, Manner(patience_s=120))


@pytest.fixture(scope="module")
def kept(session, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANDET_HOME", str(tmp_path_factory.mktemp("home")))
        yield keep(session), places.latencies() / str(machine.describe()["name"])


def test_the_compared_take_turns_image_by_image(session):
    honest, other, *_ = session.lanes
    assert [sample["round"] for sample in honest.samples] == [sample["round"] for sample in other.samples] == list(range(12))
    split = open_split(parse_data("scenes-v1"), "test")
    assert [sample["image"] for sample in honest.samples] == [split.image_name(place) for place in range(12)]


def test_a_record_holds_the_samples_and_all_that_travels_with_them(session, kept):
    records, folder = kept
    record = read_record(folder / f"{records[0].id}.json")
    table = pq.read_table(folder / f"{record.id}.parquet").to_pydict()
    measured = [place for place, phase in enumerate(table["phase"]) if phase == "measured"]
    whole = [table["whole_ms"][place] for place in measured]
    assert len(whole) == 12 == record.context["samples"]
    assert record.values["whole_ms"] == pytest.approx(sorted(whole)[5] / 2 + sorted(whole)[6] / 2)
    assert record.values["whole_p50_ms"] == max(whole) == bound(whole, 50)  # of twelve the largest bounds the median
    assert not {"whole_p90_ms", "whole_p95_ms", "whole_p99_ms"} & set(record.values)
    assert table["phase"].count("warm") == record.context["warm_up"]["samples"] > 9
    assert (record.values["rois"], record.values["detections"]) == (64, 8)
    assert record.values["peak_memory_mb"] >= record.values["resting_memory_mb"] > 50
    assert {"machine", "versions", "commit", "precision", "threads", "memory_format", "image_list", "seen", "quiet", "marks"} <= set(record.context)
    assert record.context["weights"] == weights_hash(planted.Honest())
    assert record.context["quiet"] in {"ok", "noisy", "unknown"}
    assert str(Path.home()) not in json.dumps(record.context)


def test_two_detectors_with_other_weights_have_records_of_their_own(kept):
    records, folder = kept
    assert len({record.id for record in records}) == 4
    assert records[0].context["weights"] != records[1].context["weights"]
    assert len(list(folder.glob("*.json"))) == 4


def test_the_ratio_is_that_of_the_medians_with_its_interval(session, kept):
    honest, other, *_ = session.lanes
    values = kept[0][1].values
    a, b = (sorted(column(lane, "network_ms")) for lane in (other, honest))
    assert values["network_ratio"] == pytest.approx((a[5] + a[6]) / (b[5] + b[6]))
    assert values["network_ratio_low"] <= values["network_ratio"] <= values["network_ratio_high"]
    assert "network_ratio" not in kept[0][0].values
    assert kept[0][1].context["against"] == ["file.planted-honest", weights_hash(planted.Honest())]
    assert ratio_line(kept[0][1]).startswith("file.planted-other-weights / file.planted-honest: network ")


def test_what_dies_is_a_failed_record_with_its_last_lines_and_the_others_go_on(kept):
    (_, _, dying, broken), folder = kept
    assert (dying.status, broken.status) == ("failed", "failed")
    assert "exit code 7" in dying.reason
    assert "the last words" in dying.reason
    assert broken.reason == "OSError: weights are on the moon"
    assert read_record(folder / f"{dying.id}.json").reason == dying.reason
    assert dying.values == broken.values == {}


def test_the_csv_has_a_line_a_record(kept):
    lines = as_csv(kept[0]).decode().splitlines()
    assert len(lines) == 5
    assert as_csv(kept[0]) == as_csv(tuple(reversed(kept[0])))
    assert "12 images of scenes-v1" in conditions_line(kept[0][0])


def test_a_ratio_needs_the_same_rounds(session):
    honest, other, *_ = session.lanes
    cut = replace(other, samples=other.samples[3:])
    assert ratios(cut, honest)["whole_ratio"] == pytest.approx(ratios(cut, replace(honest, samples=honest.samples[3:]))["whole_ratio"])
    assert ratios(replace(other, samples=[]), honest) == {}


def test_marks(session):
    noisy = replace(session, seen=Seen(3.0, 0.0, 0.0, "unknown", "none here"))
    record = records_of(noisy)[0]
    assert record.status == "ok"  # marked, not dropped
    assert {"noisy: load 3.0 before it began", "cannot tell: throttled"} <= set(record.context["marks"])
    assert record.context["quiet"] == "noisy"
    calm = tuple(replace(lane, warmed=lane.warmed | {"samples_ms": [1.0] * 10}) for lane in session.lanes[:2])
    quiet = replace(session, lanes=calm, seen=Seen(0.0, 0.0, 0.0, "no", "none here"))
    assert records_of(quiet)[0].context["quiet"] == "ok"
    assert records_of(replace(quiet, seen=Seen(0.0, 0.0, 0.0, "unknown", "none here")))[0].context["quiet"] == "unknown"
    assert "quick" in records_of(replace(session, manner=Manner(quick=True)))[0].context["marks"]
    assert spread([100.0] * 5 + [150.0] * 5) == pytest.approx(50 / 125)
    assert spread([100.0] * 9) == 0


def test_a_quick_look_gives_no_percentile(session):
    quick = records_of(replace(session, manner=Manner(quick=True)))[0]
    assert not [name for name in quick.values if "_p" in name and name.endswith("_ms") and name[-5:-3].isdigit()]


def test_what_hangs_is_killed_and_says_its_last_lines():
    worker = Worker(subject("hanging"), CONDITIONS, patience_s=120)
    try:
        worker.open()
        worker.patience_s = 0.5
        with pytest.raises(Died, match=r"hung: no answer to 'measure' within 0\.5 s; its last lines: thinking"):
            worker.ask("measure", place=0)
    finally:
        worker.close()


def test_what_hangs_is_a_failed_record_and_the_others_go_on(tmp_path, monkeypatch):
    def hurried(lane):
        lane.worker.patience_s = 0.5 if lane.subject.name.endswith("hanging") else 120

    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    found = keep(time_subjects([subject("hanging"), subject("honest")], replace(CONDITIONS, images=3), Manner(quick=True), opened=hurried))
    assert [record.status for record in found] == ["failed", "ok"]
    assert "hung: no answer" in found[0].reason
    assert "thinking" in found[0].reason
    assert (found[0].values, "whole_ms" in found[1].values) == ({}, True)


# ---- mistakes

MISTAKES = [
    ("time condensing.fpn-r50 --images 0", "--images 0", "allowed: 1 or more"),
    ("time condensing.fpn-r50 --images 99999999", "--images 99999999", "scenes-v1/test has"),
    ("time condensing.fpn-r50 --threads 4096", "--threads 4096", "the cores of this machine"),
    ("time condensing.fpn-r50 --rois -3", "--rois -3", "allowed"),
    ("time condensing.fpn-r50 --precision int4", "'int4'", "float32, bfloat16"),
    ("time condensing.fpn-r50 --device tpu", "'tpu'", "auto, cpu, cuda"),
    ("time condensing.fpn-r50 --tier huge", "'huge'", "paper"),
    ("time condensing.fpn-r50 --timeout 0", "--timeout 0", "more than 0"),
    ("time condensing.nope", "'nope'", "fpn-r50"),
    ("time condensing", "'condensing'", "PAPER.ROW"),
    ("time condensing.fpn-r50.proxy.s0", "has no weights here", "leandet run condensing.fpn-r50.proxy.s0"),
    ("time nowhere.py:build", "nowhere.py:build", "FILE.py:FUNCTION"),
    ("time condensing.fpn-r50 --data test=/nope.json", "/nope.json", "give"),
]


def test_more_rois_than_there_are_is_said_before_anything_is_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("bench.timing.settle", lambda show: None)
    code, _, err = called(monkeypatch, capsys, tmp_path, "time", "condensing.fpn-r50", "--tier", "proxy", "--rois", "5000", "--images", "1")
    assert (code, list(tmp_path.rglob("*.json"))) == (2, [])
    assert "--rois 5000: more than the model gives" in err.strip().splitlines()[-1]  # after the words of progress


@pytest.mark.parametrize(("words", "named", "allowed"), MISTAKES, ids=[words for words, _, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_two(monkeypatch, capsys, tmp_path, words, named, allowed):  # noqa: PLR0917 - fixtures
    code, out, err = called(monkeypatch, capsys, tmp_path, *words.split())
    assert code == 2, out + err
    assert len(err.strip().splitlines()) == 1
    assert named in err
    assert allowed in err
    assert list(tmp_path.rglob("*.json")) == []


def test_an_image_list_with_a_missing_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("bench.timing.settle", lambda show: None)
    listed = {"images": [{"id": 1, "file_name": "gone.png", "width": 4, "height": 4}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    code, _, err = called(
        monkeypatch, capsys, tmp_path / "home", "time", "condensing.fpn-r50", "--data", f"test={tmp_path}/list.json", "--images", "1"
    )
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "gone.png" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_mistake_that_only_the_device_sees_loses_nothing(monkeypatch, capsys, tmp_path):
    old = tmp_path / "runs" / "latency" / "m" / "old.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    code, _, err = called(monkeypatch, capsys, tmp_path, "time", f"{PLANTED}:honest", "--device", "cuda")
    assert code == 2
    assert err.strip().splitlines()[-1] == "leandet: --device cuda: torch finds no GPU here; allowed: cpu, or auto; see `leandet doctor`"
    assert [path.name for path in tmp_path.rglob("*.json")] == ["old.json"]


def test_conditions_that_can_be(tmp_path):
    assert check(CONDITIONS).name == "scenes-v1/test"
    assert find_subject("condensing.fpn-r50", "proxy") == Subject("condensing.fpn-r50", "proxy")
    assert Subject("some/Fast Net.py:make").label == "file.fast-net-make"


# ---- among the other records


def test_latencies_are_published_beside_the_others_and_rendered(session, tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    monkeypatch.setattr("bench.machine.git", lambda *words: "")
    records = keep(session)
    keep(replace(session, manner=Manner(quick=True)))
    written = {path.relative_to(tmp_path).as_posix() for path in publish().written}
    folder = f"results/records/{machine.describe()['name']}"
    assert {f"{folder}/{record.id}.json" for record in records} <= written
    assert f"{folder}/{records[0].id}.parquet" in written
    lines = (tmp_path / "results" / "latency.csv").read_text().splitlines()
    assert len(lines) == 1 + len(records)  # a quick look is no number
    assert json.loads(record_text(records[0].id))["kind"] == "latency"


def test_a_record_rests_on_the_source_of_its_row():
    record = Record("x", "latency", "condensing", "fpn-r50", "proxy", 0, "ok", "", "", {})
    own = current_digest(record)
    assert len(own) == 64
    assert own == current_digest(replace(record, id="y"))
    assert len({own, current_digest(replace(record, row="k16-l5")), current_digest(replace(record, tier="paper"))}) == 3
    assert current_digest(replace(record, row="gone")) == current_digest(replace(record, paper="file")) == ""


def test_without_latencies_there_is_no_file_of_them(tmp_path):
    assert not [path for path in render(standing([]), tmp_path) if path.name == "latency.csv"]


def test_the_table_on_the_screen(session):
    out = io.StringIO()
    print_latencies(records_of(session), Console(file=out, width=200))
    said = out.getvalue()
    assert "file.planted-honest" in said
    assert "n/a" in said
    assert "whole detection" in said
    assert "the last words" in said
