"""The page's parts: where a number comes from, plots of accuracy against cost, committed drawings. Truth by hand."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import places
from bench.leaderboard import lines
from bench.orders import choice_of, of_line
from bench.records import Record
from bench.report import judge
from bench.report.figures import drawings
from bench.report.page import STANDINGS, pages
from bench.report.provenance import environments, gist, rebuild, sources
from bench.report.provenance import of_line as command_of
from bench.report.scatter import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, scatter, steps
from bench.report.trade_offs import trade_offs
from bench.types import UserError

SVG = "{http://www.w3.org/2000/svg}"


def run(row="k16-l5", seed=0, kind="train", tier="proxy", ap=50.0, **about):
    context = {"data": "scenes-v1", "machine": {"name": "desk"}, "commit": "c" * 40, "versions": {"torch": "2.8.0", "leandet": "0.1.0"}} | about
    name = f"condensing.{row}.{tier}.s{seed}" + (".plateau" if kind == "plateau" else "")
    return Record(name, kind, "condensing", row, tier, seed, "ok", "", "d" * 64, {"ap": ap}, context=context)


def cost(row, params_m):
    values = {"params_m": params_m, "size_mb": 4 * params_m, "macs_g": params_m}
    return Record(f"condensing.{row}.cost", "cost", "condensing", row, "", 0, "ok", "", "e" * 64, values, context={"scope": "head"})


def timed(row, ms, **values):
    about = {"machine": {"name": "desk"}, "rois_given": 300, "quiet": "ok", "data": "scenes-v1", "images": 64, "device": "cpu", "threads": 1}
    about |= {"precision": "float32", "turns": ["condensing.fpn-r50.paper", "condensing.k16-l5.paper"]}
    name = f"condensing.{row}.latency.abc"
    return Record(name, "latency", "condensing", row, "paper", 0, "ok", "", "f" * 64, {"whole_ms": ms} | values, context=about)


# ---- provenance

TIMING = "--tier paper --rois 300 --images 64 --device cpu --threads 1 --precision float32"
COMMANDS = [
    (run(), "leandet rerun --row condensing.k16-l5.proxy"),
    (run(data="scenes-v1-crowded"), "leandet rerun --row condensing.k16-l5.proxy --data scenes-v1-crowded"),
    (run(tier="real", data="coco:bccd"), "leandet rerun --row condensing.k16-l5.real --data train=A.json,val=B.json,test=C.json"),
    (
        run(tier="real", data="coco:bccd", length=10),
        "leandet rerun --row condensing.k16-l5.real --data train=A.json,val=B.json,test=C.json --length 10",
    ),
    (run(tier="paper", data="voc07+12"), "leandet rerun --row condensing.k16-l5.paper --data voc=DIR --init FILE"),
    (run(kind="plateau"), "leandet run condensing.k16-l5.proxy.s0.plateau"),
    (cost("svd", 1.0), "leandet cost condensing"),
    (timed("k16-l5", 9.0), f"leandet time condensing.fpn-r50 condensing.k16-l5 {TIMING}"),
    (
        run(kind="training", against="fpn-r50", summed=["body-r50", "k16-l5"]),
        "leandet pace condensing.fpn-r50 condensing.body-r50+k16-l5 --tier proxy",
    ),
    (
        run(tier="real", data="coco:bccd", arguments={"name": "torchvision:ssd300_vgg16", "adapter": "..."}),
        "leandet run torchvision:ssd300_vgg16 --tier real --data train=A.json,val=B.json,test=C.json",
    ),
    (
        run(kind="score", tier="real", data="coco:bccd", detector="mmdet:retinanet_r18_fpn_1x_coco", size="320x320", weights_from="best.pth"),
        "leandet measure mmdet:retinanet_r18_fpn_1x_coco --size 320x320 --weights best.pth --data C.json",
    ),
    (
        run(kind="pareto", tier="real", data="coco:aquarium", length=4),
        "leandet pareto --tier real --machine desk --data train=A.json,val=B.json,test=C.json --length 4",
    ),
    (run(kind="cost", detector="onnx:net.onnx", weights_from="net.onnx"), "leandet measure onnx:net.onnx"),
]


@pytest.mark.parametrize(("record", "command"), COMMANDS)
def test_each_kind_of_record_has_the_command_that_makes_it_again(record, command):
    assert rebuild(record) == command


def test_the_command_of_a_leaderboard_row_names_the_runs_behind_it():
    assert {line.data for line in lines([run(tier="real", data="coco:x"), run(tier="real", data="coco:x", length=4)])} == {"coco:x", "coco:x x4"}
    own = run(kind="score", tier="real", data="coco:x", detector="condensing.k16-l5.proxy.s0")
    assert command_of(lines([own])[0], own) == "leandet measure condensing.k16-l5.proxy.s0 --data C.json"
    (line,) = lines([run(seed=seed) for seed in range(2)])
    words = command_of(line).split()
    assert words[:3] == ["leandet", "rerun", "--row"]
    ids = {each.id for each in of_line(words[3], choice_of("proxy", "", "", 2, ""))}
    assert {"condensing.k16-l5.proxy.s0", "condensing.k16-l5.proxy.s1"} <= ids


def test_records_of_one_set_of_versions_share_an_environment():
    records = [run(seed=0), run(seed=1), run(seed=2, versions={"torch": "2.9.0"}), cost("svd", 1.0)]
    assert environments(records) == ((("leandet", "0.1.0"), ("torch", "2.8.0")), (("torch", "2.9.0"),))
    assert [source.environment for source in sources(records)] == ["1", "1", "2", ""]
    assert [source.seed for source in sources(records)] == ["0", "1", "2", ""]


def test_a_failed_record_says_why():
    (source,) = sources([replace(run(), status="failed", reason="loss is nan", values={})])
    assert source.status == "failed: loss is nan"


def test_a_source_says_whose_weights_it_was_made_from():
    (source,) = sources([run(trained_on="gpu-x1")])
    assert source.machine == "desk, weights of gpu-x1"


def test_the_gist_names_runs_seeds_machine_and_commit():
    records = {each.id: each for each in [*(run(seed=seed) for seed in range(3)), run(kind="plateau"), run("fpn-r50", 4), cost("svd", 1.0)]}
    said = gist(tuple(records), records)
    assert said == (
        "condensing.k16-l5.proxy seeds 0-2; condensing.k16-l5.proxy plateau seed 0; condensing.fpn-r50.proxy seed 4; condensing.svd.cost"
        " \u00b7 on desk \u00b7 commit cccccccccccc"
    )
    assert gist((), records) == ""


# ---- plots


def drawn(points):
    root = ET.fromstring(scatter("a & b", points, horizontal="cost, M", vertical="AP"))
    return root.find(f"{SVG}svg")


def test_a_point_lies_where_its_numbers_say_and_its_bar_ends_at_the_interval():
    """Costs 0 .. 1.06 * 10 over the width; accuracies 40 .. 60 with 12 % of room on each side over the height."""
    root = drawn([Point("a", "said", 10.0, 50.0, 40.0, 60.0), Point("b", "said", 5.0, 50.0)])
    first, second = root.iter(f"{SVG}g")
    wide, tall = WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP
    circle = first.find(f"{SVG}circle")
    assert float(circle.get("cx")) == pytest.approx(LEFT + wide / 1.06, abs=0.06)
    assert float(circle.get("cy")) == pytest.approx(TOP + tall / 2, abs=0.06)
    top, bottom = (float(text) for text in re.match(r"M[\d.]+ ([\d.]+)V([\d.]+)", first.find(f"{SVG}path").get("d")).groups())
    assert bottom - top == pytest.approx(tall * 20 / 24.8, abs=0.2)
    assert float(second.find(f"{SVG}circle").get("cx")) == pytest.approx(LEFT + wide / 2.12, abs=0.06)
    assert second.find(f"{SVG}path") is None
    assert "one" in second.get("class").split()


def test_every_point_is_read_out_and_every_text_is_escaped():
    evil = "<script>&\"'"
    root = drawn([Point(evil, evil, 1.0, 50.0), Point("r", "the reference", 2.0, 51.0, reference=True)])
    assert [title.text for title in root.iter(f"{SVG}title")] == [evil, "the reference"]
    assert all(group.get("tabindex") == "0" for group in root.iter(f"{SVG}g"))
    assert len([group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}rect") is not None]) == 1


def overlap(one, other, rounding=0.2):
    return all(one[side] + rounding < other[side + 2] and other[side] + rounding < one[side + 2] for side in (0, 1))


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 100)), min_size=1, max_size=30))
def test_labels_never_lie_on_each_other_and_all_is_inside(numbers):
    root = drawn([Point(f"row-{place}", "said", x, y) for place, (x, y) in enumerate(numbers)])
    labels = [(float(text.get("x")), float(text.get("y")), len(text.text)) for text in root.iter(f"{SVG}text") if text.get("aria-hidden")]
    boxes = [(x, y - 9, x + 6.1 * letters, y + 2) for x, y, letters in labels]
    for place, box in enumerate(boxes):
        assert box[0] >= LEFT - 0.1
        assert box[2] <= WIDTH
        assert not any(overlap(box, other) for other in boxes[:place])
    for circle in root.iter(f"{SVG}circle"):
        assert LEFT <= float(circle.get("cx")) <= WIDTH - RIGHT
        assert TOP <= float(circle.get("cy")) <= HEIGHT - BOTTOM


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [
        ((0, 14.8), [0, 2, 4, 6, 8, 10, 12, 14]),
        ((52.2, 58.6), [54, 56, 58]),
        ((0.0, 1.06), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ((0, 575), [0, 100, 200, 300, 400, 500]),
    ],
)
def test_an_axis_is_numbered_in_round_steps(ends, wanted):
    assert steps(*ends) == pytest.approx(wanted)


def plotted(text):
    return ET.fromstring(text).find(f"{SVG}svg")


def test_a_paper_s_rows_are_set_against_each_of_their_costs():
    records = [run("fpn-r50", seed, ap=60.0 + seed) for seed in range(2)] + [run("k1-l1"), cost("fpn-r50", 14.0), cost("k1-l1", 0.557)]
    (group,) = trade_offs(lines(records), records)
    assert (group.paper, group.tier, group.data, len(group.plots)) == ("condensing", "proxy", "scenes-v1", 2)
    assert "leandet time condensing.ROW" in group.missing
    assert "parameters of the whole detector at the paper" in group.plots[0]
    points = [title.text for title in plotted(group.plots[0]).iter(f"{SVG}title")]
    assert points[0].startswith("condensing.fpn-r50.proxy (desk): AP 60.50, mean of 2 seeds, 95 % interval")
    assert points[0].endswith("parameters 14.000 M; the reference of other rows")
    assert points[1] == "condensing.k1-l1.proxy (desk): AP 50.00, one seed, no interval; parameters 0.557 M"


def test_latency_is_the_quiet_record_s_with_its_ninetieth_percentile():
    noisy = timed("k1-l1", 99.0)
    records = [
        run("k1-l1"),
        cost("k1-l1", 0.557),
        replace(noisy, id="condensing.k1-l1.latency.aaa", context=dict(noisy.context) | {"quiet": "noisy"}),
    ]
    records.append(timed("k1-l1", 20.0, whole_p90_ms=25.0))
    (group,) = trade_offs(lines(records), records)
    assert group.missing == ""
    (point,) = plotted(group.plots[2]).iter(f"{SVG}g")
    assert point.find(f"{SVG}title").text.endswith("latency 20.0 ms on desk")
    start, end = (float(text) for text in re.match(r"M([\d.]+) [\d.]+H([\d.]+)", point.find(f"{SVG}path").get("d")).groups())
    assert (end - LEFT) / (start - LEFT) == pytest.approx(25 / 20, rel=0.01)


def test_rows_without_an_accuracy_or_a_cost_are_left_out():
    records = [cost("fpn-r50", 14.0), replace(run("svd"), status="failed", reason="no", values={}), run("k1-l1")]
    (group,) = trade_offs(lines(records), records)
    assert group.plots == ()


# ---- drawings

GOOD = {"image": "a.png", "title": "t", "alt": "seen", "paper": "condensing", "data": "bccd", "attribution": "BCCD, MIT licence"}


def described(folder, content=b"png", **changes):
    (folder / "a.png").write_bytes(content)
    (folder / "a.json").write_text(json.dumps(GOOD | changes))
    return folder


def test_a_drawing_is_its_image_with_its_words(tmp_path):
    (found,) = drawings(described(tmp_path))
    assert (found.title, found.attribution, found.source) == ("t", "BCCD, MIT licence", "data:image/png;base64,cG5n")
    assert drawings(tmp_path / "nowhere") == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "voc2007"}, "may not be shown"),
        ({"attribution": ""}, "may not be empty"),
        ({"alt": ""}, "may not be empty"),
        ({"image": "b.png"}, "no description"),
        ({"image": "../a.png"}, "no description"),
        ({"image": "a.json"}, "a file beside it"),
    ],
)
def test_a_drawing_that_may_not_be_shown_is_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        drawings(described(tmp_path, **changes))


def test_an_image_from_another_folder_or_too_large_is_refused(tmp_path):
    inner = tmp_path / "in"
    inner.mkdir()
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(UserError, match="a file beside it"):
        drawings(described(inner, image="../b.png"))
    with pytest.raises(UserError, match="make it smaller"):
        drawings(described(inner, content=b"x" * 400000))


def test_the_committed_drawings_are_of_data_that_may_be_shown():
    found = drawings(places.SOURCE / "results" / "figures")
    assert {each.data for each in found} <= {"bccd", "aquarium", "scenes-v1", "none"}
    assert all(each.alt and each.attribution for each in found)


# ---- latency on the page


def test_the_page_shows_a_latency_with_its_ratio_marks_and_conditions():
    seen = {"load_before": 0.1, "foreign_cores": 0.0, "throttled": False, "foreign_gpu_processes": 0}
    values = {"prepare_ms": 1.0, "network_ms": 7.0, "finish_ms": 1.5, "whole_ratio": 0.5, "whole_ratio_low": 0.4, "whole_ratio_high": 0.6}
    record = timed("k16-l5", 9.5, **values)
    about = dict(record.context) | {"gpu": "", "image_list": "a" * 64, "versions": {"torch": "2.8.0"}, "seen": seen}
    about |= {"against": ["condensing.fpn-r50.paper", "w"]}
    about |= {"machine": {"name": "desk", "cpu": "a processor"}, "marks": ["noisy: others ran"]}
    text = pages(judge([replace(record, context=about)]))[STANDINGS]
    assert "0.500 [0.400, 0.600]<small> condensing.fpn-r50.paper</small>" in text
    assert "<td>noisy: others ran</td>" in text
    assert "64 images of scenes-v1 (list aaaaaaaaaaaa), batch 1, 300 random RoIs each, float32, 1 threads, a processor, torch 2.8.0" in text
    assert '<td class="n">n/a</td>' in text  # p90: too few samples
    assert 'href="records.html#rec-condensing.k16-l5.latency.abc"' in text
