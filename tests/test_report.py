"""What a reader sees: the same bytes for the same records, nothing of a paper or a record read as markup."""

import base64
import csv
import hashlib
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from bench.catalogue import printing
from bench.evidence import Difference
from bench.leaderboard_table import print_leaderboard
from bench.records import Record, place_of
from bench.report import HEAD, as_object, by_table, cite, judge, of_paper, print_tables, render
from bench.report.figures import Drawing
from bench.report.page import RECORDS, STANDINGS, Beside, pages, readable
from bench.report.plots import chart, ticks
from bench.verdicts import WORDS

HERE = Path(__file__).parents[1]
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
        if tag not in {"meta", "br", "wbr", "img", "input"}:
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


def test_the_order_of_hashing_changes_no_byte(tmp_path):
    """Sets and dictionaries come in another order in another process."""
    code = "import sys; from pathlib import Path; sys.path.insert(0, 'tests'); import test_report as t; "
    code += "from bench.report import judge, render; render(judge([t.run(), t.run('fpn-r50'), t.run('k1-l1', 1)]), Path(sys.argv[1]))"
    for seed in ("1", "2"):
        words = [sys.executable, "-c", code, str(tmp_path / seed)]
        subprocess.run(words, cwd=HERE, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(HERE)}, check=True)
    first, second = ({path.relative_to(tmp_path / seed): path.read_bytes() for path in (tmp_path / seed).rglob("*.*")} for seed in ("1", "2"))
    assert first == second
    assert len(first) > 10


@pytest.mark.parametrize("name", [STANDINGS, RECORDS])
def test_the_committed_pages_are_small_enough_for_git(name):
    assert (HERE / "results/report" / name).stat().st_size < 2_000_000


def test_a_record_leads_to_its_file_where_that_lies_beside_the_page(standing, tmp_path):
    """What holds this machine's own records, as results/local does, has no such links."""
    render(replace(standing, committed=True), tmp_path)
    reader = Page()
    reader.feed((tmp_path / "report" / RECORDS).read_text())
    links = {link for link in reader.links if link.startswith("../records/")}
    assert links == {f"../records/{place_of(record)}" for record in standing.records}
    assert links


def test_the_committed_page_leads_to_every_committed_record():
    reader = Page()
    reader.feed((HERE / "results/report" / RECORDS).read_text())
    links = [link for link in reader.links if link.startswith("../records/")]
    assert {(HERE / "results/report" / link).resolve() for link in links} == {path.resolve() for path in (HERE / "results/records").rglob("*.json")}


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


@pytest.mark.parametrize("name", [STANDINGS, RECORDS])
def test_a_page_is_whole_and_static_and_escapes_every_text(standing, tmp_path, name):
    render(standing, tmp_path)
    text = (tmp_path / "report" / name).read_text()
    reader = Page()
    reader.feed(text)
    assert reader.open == []
    assert reader.tags.count("script") == reader.tags.count("style") == 1  # ours, and the policy names no other
    assert all(link.startswith(("#", "data:image/")) or link.partition("#")[0] in {STANDINGS, RECORDS} for link in reader.links)  # nothing is fetched
    assert any(EVIL in piece for piece in reader.text)
    assert "://" not in re.sub(r'xmlns="http://www.w3.org/2000/svg"', "", text)


def test_each_page_has_its_own(standing):
    """A bar of outcomes for all and for each paper; on the other page AP and loss of the proxy runs, once each."""
    found = {}
    for name, text in pages(standing).items():
        found[name] = Page()
        found[name].feed(text)
    assert {name: reader.tags.count("svg") for name, reader in found.items()} == {STANDINGS: 1 + 5, RECORDS: 2}
    for entry in printing().values():
        assert entry.published.title in found[STANDINGS].text


@pytest.mark.parametrize("name", [STANDINGS, RECORDS])
def test_the_policy_allows_the_page_s_own_style_and_script_alone(standing, name):
    text = pages(standing)[name]
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    for kind in ("style", "script"):
        (own,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{kind}-src &#39;sha256-{digest}&#39;" in policy
    assert policy.startswith("default-src &#39;none&#39;")
    assert "unsafe" not in policy


def test_the_page_leads_from_each_number_to_its_record(standing):
    """The row's own record, its machine and commit, and the command that makes it again; every link within the pages has an end."""
    texts = pages(standing)
    ends = {name: set(re.findall(r' id="([^"]*)"', text)) for name, text in texts.items()}
    for name, text in texts.items():
        reader = Page()
        reader.feed(text)
        links = [link.partition("#") for link in reader.links if not link.startswith("data:")]
        assert all(not end or end in ends[page or name] for page, _, end in links)
        if name == STANDINGS:
            assert (RECORDS, "#", "rec-condensing.k16-l5.proxy.s0") in links
    (row,) = re.findall(r'<tr id="rec-condensing.k16-l5.proxy.s0".*?</tr>', texts[RECORDS])
    assert all(part in row for part in ("leandet rerun --row condensing.k16-l5.proxy", "cccccccccccc", "dddddddddddd", "desk", "scenes-v1"))


def test_an_audit_and_drawings_are_shown_where_there_are_any(standing):
    drawing = Drawing("a", f"title {EVIL}", "seen", "condensing", "scenes-v1", "ours", "data:image/png;base64,AAAA")
    text = pages(standing, Beside((drawing,), [(f"found {EVIL}", "9 of 9 are equal", ("paper.txt, line 3",))]))[STANDINGS]
    reader = Page()
    reader.feed(text)
    assert f"found {EVIL}" in reader.text
    assert f"title {EVIL}" in reader.text
    assert {"9 of 9 are equal", "paper.txt, line 3", "Audit", "Drawings"} <= set(reader.text)
    assert not {"Audit", "Drawings"} & set(re.findall(r">(\w+)</h2>", pages(standing)[STANDINGS]))


def test_formulas_are_shown_as_a_reader_would_write_them():
    known = {
        "ours w/o $\\mathcal{L}_d$": "ours w/o L_d", "$\\sqrt{}$": "\u2713", "$P_3 - P_7$": "P3 - P7", "X-64 \\times 4d": "X-64 \u00d7 4d",
        "37.1 \\downarrow": "37.1 \u2193", "a_1 plain": "a_1 plain",
    }  # fmt: skip
    assert {text: readable(text) for text in known} == known


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
