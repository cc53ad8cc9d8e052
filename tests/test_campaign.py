"""Several runs at once: what is told of them, and that they do what one after another would."""

from dataclasses import replace

import pytest

from bench import campaign, places
from bench.catalogue import built
from bench.orders import ordered
from bench.plan import Choice, quick


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "runs", lambda: tmp_path)
    (tmp_path / ".logs").mkdir()
    return tmp_path / ".logs"


def test_quick_names_what_the_quick_reproduction_needs():
    assert ordered("quick", Choice("proxy")) == quick(built().values())


def test_what_is_told_of_two_runs_by_hand(logs, monkeypatch):
    """Of 100 + 100 + 200 images the first run's and half of the second's are seen after 30 s: 250 more take 50 s."""
    run = quick(built().values(), "smoke")[1]
    runs = [replace(run, id=name) for name in ("a", "b", "c")]
    monkeypatch.setattr(campaign, "images_of", lambda each: {"a": 100, "b": 100, "c": 200}[each.id])
    clock = iter((1000.0, 1030.0))
    monkeypatch.setattr(campaign.time, "monotonic", lambda: next(clock))
    (logs / "b.txt").write_text(
        "leandet: run 2 of 2: b, training: 8 of 100 images\nleandet: run 2 of 2: b, training: 50 of 100 images, 5/s, 10 s left\n"
    )
    said = []
    campaign._together(runs, lambda text, share: said.append((text, share)))(["b", "c"], ["b", "c"])
    told = "1 of 3 runs done, all runs about 50 s; b, training: 50 of 100 images, 5/s, 10 s left; c, starting"
    assert said == [(told, 150 / 400)]
