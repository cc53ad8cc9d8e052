"""Leaderboard files of several machines: each fault with its line, rows keep their machine, nothing is dropped unsaid; columns by width."""

import io
from dataclasses import replace

import pytest
from commands import called
from rich.console import Console

from bench.leaderboard import as_csv, lines, place_text
from bench.leaderboard_files import HEAD, merge, read_board
from bench.leaderboard_table import SHOWN, fitting, print_leaderboard
from bench.records import Record
from bench.types import UserError


def run(row, seed=0, ap=50.0, machine="desk", **changes):
    context = {"data": "scenes-v1", "machine": {"name": machine}, "commit": "c" * 40, "versions": {"leandet": "0.1.0", "torch": "2.8.0+cpu"}}
    record = Record(f"p.{row}.proxy.s{seed}", "train", "p", row, "proxy", seed, "ok", "", "d" * 64, {"ap": ap}, context=context)
    return replace(record, **changes)


def runs(row, *aps, machine="desk"):
    return [run(row, seed, ap, machine) for seed, ap in enumerate(aps)]


def cost(row):
    return Record(f"p.{row}.cost", "cost", "p", row, "", 0, "ok", "", "e" * 64, {"params_m": 2.5, "size_mb": 10, "macs_g": 7.25})


def written(path, records, *changes):
    """A leaderboard file of these records, with parts of its text changed."""
    text = as_csv(lines(records)).decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def leandet(monkeypatch, capsys, *words):
    """(exit code, output, lines of errors) of a command."""
    code, out, err = called(monkeypatch, capsys, *words)
    return code, out, err.strip().splitlines()


# ---- reading and validating


def test_what_is_written_reads_back(tmp_path):
    made = lines([*runs("a", 50.0, 51.0), run("b", status="failed", reason='line one\nline two, "quoted"', values={}), cost("c")])
    path = tmp_path / "a.csv"
    path.write_bytes(as_csv(made))
    read = read_board(path)
    assert read.faults == ()
    assert as_csv(read.lines) == as_csv(made)
    assert read.numbers == (2, 3, 5)  # the reason of line 3 goes on in line 4


FAULTS = [
    (("50.500", "150.500"), 2, "ap 150.5: allowed: 0 to 100"),
    (("50.500", "much"), 2, "ap 'much': no number"),
    (("50.500", "nan"), 2, "ap 'nan': no number"),
    (("50.500", "60.500"), 2, "ap_low <= ap <= ap_high"),
    (("p.a.proxy", "p.b.proxy"), 2, "the id is made of paper, row and tier"),
    ((",proxy,", ",huge,"), 2, "tier 'huge': allowed: nothing, smoke, proxy, real, paper"),
    (("2.8.0+cpu", "new"), 2, "torch 'new': allowed: a version"),
    (("cccccccccccc", "HEAD"), 2, "commit 'HEAD': allowed: up to 12 hexadecimal digits"),
    ((",ok,", ",fine,"), 2, "status 'fine': allowed: \"ok\""),
    ((",desk,2,", ",desk,2.5,"), 2, "seeds '2.5': no number; allowed: a whole number"),
    ((",2.500,", ",-2.500,"), 3, "params_m -2.5: allowed: 0 or more"),
    (("counted, not run", "counted"), 3, "status 'counted'"),
    (("params_m", "params"), 1, "column 'params' is unknown; allowed: id,"),
    ((",params_m,size_mb", ",size_mb,params_m"), 1, "the columns are in another order"),
]


@pytest.mark.parametrize(("change", "number", "said"), FAULTS, ids=[said[:30] for _, _, said in FAULTS])
def test_each_fault_is_a_line_with_its_number_and_exit_code_two(monkeypatch, capsys, tmp_path, change, number, said):  # noqa: PLR0917
    path = written(tmp_path / "a.csv", [*runs("a", 50.0, 51.0), cost("b")], change)
    code, out, err = leandet(monkeypatch, capsys, "leaderboard", "validate", path)
    assert (code, out) == (2, "")
    assert any(line.startswith(f"{path}:{number}: {said}") for line in err)


def test_a_row_with_a_cell_too_many_and_the_same_row_twice(tmp_path):
    path = written(tmp_path / "a.csv", runs("a", 50.0, 51.0))
    head, row = path.read_text().splitlines()
    path.write_text("\n".join([head, row, row + ",more", row]) + "\n")
    found = [(fault.line, fault.said) for fault in read_board(path).faults]
    twice = "another line has the same id, data and machine; leave one of them out"
    assert found == [(2, twice), (3, f"{len(HEAD) + 1} cells; allowed: {len(HEAD)}, one a column"), (4, twice)]


def test_a_good_file_is_one_line_and_exit_code_zero(monkeypatch, capsys, tmp_path):
    path = written(tmp_path / "a.csv", [*runs("a", 50.0, 51.0), cost("b")])
    code, out, err = leandet(monkeypatch, capsys, "leaderboard", "validate", path)
    assert (code, out, err) == (0, f"{path}: 2 rows fit the schema\n", [])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'id,"rank', b"\n\n", b"id\n" * 3, b'"' * 200000])
def test_what_is_no_leaderboard_is_said(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    try:
        assert read_board(path).faults
    except UserError as error:
        assert "cannot be read as CSV" in str(error)  # noqa: PT017 - either will do


# ---- merging


def test_rows_keep_their_machine_and_are_ranked_anew(monkeypatch, capsys, tmp_path):
    ours = written(tmp_path / "a.csv", [*runs("a", 59.9, 60.1), *runs("b", 49.9, 50.1)])
    theirs = written(tmp_path / "b.csv", [*runs("a", 54.9, 55.1, machine="laptop")])
    out = tmp_path / "both.csv"
    code, said, err = leandet(monkeypatch, capsys, "leaderboard", "merge", ours, theirs, "--out", out)
    assert (code, said, err) == (0, f"{out}: 3 rows of 2 machines\n", [])
    found = read_board(out)
    assert found.faults == ()
    assert [(line.row, line.machine, place_text(line)) for line in found.lines] == [("a", "desk", "1"), ("a", "laptop", "2"), ("b", "desk", "3")]


def test_a_row_that_both_have_is_kept_once_and_said(monkeypatch, capsys, tmp_path):
    ours, theirs = (written(tmp_path / name, [*runs("a", 59.9, 60.1), cost("b"), cost("c")]) for name in ("a.csv", "b.csv"))
    code, out, err = leandet(monkeypatch, capsys, "leaderboard", "merge", ours, theirs)
    assert code == 0
    assert out == ours.read_text()
    assert err == [
        f"{theirs}:2: p.a.proxy (scenes-v1, desk) stands in {ours}:2 too, kept once",
        f"{theirs}: 2 rows that were only counted stand in {ours} too, kept once",
    ]


def test_two_numbers_for_one_row_and_machine_are_a_conflict(monkeypatch, capsys, tmp_path):
    ours, theirs = written(tmp_path / "a.csv", [run("a", ap=50.0)]), written(tmp_path / "b.csv", [run("a", ap=51.0)])
    code, out, err = leandet(monkeypatch, capsys, "leaderboard", "merge", ours, theirs, "--out", tmp_path / "c.csv")
    assert (code, out) == (2, "")
    assert err == [f"{theirs}:2: p.a.proxy (scenes-v1, desk) stands in {ours}:2 too, with another ap; leave one of them out"]
    assert not (tmp_path / "c.csv").exists()


def test_a_faulty_file_is_not_merged(monkeypatch, capsys, tmp_path):
    ours = written(tmp_path / "a.csv", runs("a", 50.0, 51.0))
    theirs = written(tmp_path / "b.csv", runs("b", 50.0, 51.0), ("50.500", "150.500"))
    code, out, err = leandet(monkeypatch, capsys, "leaderboard", "merge", ours, theirs)
    assert (code, out) == (2, "")
    assert err[0].startswith(f"{theirs}:2: ")


def test_what_one_file_counted_and_another_ran_is_the_run(tmp_path):
    counted = read_board(written(tmp_path / "a.csv", [cost("a"), cost("b")]))
    ran = read_board(written(tmp_path / "b.csv", [*runs("a", 50.0, 51.0), cost("a")]))
    for boards in ((counted, ran), (ran, counted)):
        merged = merge(boards)
        assert [line.id for line in merged.lines] == ["p.a.proxy", "p.b"]
        assert merged.notes == ("p.a: counted in one file, run in another: its runs are kept",)
        assert merged.conflicts == ()


def test_options_of_the_standings_are_refused_with_files(monkeypatch, capsys, tmp_path):
    path = written(tmp_path / "a.csv", runs("a", 50.0, 51.0))
    assert leandet(monkeypatch, capsys, "leaderboard", "--csv", "validate", path)[0] == 2
    assert leandet(monkeypatch, capsys, "leaderboard", "merge", path)[2] == [
        f"leandet: leaderboard merge {path}: one file alone; give two or more, as in A.csv B.csv"
    ]


# ---- the terminal


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 130, 200])
def test_columns_are_chosen_by_width_and_never_cut(width):
    found = lines([*runs("a-row-with-a-name", 59.9, 60.1), *runs("b", 59.8, 60.2), run("c", ap=41.0), cost("c"), cost("d")])
    console = Console(width=width, record=True, file=io.StringIO())
    print_leaderboard(found, console)
    text = console.export_text()
    assert "\u2026" not in text
    assert all(len(line) <= width for line in text.splitlines())
    names = [column.name for column in fitting(found, width)]
    assert "id" in names
    left_out = [column.name for column in SHOWN if column.name not in names]
    told = " ".join(text.split()).partition(f"Left out at a width of {width}: ")[2].partition(";")[0]
    assert told == ", ".join(left_out)
    assert width < 200 or not left_out
    if width >= 40:
        assert "p.a-row-with-a-name.proxy" in text
        assert "60.00" in text


def test_a_tie_is_shown_as_a_tie():
    found = lines([*runs("a", 59.9, 60.1), *runs("b", 59.8, 60.2), *runs("c", 39.9, 40.1)])
    console = Console(width=100, record=True, file=io.StringIO())
    print_leaderboard(found, console)
    shown = [line.split()[:2] for line in console.export_text().splitlines()[1:4]]
    assert shown == [["1-2", "p.a.proxy"], ["1-2", "p.b.proxy"], ["3", "p.c.proxy"]]
