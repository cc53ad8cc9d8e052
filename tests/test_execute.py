"""A run: learnt, tested once, recorded last; found again, resumed, replayed. A small real detector, on drawn scenes, at the smoke tier."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench import places
from bench.attest import attest
from bench.datasets import open_split
from bench.execute import CHECKPOINT, CONSTANT, PREDICTIONS, RECORD, SMOKE, WEIGHTS, Setup, execute, looks, standing
from bench.metrics import score_all
from bench.metrics.store import read_predictions
from bench.plan import Choice, plan, schedule_of
from bench.records import machine_of, ran_on, read_record, write_record
from bench.scales import SCALES
from bench.spec import Paper, Row, Setting, Transform
from bench.train import TrainingError
from bench.types import Batch, Detections, Unavailable, UserError
from implementations.layers.backbones import ResNet
from implementations.layers.images import normalise

SETTING = Setting("voc07+12", 20, 600, 1000, "R50")


class Corner(nn.Module):
    """Says of each image which class its first object has, and where: a detector of one box."""

    def __init__(self, request, factor=1.0):
        super().__init__()
        self.backbone = ResNet(request.scale.backbones["R50"])
        self.classes, self.factor = request.classes, factor
        self.name = nn.Linear(self.backbone.channels[-1], request.classes)
        self.place = nn.Linear(self.backbone.channels[-1], 4)

    def prepare(self, images):
        sizes = tuple((image.shape[-2], image.shape[-1]) for image in images)
        return Batch(normalise(torch.stack(list(images))), sizes, sizes)

    def network(self, batch):
        seen = self.backbone(batch.pixels)[-1].mean((2, 3))
        return self.name(seen), self.place(seen).sigmoid(), batch.originals

    def finish(self, raw):
        scores, places_, sizes = raw
        best, labels = scores.softmax(1).max(1)
        boxes = torch.stack(
            [torch.cat([p[:2] * 0.5, 0.5 + p[2:] * 0.5]) * torch.tensor([w, h, w, h]) for p, (h, w) in zip(places_, sizes, strict=True)]
        )
        return [Detections(box[None], score[None], label[None]) for box, score, label in zip(boxes, best, labels, strict=True)]

    def forward(self, images, targets):
        scores, _, _ = self.network(self.prepare(images))
        labels = torch.stack([target.labels[0] for target in targets])
        return {"class": nn.functional.cross_entropy(scores, labels) * self.factor}


def corner(request, **arguments):
    return Corner(request, **arguments)


def unavailable(request):
    raise Unavailable("this detector only detects")


PAPER = Paper(
    "toy",
    "Toy",
    (
        Row("corner", "One box", SETTING, corner, headline=True),
        Row("beside", "One box, no headline", SETTING, corner),
        Row("broken", "Its loss is not a number", SETTING, corner, {"factor": float("nan")}),
        Row("frozen", "Cannot learn", SETTING, unavailable),
        Row("turned", "The same weights in another form", SETTING, corner, needs=("corner",), recipe=(Transform(),)),
    ),
    (),
    (),
)
SETUP = Setup({"toy": PAPER})


def runs_of(row):
    return {run.id: run for run in plan([PAPER], Choice("smoke", rows=(row,), seeds=1))}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A workplace in which the corner row has been run, and its plateau proof."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANDET_HOME", str(tmp_path_factory.mktemp("home")))
        for run in runs_of("corner").values():
            execute(run, SETUP)
        yield places.home()


RUN = "toy.corner.smoke.s0"


def test_a_record_holds_all_that_a_number_may_not_travel_without(home):
    record = read_record(places.run_folder(RUN) / RECORD)
    run = runs_of("corner")[RUN]
    schedule = schedule_of(run, PAPER.row("corner"))
    assert (record.status, record.digest, record.kind) == ("ok", run.digest, "train")
    assert {
        "machine",
        "versions",
        "commit",
        "dirty",
        "device",
        "precision",
        "threads",
        "batch",
        "data",
        "data_digest",
        "seconds",
        "schedule",
        "scale",
    } <= set(record.context)
    assert record.context["images"] == schedule.images + schedule.decay_images
    assert len(record.samples["losses"]) == min(20, record.context["images"] // schedule.batch)
    assert [entry["images"] for entry in record.samples["curve"]] == list(
        range(schedule.epoch_images, record.context["images"] + 1, schedule.epoch_images)
    )
    assert str(home) not in json.dumps(record.context)


def test_the_numbers_are_those_of_the_stored_predictions(home):
    record = read_record(places.run_folder(RUN) / RECORD)
    found = read_predictions(places.run_folder(RUN) / PREDICTIONS)
    truth = open_split(runs_of("corner")[RUN].data, "test").ground_truth()
    kept = truth.image < SMOKE  # scenes are numbered from 0
    first = replace(
        truth,
        image_ids=truth.image_ids[:SMOKE],
        **{name: getattr(truth, name)[kept] for name in ("image", "boxes", "labels", "crowd", "difficult", "area")},
    )
    assert set(found.image.tolist()) == set(range(SMOKE))
    assert record.values == score_all(found, first)


def test_weights_stand_and_the_checkpoint_is_gone(home):
    folder = places.run_folder(RUN)
    record = read_record(folder / RECORD)
    assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == record.samples["weights"]
    assert (folder / CONSTANT).exists()
    assert not (folder / CHECKPOINT).exists()


def test_a_row_that_is_no_headline_keeps_what_a_proof_goes_on_from_where_one_is_asked_for(home):
    run, proof = plan([PAPER], Choice("smoke", rows=("beside",), seeds=1, proofs=True))[-2:]
    folder = places.run_folder(run.id)
    execute(run, SETUP)
    assert not (folder / CONSTANT).exists()
    with pytest.raises(UserError, match=rf"missing, so {proof.id} has nothing to continue from; delete .* and run {proof.id}, which trains it anew"):
        execute(proof, SETUP)
    shutil.rmtree(folder)
    execute(run, replace(SETUP, proven=frozenset({run.id})))
    assert execute(proof, SETUP).status == "ok"


def test_what_stands_is_not_done_again(home):
    files = {path: path.stat().st_mtime_ns for path in places.run_folder(RUN).iterdir()}
    execute(runs_of("corner")[RUN], SETUP)
    assert {path: path.stat().st_mtime_ns for path in places.run_folder(RUN).iterdir()} == files


def test_an_attested_digest_stands_too(home, tmp_path, monkeypatch):
    run = runs_of("corner")[RUN]
    record = read_record(places.run_folder(RUN) / RECORD)
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    write_record(replace(record, digest="older", attested=(run.digest,)), places.run_folder(RUN) / RECORD)
    assert standing(run) is not None
    write_record(replace(record, digest="older"), places.run_folder(RUN) / RECORD)
    assert standing(run) is None


def test_a_plateau_proof_goes_on_from_the_constant_rate(home):
    main = read_record(places.run_folder(RUN) / RECORD)
    proof = read_record(places.run_folder(f"{RUN}.plateau") / RECORD)
    assert proof.kind == "plateau"
    constant = main.context["schedule"]["images"]
    early = [[entry for entry in record.samples["curve"] if entry["images"] <= constant] for record in (main, proof)]
    assert early[0] == early[1] != []
    assert proof.context["images"] > main.context["images"]


def test_the_same_seed_gives_the_same_weights(home, tmp_path, monkeypatch):
    first = [(places.run_folder(run) / WEIGHTS).read_bytes() for run in runs_of("corner")][:2]
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    for run in list(runs_of("corner").values())[:2]:
        execute(run, SETUP)
    assert [(places.run_folder(run) / WEIGHTS).read_bytes() for run in runs_of("corner") if (places.run_folder(run) / WEIGHTS).exists()] == first


def test_other_code_starts_anew_and_leaves_nothing_of_the_old(home, tmp_path, monkeypatch):
    pretrain, run = list(runs_of("corner").values())[:2]
    weights = (places.run_folder(pretrain.id) / WEIGHTS).read_bytes()
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    folder = places.run_folder(run.id)
    for path, content in (
        (places.run_folder(pretrain.id) / WEIGHTS, weights),
        (folder / CHECKPOINT, b"of older code"),
        (folder / "digest.txt", b"older"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert execute(run, SETUP).digest == run.digest


def test_a_loss_that_is_not_finite_names_the_images_and_leaves_a_record(home):
    run = runs_of("broken")["toy.broken.smoke.s0"]
    with pytest.raises(TrainingError, match=r"nan.*scenes-v1/train/\d+"):
        execute(run, SETUP)
    record = read_record(places.run_folder(run.id) / RECORD)
    assert (record.status, record.values) == ("failed", {})
    assert "scenes-v1/train/" in record.reason
    assert standing(run) is None


def test_a_detector_that_cannot_learn_says_why(home):
    record = execute(runs_of("frozen")["toy.frozen.smoke.s0"], SETUP)
    assert (record.status, record.reason) == ("skipped", "this detector only detects")


def test_a_transform_of_weights_that_another_machine_trained_stands_beside_them(home):
    path, turned = places.run_folder(RUN) / RECORD, runs_of("turned")["toy.turned.smoke.s0"]
    own = read_record(path)
    here = execute(turned, SETUP)
    assert here.kind == "transform"
    assert "trained_on" not in here.context
    assert machine_of(here) == ran_on(here) == ran_on(own)
    (places.run_folder(turned.id) / RECORD).unlink()
    write_record(replace(own, context=dict(own.context) | {"machine": {"name": "gpu-x1"}}), path)
    try:
        carried = execute(turned, SETUP)
    finally:
        write_record(own, path)
    assert (machine_of(carried), ran_on(carried)) == ("gpu-x1", ran_on(own))


def test_what_a_run_starts_from_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"next: leandet run pretrain\.R50\.smoke\.s0"):
        execute(runs_of("corner")[RUN], SETUP)


@pytest.fixture
def papers(monkeypatch):
    monkeypatch.setattr("bench.attest.built", lambda: {"toy": PAPER})


@pytest.mark.parametrize("name", [RUN, "pretrain.R50.smoke.s0"])
def test_a_bit_equal_replay_attests(home, papers, tmp_path, name):
    run, record = runs_of("corner")[name], read_record(places.run_folder(name) / RECORD)
    path = tmp_path / "record.json"
    found = attest(run, replace(record, digest="of older code"), path)
    assert found.equal, found.said
    assert ("detections equal too" in found.said) == (name == RUN)
    assert read_record(path).attested == (run.digest,)


@pytest.mark.parametrize("broken", ["losses", "detections"])
def test_a_replay_that_differs_does_not_attest(home, papers, tmp_path, broken):
    run, record = runs_of("corner")[RUN], read_record(places.run_folder(RUN) / RECORD)
    samples = dict(record.samples)
    samples[broken] = [samples["losses"][0], samples["losses"][1] * 1.0000001] if broken == "losses" else "0" * 64
    path = tmp_path / "record.json"
    assert not attest(run, replace(record, digest="of older code", samples=samples), path).equal
    assert not path.exists()


@pytest.mark.parametrize("name", ["schedule", "setting", "arguments", "scale", "data"])
def test_other_settings_are_never_attested(home, papers, tmp_path, name):
    """A longer schedule begins with the same twenty steps."""
    run, record = runs_of("corner")[RUN], read_record(places.run_folder(RUN) / RECORD)
    other = {"schedule": dict(record.context["schedule"]) | {"decay_images": 64}, "data": "scenes-v0"}.get(name, {"then": 1})
    found = attest(run, replace(record, digest="older", context=dict(record.context) | {name: other}), tmp_path / "record.json")
    assert (found.equal, found.said) == (False, f"set otherwise then: {name}")
    assert not (tmp_path / "record.json").exists()


def test_a_replay_without_weights_says_so(home, papers, tmp_path):
    run, record = runs_of("corner")[RUN], read_record(places.run_folder(RUN) / RECORD)
    found = attest(run, replace(record, samples=dict(record.samples) | {"weights": "other"}), tmp_path / "record.json")
    assert found.equal
    assert "not compared" in found.said


@given(epochs=st.integers(1, 40), batch=st.integers(1, 9))
def test_a_curve_is_told_an_ap_at_most_eight_times_and_at_its_end(epochs, batch):
    """The epoch is known from the images seen, though the batch seldom divides it."""
    schedule = replace(SCALES["proxy"].schedule, images=epochs * 10, decay_images=0, epoch_images=10, batch=batch)
    due = looks(schedule)
    assert len(due) <= 8
    assert max(due) == epochs
    assert due == frozenset(range(1, epochs + 1)) or epochs > 8
    ends = [seen for seen in range(batch, epochs * 10 + batch, batch) if seen % 10 < batch or seen >= epochs * 10]
    assert {-((batch - 1 - seen) // 10) for seen in ends} >= due
