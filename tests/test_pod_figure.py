"""Figure 6 from what GSL runs leave behind."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from bench.derive import keep
from bench.drawing import draw_run
from bench.types import UserError
from implementations.pod.figure_6 import blocks_in, draw, read_runs

C4 = {"R31_h": 0.9, "std_R31_h": 0.01, "R31_w": 0.95, "std_R31_w": 0.02, "R410_h": 3.0, "R410_w": 2.0, "R42_h": 1.5, "R42_w": 1.6}
C4 |= {"conv3_first_h": 0.9}  # a block under its other name: drawn once
FPN = {"R31_h": 0.8, "R31_w": 0.7, "R51_h": 1.2, "R51_w": 1.1}


def test_blocks_stand_in_the_order_of_the_net():
    assert blocks_in({"c4": C4, "fpn": FPN}) == ["R31", "R42", "R410", "R51"]


def test_every_run_and_direction_is_drawn_with_its_numbers(tmp_path, monkeypatch):
    kept = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *given, **more: (kept.append(self), save(self, *given, **more))[1])
    for name, averages in (("a", C4), ("b", FPN)):
        (tmp_path / name).mkdir()
        keep({"scales": {"train": averages}}, tmp_path / name)
    runs = read_runs({"Faster R-CNN": tmp_path / "a", "RetinaNet": tmp_path / "b"})
    assert draw(runs, tmp_path / "scales.png") == ["R31", "R42", "R410", "R51"]
    assert (tmp_path / "scales.png").stat().st_size > 5000
    (axes,) = kept[0].axes
    assert axes.get_legend_handles_labels()[1] == ["Faster R-CNN, h", "Faster R-CNN, w", "RetinaNet, h", "RetinaNet, w"]
    lines = [container.lines[0] for container in axes.containers]
    assert [list(line.get_xdata()) for line in lines] == [[0, 1, 2], [0, 1, 2], [0, 3], [0, 3]]
    assert [list(line.get_ydata()) for line in lines] == [[0.9, 1.5, 3.0], [0.95, 1.6, 2.0], [0.8, 1.2], [0.7, 1.1]]
    bars = [[end - start for (_, start), (_, end) in container.lines[2][0].get_segments()] for container in axes.containers]
    assert bars[0] == pytest.approx([0.02, 0, 0])  # a deviation upwards and one downwards; R42 and R410 have none
    assert bars[1] == pytest.approx([0.04, 0, 0])


@pytest.mark.parametrize("text", ["{", "{}", '{"scales": {"train": [1]}}', '{"scales": {"train": {"R31_h": "wide"}}}'])
def test_a_damaged_file_is_named(text, tmp_path):
    (tmp_path / "derived.json").write_text(text)
    with pytest.raises(UserError, match=r"derived.json: no averaged scales in it"):
        read_runs({"a": tmp_path})


def test_what_cannot_be_drawn_says_why(tmp_path):
    with pytest.raises(UserError, match=r"derived.json: missing; allowed: finished GSL runs"):
        read_runs({"a": tmp_path})
    keep({"scales": {"train": C4}}, tmp_path)
    with pytest.raises(UserError, match=r"has no averages of 'test'; allowed: train"):
        read_runs({"a": tmp_path}, "test")
    with pytest.raises(UserError, match="no averaged scales were given"):
        draw({"a": {}}, tmp_path / "x.png")


def test_runs_are_drawn_by_their_ids(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    ids = [f"pod.{row}.proxy.s0" for row in ("c4-r50-gsl", "retina-r50-gsl")]
    for name, averages in zip(ids, (C4, FPN), strict=True):
        (tmp_path / "runs" / name).mkdir(parents=True)
        keep({"scales": {"train": averages}}, tmp_path / "runs" / name)
    said = draw_run(",".join(ids), tmp_path / "figure.png", "", 0)
    assert said == f"{tmp_path / 'figure.png'}: the scales of 4 blocks, learnt by {ids[0]}, {ids[1]}"
    assert (tmp_path / "figure.png").stat().st_size > 5000
    with pytest.raises(UserError, match=r"derived.json: missing; .*next: leandet run a row that ends in -gsl"):
        draw_run("pod.c4-r50.proxy.s0", tmp_path / "none.png", "", 0)
    with pytest.raises(UserError, match=r"runs of several papers; allowed: those of one"):
        draw_run(f"{ids[0]},condensing.k16-l5.proxy.s0", tmp_path / "none.png", "", 0)
    with pytest.raises(UserError, match=r"condensing draws one run at a time"):
        draw_run("condensing.k16-l5.proxy.s0,condensing.k16-l5.proxy.s1", tmp_path / "none.png", "", 0)
