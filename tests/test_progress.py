"""What runs and how long it still takes, by hand."""

from __future__ import annotations

import pytest

from bench import progress
from bench.progress import Progress, duration


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1 h 30 min"), (7261, "2 h 1 min")])
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_a_rate_is_measured_and_the_rest_foretold(monkeypatch):
    """100 images in 10 s are 10/s: 200 left are 20 s, and with 1000 of later runs 120 s."""
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown: list[tuple[str, float]] = []
    tell = Progress("toy.row.proxy.s0", (2, 5), 1000, lambda text, share: shown.append((text, share))).phase("training")
    tell(100, 400)
    tell(200, 400)
    assert shown[0] == ("run 2 of 5: toy.row.proxy.s0, training: 100 of 400 images", 0.25)
    assert shown[1] == ("run 2 of 5: toy.row.proxy.s0, training: 200 of 400 images, 10/s, 20 s left, all runs about 2 min", 0.5)


def test_a_resumed_run_counts_its_rate_from_where_it_resumed(monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown: list[str] = []
    tell = Progress("toy", show=lambda text, _: shown.append(text)).phase("training")
    tell(9000, 10000)
    tell(9100, 10000)
    assert "10/s, 2 min left" in shown[1]  # 900 images


def test_elsewhere_than_on_a_terminal_a_line_comes_every_fifteen_seconds(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.showing() as show:
        for seconds in (0, 5, 14, 16, 20, 31, 33):
            now[0] = 100.0 + seconds
            show(f"at {seconds}", 0.5)
        show("end", 1.0)
    assert capsys.readouterr().err.splitlines() == ["leandet: at 0", "leandet: at 16", "leandet: at 31", "leandet: end"]


def test_quiet_says_nothing(capsys):
    with progress.showing(quiet=True) as show:
        show("anything", 1.0)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
