"""`leandet measure`, and a detector of an adapter that trains: each through the command line, and what a mistake there says."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict, fields, replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torchvision
from commands import called, empty_home
from packaged import install
from PIL import Image

from bench.adapted import adapted_paper, runs_of
from bench.contract import photograph
from bench.datasets import open_split, parse_data
from bench.datasets.resized import Resized
from bench.detectors import build
from bench.gather import read_stored
from bench.leaderboard import Line, frame, lines
from bench.measuring import Measured, _cost, rows_of
from bench.meters.detectors import GRAPH, cost
from bench.orders import choice_of
from bench.records import Record, read_records
from bench.subjects import Subject
from bench.timing_records import current_digest, subject_digest
from bench.types import UserError

PLANTED = Path(__file__).with_name("planted.py")
SSD = "torchvision:ssdlite320_mobilenet_v3_large"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    return empty_home(tmp_path / "home", monkeypatch)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Three pictures with a bright square each, as a COCO dataset of one class."""
    folder = tmp_path_factory.mktemp("coco")
    images, annotations = [], []
    for place in range(3):
        pixels = torch.zeros(64, 96, 3, dtype=torch.uint8)
        pixels[8:40, 16 + 8 * place : 56 + 8 * place] = 255
        Image.fromarray(pixels.numpy()).save(folder / f"{place}.png")
        images.append({"id": place + 1, "file_name": f"{place}.png", "width": 96, "height": 64})
        annotations.append(
            {"id": place + 1, "image_id": place + 1, "category_id": 1, "bbox": [16 + 8 * place, 8, 40, 32], "area": 1280, "iscrowd": 0}
        )
    text = json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]})
    for split in ("train", "val", "test"):
        (folder / f"{split}.json").write_text(text)
    return folder


# ---- measure


def test_two_detectors_with_data_in_one_table_and_as_rows(monkeypatch, capsys, tmp_path, home, coco):
    """One that finds every square, beside one with random weights: costs, times, a ratio, AP where there are weights, rows that fit the schema."""
    rows, told = tmp_path / "rows.csv", tmp_path / "rows.json"
    words = (
        "--data",
        f"coco:{coco / 'test.json'},images={coco}",
        "--size",
        "96x128",
        "--quick",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--csv",
        str(rows),
    )
    code, out, err = called(monkeypatch, capsys, "measure", SSD, "python:truthful:make", *words, "--json", str(told))
    assert code == 0, out + err
    ssd, truthful = "torchvision.ssdlite320-mobilenet-v3-large-96x128", "python.truthful-make-96x128"
    for word in (ssd, truthful, "96x128", "64x96", "quick", "GMAC", "network", "100.00", "no AP: its weights are random; give --weights FILE"):
        assert word in out
    assert f"{truthful} / {ssd}: network" in out
    assert "p50, p90, p95, p99: n/a, too few samples" in out
    found = {row["id"]: row for row in csv.DictReader(io.StringIO(rows.read_text()))}
    assert list(next(iter(found.values()))) == [field.name for field in fields(Line)]
    row = found[ssd]
    theirs = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=2)
    params = sum(parameter.numel() for parameter in theirs.parameters())
    assert (row["params_m"], row["size_mb"], row["status"]) == (f"{params / 1e6:.3f}", f"{4 * params / 1e6:.3f}", "counted, not run")
    row = found[f"{truthful}.real"]
    assert (row["ap"], row["status"], row["macs_g"]) == ("100.000", "ok", "0.000")
    assert row["machine"]
    assert row["torch"] == metadata.version("torch")
    measured = json.loads(told.read_text())["measured"]
    assert [each["values"]["network_ms"] > 0 for each in measured] == [True, True]
    for path in (rows, told):
        code, out, err = called(monkeypatch, capsys, "leaderboard", "validate", str(path))
        assert (code, out) == (0, f"{path}: 2 rows fit the schema\n"), err
    kept = read_records(home / "runs" / "latency")
    assert len(kept) == 2
    assert all(record.context["quick"] and "quick" in record.context["marks"] for record in kept)
    assert not [name for record in kept for name in record.values if name.endswith("_p50_ms")]
    code, out, err = called(monkeypatch, capsys, "leaderboard", "--csv")
    assert [line for line in out.splitlines() if line.startswith(f"{truthful}.real,")], out + err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ap": 101.0}, "0 to 100"),
        ({"seeds": "one"}, "seeds \"'one'\": no number"),
        ({"machine": 3}, None),
        ({"id": "x.y"}, "made of paper, row and tier"),
        ({"status": "fine"}, "counted, not run"),
    ],
)
def test_a_json_that_does_not_fit_is_told_row_by_row(monkeypatch, capsys, tmp_path, change, said):
    (line,) = lines([Record("a.b.cost", "cost", "a", "b", "", 0, "ok", "", "", {"params_m": 1.0})])
    row = {name: None if value != value else value for name, value in asdict(line).items()}  # noqa: PLR0124 - nan
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"leaderboard": [row, row | {"id": "a.c", "row": "c"} | change]}))
    code, out, err = called(monkeypatch, capsys, "leaderboard", "validate", str(path))
    if said is None:  # a machine may be called anything
        assert (code, out) == (0, f"{path}: 2 rows fit the schema\n")
        return
    assert code == 2, out
    assert err.startswith(f"{path}:3: "), err
    assert said in err


@pytest.mark.parametrize(("content", "said"), [("{", "cannot be read as JSON"), ("[]", 'under "leaderboard"'), ('{"leaderboard": [3]}', "under")])
def test_what_is_no_leaderboard_at_all(monkeypatch, capsys, tmp_path, content, said):
    (tmp_path / "x.json").write_text(content)
    code, _, err = called(monkeypatch, capsys, "leaderboard", "validate", str(tmp_path / "x.json"))
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert said in err


def test_a_form_or_another_size_of_a_row_is_a_row_of_its_own(home):
    """No printed time is held against it, its cost is what was counted, and its row fits the schema."""
    plain = Subject("condensing.fpn-r50")
    assert (plain.place, plain.label) == (("condensing", "fpn-r50"), "condensing.fpn-r50.paper")
    subject = Subject("condensing.fpn-r50", form="fused", size="320x320")
    assert (subject.place, subject.label) == (("condensing", "fpn-r50@fused@320x320"), "condensing.fpn-r50.paper@fused@320x320")
    context = {"input": [320, 320], "unknown": [], "weights_from": "random", "versions": {"torch": "2.14.1"}}
    values = {"params_m": 41.5, "size_mb": 166.0, "macs_g": 30.0, "macs_fixed_g": 20.0, "macs_per_roi_g": 0.1, "rois": 100.0, "whole_ms": 5.0}
    latency = Record("x", "latency", *subject.place, "paper", 0, "ok", "", subject_digest(subject), values, context=context)
    assert current_digest(latency) == latency.digest
    assert current_digest(replace(latency, row="fpn-r50@320x320")) == subject_digest(plain)
    found = rows_of([Measured(subject, latency, _cost(subject, latency), None)])
    assert [(line.id, line.params_m, line.macs_g) for line in found] == [("condensing.fpn-r50@fused@320x320", 41.5, 30.0)]
    frame(found)
    assert (home / "runs" / "costs" / "condensing.fpn-r50.paper@fused@320x320.cost.json").is_file()


@pytest.mark.slow
def test_somebodys_package_is_measured_on_its_own_data(monkeypatch, capsys, tmp_path):
    """Its adapter, its detector and its dataset, found by the metadata that pip leaves, in this process and in those that measure."""
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    path = tmp_path / "r.csv"
    words = ("--data", "mine=/data/here", "--quick", "--threads", "1", "--csv", str(path))
    code, out, err = called(monkeypatch, capsys, "measure", "theirs:middle", "python:middle", *words)
    assert code == 0, out + err
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(path.read_text()))}
    assert set(rows) == {"theirs.middle.real", "python.middle.real"}
    assert {row["data"] for row in rows.values()} == {"mine:here"}
    assert rows["theirs.middle.real"]["ap"] == rows["python.middle.real"]["ap"] != ""
    code, out, err = called(monkeypatch, capsys, "measure", "theirs:centre")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "theirs has no 'centre'" in err


@pytest.mark.slow
def test_drawn_images_are_brought_to_the_size_and_a_row_goes_with_a_form(monkeypatch, capsys, tmp_path):
    path = tmp_path / "r.csv"
    names = ("condensing.fpn-r50", "condensing.fpn-r50@fused", "python:faulty:Good")
    code, out, err = called(monkeypatch, capsys, "measure", *names, "--size", "64x96", "--quick", "--threads", "1", "--csv", str(path))
    assert code == 0, out + err
    assert "condensing.fpn-r50.paper@fused@64x96 / condensing.fpn-r50.paper@64x96: network" in out
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(path.read_text()))}
    assert set(rows) == {"condensing.fpn-r50@64x96", "condensing.fpn-r50@fused@64x96", "python.faulty-good-64x96"}
    assert float(rows["python.faulty-good-64x96"]["macs_g"]) == pytest.approx(3 * 4 * 9 * 64 * 64 / 1e9, abs=5e-4)
    assert float(rows["condensing.fpn-r50@64x96"]["params_m"]) == pytest.approx(41.5, abs=1)


@pytest.mark.slow
def test_a_weights_file_is_named_and_scored(monkeypatch, capsys, coco, tmp_path, home):
    detector = build(Subject(SSD, classes=1), "", 1)
    torch.save(detector.state_dict(), tmp_path / "best.pth")  # as leandet's own training leaves it
    words = ("measure", SSD, "--data", str(coco / "test.json"), "--weights", str(tmp_path / "best.pth"), "--quick", "--threads", "1")
    code, out, err = called(monkeypatch, capsys, *words)
    assert code == 0, out + err
    (score,) = [record for record in read_records(home / "results" / "local" / "scores") if record.kind == "score"]
    assert score.row == "ssdlite320-mobilenet-v3-large-best"
    assert score.context["weights_from"] == "best.pth"
    assert score.context["test_images"] == 3
    assert 0 <= score.values["ap"] < 20


def test_a_papers_row_as_it_is_has_the_cost_that_its_paper_counts(home):
    """Counted for that row alone, by the paper's rule; asked again it is read."""
    record = _cost(Subject("condensing.fpn-r50"), Record("x", "latency", "condensing", "fpn-r50", "paper", 0, "ok", "", "", {}))
    assert record.id == "condensing.fpn-r50.cost"
    assert record.values["params_m"] > 0
    assert [path.name for path in (home / "runs" / "costs").iterdir()] == ["condensing.fpn-r50.cost.json"]
    monkey = pytest.MonkeyPatch()
    monkey.setattr("bench.cost.cost_record", None)
    assert _cost(Subject("condensing.fpn-r50"), record) == record
    monkey.undo()


def test_images_are_of_the_size_that_is_measured_at():
    split = open_split(parse_data("scenes-v1"), "test")
    sized = Resized(split, (64, 96))
    assert sized.image(0).shape == (3, 64, 96)
    height, width = split.image(0).shape[-2:]
    factor = torch.tensor([96 / width, 64 / height] * 2)
    torch.testing.assert_close(sized.target(0).boxes, split.target(0).boxes * factor)
    assert sized.digest != split.digest


def test_a_detector_without_parts_is_counted_as_it_runs_and_a_graph_is_not():
    from faulty import Good

    found = cost(Good().eval(), (64, 64), 0, photograph(32, 32))
    assert found == {"params_m": 112 / 1e6, "size_mb": 448 / 1e6, "macs_g": 3 * 4 * 9 * 64 * 64 / 1e9, "unknown": []}

    class Graph:
        def stored_bytes(self):
            return 5_000_000

    assert cost(Graph(), (64, 64), 0, photograph(32, 32)) == {"size_mb": 5.0, "unknown": [GRAPH]}


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        (Subject("condensing.fpn-r50", form="fused", size="320x320"), "condensing.fpn-r50@fused"),  # the size is an option of its own
        (Subject("condensing.fpn-r50.proxy.s0"), "condensing.fpn-r50.proxy.s0"),
        (Subject("/home/me/nets/mine.py:make", form="compiled"), "mine.py:make@compiled"),
        (Subject("detectron2:COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"), "detectron2:COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"),
    ],
)
def test_a_record_tells_a_name_that_can_be_typed_again_and_no_folder(subject, told):
    assert subject.told == told


# ---- mistakes

MISTAKES = [
    ("measure torchvision:fasterrcnn_resnet50_fpn_v3", "did you mean fasterrcnn_resnet50_fpn_v2", "allowed"),
    ("measure torchvison:x", "did you mean torchvision", "allowed"),
    ("measure nope", "'nope'", "PAPER.ROW"),
    (f"measure {SSD} --size 800", "--size '800'", "HEIGHTxWIDTH"),
    (f"measure {SSD} --weights /nope.pth", "/nope.pth", "there is no such file"),
    (f"measure {SSD} {SSD} --weights /nope.pth", "goes with one detector", "one by one"),
    ("measure condensing.fpn-r50 --weights /nope.pth", "brings its own weights", "ADAPTER:NAME"),
    (f"measure {SSD} --data /nope.json", "/nope.json", "give"),
    ("measure python:faulty:nothing", "no function nothing", "give a function"),
    pytest.param("measure python:truthful:broken", "its builder raised OSError: weights are on the moon", "mend the builder", marks=pytest.mark.slow),
    pytest.param(f"measure {PLANTED}:broken", "OSError: weights are on the moon", "mend it", marks=pytest.mark.slow),
    ("measure python:truthful:outside", "breaks the contract: boxes inside the image", "leandet check"),
    (f"measure {SSD}@fused", f"give {SSD}", "forms are for PAPER.ROW"),
    ("measure condensing.fpn-r50@fast", "there is no such form", "fused, kept, compiled, onnx, openvino"),
    ("measure condensing.fpn-r60", "'fpn-r60'", "allowed"),
    (f"measure {SSD} --json /nope/a.json", "--json /nope/a.json: its folder is not there", "give a file"),
    (f"measure {SSD} --csv /", "--csv /: is a folder", "give a file"),
    (f"measure {SSD} --images 0", "--images 0", "allowed"),
    (f"measure {SSD} --device tpu", "--device 'tpu'", "allowed"),
    ("check torchvision:nope", "'nope'", "allowed"),
    ("check python:truthful:broken", "weights are on the moon", "mend the builder"),
    (f"run {SSD} --tier smoke --jobs 2", "--jobs 2", "leave it out"),
    (f"run {SSD} --rows x", "--rows x", "leave it out"),
    ("run torchvision:nope --tier smoke", "'nope'", "allowed"),
    ("equivalence --size 8", "--size '8'", "HEIGHTxWIDTH"),
]


@pytest.mark.parametrize(("words", "named", "allowed"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_two(monkeypatch, capsys, home, words, named, allowed):  # noqa: PLR0917 - fixtures
    code, out, err = called(monkeypatch, capsys, *words.split(), *(["--quick", "--threads", "1"] if words.startswith("measure") else []))
    assert code == 2, out + err
    last = [line for line in err.strip().splitlines() if not line.endswith("building it")]
    assert len(last) == 1, err
    assert named in last[0]
    assert allowed in last[0]
    assert list(home.rglob("*.json")) == []


def test_a_checkpoint_of_another_model_is_one_line(monkeypatch, capsys, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    code, _, err = called(monkeypatch, capsys, "measure", SSD, "--weights", str(tmp_path / "other.pth"), "--quick", "--threads", "1")
    assert code == 2
    assert "other.pth: a checkpoint of another model than torchvision's ssdlite320_mobilenet_v3_large" in err.strip().splitlines()[-1]


# ---- an adapter's detector trains


def test_it_trains_in_our_loop_and_stands_on_the_leaderboard(monkeypatch, capsys, coco, home):
    data = ",".join(f"{split}={coco}/{split}.json" for split in ("train", "val", "test"))
    code, out, err = called(monkeypatch, capsys, "run", SSD, "--tier", "smoke", "--data", data, "--seeds", "1")
    assert code == 0, out + err
    (stored,) = [each for each in read_stored(home / "runs") if each.record.kind == "train"]
    record = stored.record
    assert record.id.startswith("torchvision.ssdlite320-mobilenet-v3-large-trained.smoke.")
    assert record.status == "ok"
    assert len(record.samples["losses"]) == 12
    assert stored.predictions is not None
    (line,) = lines([replace(record, tier="real")])
    assert line.id == "torchvision.ssdlite320-mobilenet-v3-large-trained.real"
    assert (line.status, line.seeds, line.ap) == ("ok", 1, record.values["ap"])
    (cost,) = read_records(home / "runs" / "costs")
    (line,) = lines([replace(record, tier="real"), cost])
    own = sum(each.numel() for each in build(Subject(SSD, classes=1), "", 1).parameters())
    assert (line.params_m, line.macs_g > 0.1) == (own / 1e6, True)
    before = (home / "runs" / record.id / "record.json").stat().st_mtime_ns
    assert called(monkeypatch, capsys, "run", SSD, "--tier", "smoke", "--data", data, "--seeds", "1")[0] == 0
    assert (home / "runs" / record.id / "record.json").stat().st_mtime_ns == before  # it stands
    weights = home / "runs" / record.id / "weights.safetensors"
    detector = build(Subject(SSD, classes=1, weights=str(weights)), "", 1)
    assert detector.weights_from == "weights.safetensors"


def test_one_that_cannot_learn_says_why_on_the_leaderboard(monkeypatch, capsys, home):
    code, out, err = called(monkeypatch, capsys, "run", "python:truthful:mute", "--tier", "smoke", "--seeds", "1")
    assert code == 0, out + err
    assert "skipped: inference only: it is a graph" in out
    (line,) = lines(record for record in read_records(home / "runs") if record.paper == "python")
    assert line.status == "skipped: inference only: it is a graph"


def test_a_run_rests_on_its_adapter_its_framework_and_its_weights(monkeypatch, tmp_path):
    choice = choice_of("smoke", "", "", 1, "")
    (tmp_path / "theirmodel.py").write_text("def make(): return 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = runs_of("python:theirmodel:make", choice)[1][0].digest
    (tmp_path / "theirmodel.py").write_text("def make(): return 2")
    assert runs_of("python:theirmodel:make", choice)[1][0].digest != theirs  # somebody's own source counts too
    digests = {runs_of(name, choice)[1][0].digest for name in (SSD, "torchvision:fcos_resnet50_fpn")}
    assert len(digests) == 2
    assert runs_of(SSD, choice)[1][0].digest in digests
    monkeypatch.setattr("bench.adapters.framework_versions", lambda _: {"torchvision": "0.0"})
    digests.add(runs_of(SSD, choice)[1][0].digest)
    assert len(digests) == 3
    (tmp_path / "w.pth").write_bytes(b"1")
    given = choice_of("smoke", "", "", 1, str(tmp_path / "w.pth"))
    digests.add(runs_of(SSD, given)[1][0].digest)
    assert len(digests) == 4
    assert not runs_of(SSD, given)[1][0].needs  # no pretrained backbone of ours
    with pytest.raises(UserError, match="--init"):
        runs_of(SSD, choice_of("paper", "voc=/x", "", 1, ""))
    assert adapted_paper(SSD).rows[0].title.endswith(SSD)


def test_a_cost_that_cannot_be_counted_is_a_line_and_undoes_no_training(monkeypatch, capsys, home):
    def fails(*given):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("bench.meters.detectors.cost", fails)
    code, out, _ = called(monkeypatch, capsys, "run", SSD, "--tier", "smoke", "--seeds", "1")
    assert code == 0
    assert "trained, but its cost at 800 x 1333 cannot be counted (RuntimeError: no such operator)" in out
    assert [record.status for record in read_records(home / "runs") if record.kind == "train"] == ["ok"]
