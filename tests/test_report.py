"""What a reader sees: the same bytes for the same records, nothing of a paper or a record read as markup."""

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from bench.catalogue import printing
from bench.evidence import Difference
from bench.records import Record
from bench.report import HEAD, as_object, by_table, cite, judge, of_paper, print_leaderboard, print_tables, render
from bench.report.plots import chart, ticks
from bench.verdicts import WORDS

EVIL = "<script>alert('|')</script> [bold]&[/bold]"


def run(row="k16-l5", seed=0, value=50.0, **changes):
    context = {"data": "scenes-v1", "machine": {"name": "desk"}, "seconds": 12.5, "commit": "c" * 40}
    samples = {"curve": [{"images": 1000, "loss": 2.0, "val_ap": 20.0}, {"images": 2000, "loss": 1.0, "val_ap": 40.0}]}
    record = Record(
        f"condensing.{row}.proxy.s{seed}", "train", "condensing", row, "proxy", seed, "ok", "", "d" * 64, {"ap": value, "voc_ap50": value}
    )
    return replace(record, samples=samples, context=context, **changes)


@pytest.fixture(scope="module")
def standing():
    records = [run(), run("fpn-r50"), run("no-ld", status="failed", reason=EVIL, values={})]
    difference = Difference("condensing", "k16-l5", "fpn-r50", "voc_ap50", "proxy", 0.0, (-0.5, 0.5), 5, 0.7)
    return judge(records, [difference])


class Page(HTMLParser):
    """Tags opened and not closed, and every text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_rendering_twice_gives_the_same_bytes(standing, tmp_path):
    first = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in render(standing, tmp_path / "a")}
    second = {path.relative_to(tmp_path / "b"): path.read_bytes() for path in render(standing, tmp_path / "b")}
    assert first == second
    names = {str(name) for name in first}
    assert {"cells.csv", "claims.csv", "leaderboard.csv", "report/index.html", "tables/condensing-T3.csv", "tables/condensing-T4.md"} <= names


def test_the_csv_files_hold_every_cell_and_claim(standing, tmp_path):
    render(standing, tmp_path)
    cells = list(csv.DictReader(io.StringIO((tmp_path / "cells.csv").read_text())))
    claims = list(csv.DictReader(io.StringIO((tmp_path / "claims.csv").read_text())))
    printed = [row for row in claims if row["line"] != "0"]  # others are implied by a table and stand on no line
    assert (len(cells), len(printed)) == (721, 52)
    assert all(row["outcome"] in WORDS and row["reason"] and row["printed"] for row in cells)
    table = list(csv.DictReader(io.StringIO((tmp_path / "tables/condensing-T2.csv").read_text())))
    assert tuple(table[0]) == HEAD
    assert [row["printed"] for row in table] == ["80.5", "78.9", "80.5", "80.0", "79.8", "79.9", "80.2"]


def test_the_page_is_whole_static_and_escapes_every_text(standing, tmp_path):
    render(standing, tmp_path)
    text = (tmp_path / "report/index.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)  # nothing is fetched
    assert any(EVIL in piece for piece in page.text)
    assert page.tags.count("svg") == 2  # AP and loss of the proxy runs
    for entry in printing().values():
        assert entry.published.title in page.text
    assert "http" not in re.sub(r'xmlns="http://www.w3.org/2000/svg"', "", text)


def test_markdown_reads_no_markup(standing, tmp_path):
    render(standing, tmp_path)
    text = (tmp_path / "tables/condensing-T2.md").read_text()
    (row,) = [line for line in text.splitlines() if "alert" in line]
    assert "<script>" not in text
    assert len(re.findall(r"(?<!\\)\|", row)) == len(HEAD) + 1


def test_objects_of_the_cells_command(standing):
    found = [as_object(outcome) for outcome in standing.outcomes]
    keys = ["paper", "table", "row", "column", "unit", "kind", "published", "measured", "outcome", "reason", "tier"]
    assert all(list(each) == keys for each in found)
    assert len(found) == 721
    scales = [each["published"] for each in found if each["paper"] == "pod" and each["table"] == "T3"]
    assert scales[0] == [0.88, 0.0]
    speeds = [each["published"] for each in found if each["paper"] == "mimicdet" and each["column"] == "Speed(ms)"]
    assert {"P": 104.0, "V": 91.0} in speeds


def test_the_terminal_shows_every_table_and_reads_no_markup(standing):
    console = Console(width=200, record=True, file=io.StringIO())
    print_tables(of_paper(standing, "condensing"), console)
    print_leaderboard(standing.lines, console)
    text = console.export_text()
    for table in ("T1", "T2", "T3", "T4"):
        assert f"condensing {table}." in text
    assert "[bold]&[/bold]" in " ".join(text.split()).replace("│ │", "")
    assert "condensing.k16-l5.proxy" in text
    assert "pod T1" not in text


def test_one_paper_alone(standing):
    found = of_paper(standing, "condensing")
    assert len(found.outcomes) == 107
    assert len(found.claims) == 12
    assert list(by_table(found.outcomes)) == [("condensing", table) for table in ("T1", "T2", "T3", "T4")]


def test_the_quick_run_cites_the_committed_records():
    committed = judge([run("k16-l5", seed, 50.0) for seed in range(2)] + [run("fpn-r50", seed, 50.0) for seed in range(2)] + [run("no-ld")])
    local = judge([run("k16-l5", 0, 49.0), run("fpn-r50", 0, 50.0)])
    found = {(o.table, o.key): o for o in cite(local, committed).outcomes}
    ours = found["T2", "k16-l5"]
    assert ours.measured == 49.0
    assert "committed records: undertrained" in ours.reason
    taken = found["T2", "no-ld"]
    assert taken.measured == 50.0
    assert taken.reason.startswith("committed records: ")
    assert found["T2", "no-lu"].outcome == "not attempted"
    assert cite(local, judge([])).outcomes == local.outcomes


def test_a_chart_is_well_formed_and_draws_points_where_they_belong():
    text = chart("a & b", {EVIL: [(0.0, 0.0), (100.0, 10.0)], "empty": []}, horizontal="x", vertical="y")
    root = ET.fromstring(text)
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in line.get("points").split())
    assert (x0, y0) == (48, 264)  # the origin: left margin 48; 300 - 36 below
    assert (x1, y1) == (460, 16)  # 640 - 180, the right end of the axis; the top margin
    assert chart("t", {"empty": []}, horizontal="x", vertical="y") == ""


def test_a_chart_of_many_rows_has_room_for_its_legend_and_a_colour_each():
    text = chart("t", {f"row{place} s0": [(1.0, 1.0)] for place in range(40)}, horizontal="x", vertical="y")
    root = ET.fromstring(text)
    svg = "{http://www.w3.org/2000/svg}"
    height = int(next(root.iter(f"{svg}svg")).get("viewBox").split()[3])
    assert max(float(rect.get("y")) for rect in root.iter(f"{svg}rect")) < height
    assert len({line.get("stroke") for line in root.iter(f"{svg}polyline")}) == 40


@pytest.mark.parametrize(
    ("largest", "wanted"),
    [
        (50.0, [0, 10, 20, 30, 40, 50]),
        (12000.0, [0, 2000, 4000, 6000, 8000, 10000, 12000]),
        (0.7, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        (1.7, [0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]),
    ],
)
def test_axes_are_numbered_in_round_steps(largest, wanted):
    assert ticks(largest) == pytest.approx(wanted)
