"""The command line: quick where nothing is run, one line and exit code 2 for a mistake."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from commands import called_in as called

from bench import cli, places
from bench.catalogue import built, catalogue
from bench.datasets import open_split, parse_data
from bench.published import read_published, result_cells

HERE = Path(__file__).parents[1]
COMMANDS = (*(each.name or each.callback.__name__ for each in cli.app.registered_commands), *(each.name for each in cli.app.registered_groups))


def leandet(*words: str, home: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    program = ["-c", code] if code else ["-m", "bench.cli"]
    return subprocess.run(
        [sys.executable, *program, *words],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LEANDET_HOME": str(home), "COLUMNS": "200"},
    )


def test_the_readme_lists_every_command():
    text = " ".join((HERE / "README.md").read_text().split())
    listed = text.partition("`leandet --help` lists the rest: ")[2].partition(".")[0]
    assert sorted(listed.split(", ")) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(monkeypatch, capsys, tmp_path, command):
    code, out, _ = called(monkeypatch, capsys, tmp_path, command, "--help")
    assert code == 0
    assert "Usage" in out
    assert len(out) > 200


@pytest.mark.parametrize(
    "words", ["list", "list condensing", "plan condensing --rows svd", "cells --json", "tables --quiet", "show condensing.k16-l5"]
)
def test_what_runs_nothing_imports_no_torch(tmp_path, words):
    code = f"import sys; sys.argv = ['leandet', *{words.split()!r}]\nfrom bench import cli\n"
    code += "try: cli.main()\nexcept SystemExit as end: assert not end.code\n"
    said = leandet(home=tmp_path, code=code + "sys.stderr.write(' '.join({'torch', 'torchvision', 'lightning_fabric'} & set(sys.modules)))")
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""


def test_list_answers_in_half_a_second(tmp_path):
    """Of CPU time, the best of five, so that a busy machine does not decide."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = leandet("list", home=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert all(key in said.stdout for key in catalogue())
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_cells_are_those_that_are_printed(monkeypatch, capsys, tmp_path):
    code, out, _ = called(monkeypatch, capsys, tmp_path, "cells", "--json")
    cells = json.loads(out)
    keys = {"paper", "table", "row", "column", "unit", "kind", "published", "measured", "outcome", "reason", "tier"}
    assert code == 0
    assert all(set(cell) == keys and cell["outcome"] and cell["reason"] for cell in cells)
    printed = [read_published(path) for path in sorted((HERE / "implementations").glob("*/published.json"))]
    assert {cell["paper"] for cell in cells} == {each.paper for each in printed}
    for each in printed:
        if each.paper not in built():
            assert {cell["reason"] for cell in cells if cell["paper"] == each.paper and not cell["outcome"].startswith("quoted")} == {"not built yet"}


def test_a_cell_in_words_says_what_was_printed_and_measured_and_why(monkeypatch, capsys, tmp_path):
    code, out, _ = called(monkeypatch, capsys, tmp_path, "cells", "condensing", "--committed")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == len(result_cells(read_published(HERE / "implementations" / "condensing" / "published.json")))
    assert all(line.startswith("condensing T") and ": printed " in line and " -> " in line for line in lines)
    assert not [line for line in lines if line.rpartition(" -> ")[2].strip().endswith(":")], "an outcome without its reason"


MISTAKES = [
    ("plan nope", "'nope'", "condensing"),
    ("plan condensing --tier huge", "'huge'", "proxy"),
    ("plan condensing --rows nope", "'nope'", "fpn-r50"),
    ("run condensing.nope", "condensing.nope", "PAPER.ROW.TIER"),
    ("run condensing.nope.proxy.s0", "'nope'", "fpn-r50"),
    ("run condensing --tier real", "--data", "train="),
    ("run condensing --tier real --data train=/nope.json,val=/nope.json,test=/nope.json", "/nope.json", "give"),
    ("run condensing --tier paper --data voc=/nowhere", "--init", "safetensors"),
    ("run condensing --rows svd --jobs 0", "--jobs 0", "allowed"),
    ("plan condensing --data what=1", "'what'", "train"),
    ("plan condensing --seeds -1", "--seeds -1", "allowed"),
    ("show condensing.nope", "'nope'", "fpn-r50"),
    ("show condensing.fpn-r50.proxy.s0", "no record", "leandet run"),
    ("rerun --row condensing", "'condensing'", "PAPER.ROW.TIER"),
    ("attest condensing.svd.smoke.s7", "svd.smoke.s7", "leandet run"),
    ("cells nope", "'nope'", "condensing"),
    ("tables nope", "'nope'", "condensing"),
    ("cost nope", "'nope'", "condensing"),
    ("leaderboard validate nowhere.csv", "nowhere.csv", "give"),
    ("leaderboard merge nowhere.csv other.csv", "nowhere.csv", "give"),
    ("leaderboard merge nowhere.csv", "one file", "two or more"),
    ("download nope somewhere", "'nope'", "voc"),
    ("score --predictions nowhere.json", "nowhere.json", "give"),
    ("score --predictions nowhere.json --split all", "'all'", "test"),
    ("draw condensing.k16-l5.smoke.s0 out.png", "no weights", "leandet run"),
]


@pytest.mark.parametrize(("words", "named", "allowed"), MISTAKES, ids=[words for words, _, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_two(monkeypatch, capsys, tmp_path, words, named, allowed):  # noqa: PLR0917 - fixtures
    code, out, err = called(monkeypatch, capsys, tmp_path, *words.split())
    assert code == 2, out + err
    assert len(err.strip().splitlines()) == 1
    assert named in err
    assert allowed in err
    assert list(tmp_path.rglob("*.json")) == []


def test_anybodys_results_make_a_row(monkeypatch, capsys, tmp_path):
    """The truth itself, as results, scores 100."""
    truth = open_split(parse_data("scenes-v1"), "val").ground_truth()
    entries = [
        {"image_id": int(image), "category_id": int(label) + 1, "bbox": [float(a), float(b), float(c - a), float(d - b)], "score": 0.9}
        for image, label, (a, b, c, d) in zip(truth.image, truth.labels, truth.boxes, strict=True)
    ]
    results = tmp_path / "perfect.json"
    results.write_text(json.dumps(entries))
    home = tmp_path / "home"
    code, out, err = called(monkeypatch, capsys, home, "score", "--predictions", str(results), "--split", "val")
    assert code == 0, err
    assert dict(line.split() for line in out.splitlines() if line.startswith("ap "))["ap"] == "100.000"
    code, out, err = called(monkeypatch, capsys, home, "leaderboard", "--csv")
    assert code == 0, err
    assert [line for line in out.splitlines() if line.startswith("scored.perfect")]
    results.write_text(results.read_text()[: len(results.read_text()) // 2])
    code, _, err = called(monkeypatch, capsys, home, "score", "--predictions", str(results), "--split", "val")
    assert code == 2
    assert "perfect.json" in err


def test_doctor_says_how_the_machine_is(monkeypatch, capsys, tmp_path):
    code, out, err = called(monkeypatch, capsys, tmp_path, "doctor")
    assert code in {0, 2}
    for word in ("python", "cores", "memory", "disk", "git", "dvc", "torch", "data"):
        assert f" {word} " in out
    assert (code == 2) == ("!!" in out), out + err


def test_doctor_explains_a_cpu_torch_beside_the_registrys_torchvision(monkeypatch, capsys, tmp_path):
    versions = {"torch": "2.15.0+cpu", "torchvision": "0.29.2"}
    monkeypatch.setattr("bench.machine.installed", lambda package: versions.get(package, "1.0"))
    code, _, err = called(monkeypatch, capsys, tmp_path, "doctor")
    assert code == 2
    assert "CPU-only torch" in err


@pytest.mark.parametrize("words", ["tables --quiet --out {file}/x", "leaderboard merge {board} {board} --out {file}/x.csv"])
def test_a_place_that_cannot_be_written_is_one_line(monkeypatch, capsys, tmp_path, words):
    file, board = tmp_path / "a file", places.SOURCE / "results" / "leaderboard.csv"
    file.write_text("not a folder")
    code, _, err = called(monkeypatch, capsys, tmp_path, *(word.format(file=file, board=board) for word in words.split()))
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "give a place that is there, may be written and has space" in err


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    board = places.SOURCE / "results" / "leaderboard.csv"
    out = tmp_path / "all.csv"
    code, _, err = called(monkeypatch, capsys, tmp_path, "leaderboard", "merge", str(board), str(board), "--out", str(out))
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert err.strip() == "leandet: what was being written: No space left on device; give a place that is there, may be written and has space"


def test_damaged_weights_are_one_line_whichever_model_reads_them(monkeypatch, capsys, tmp_path):
    from safetensors.torch import load_file

    (tmp_path / "weights.safetensors").write_bytes(b"\xff" * 40)
    monkeypatch.setattr("bench.cli.app", lambda: load_file(tmp_path / "weights.safetensors"))
    code, _, err = called(monkeypatch, capsys, tmp_path, "run", "mimicdet.deployed.smoke.s0")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "a file of weights that this starts from is damaged" in err
    assert "run the rows it needs again" in err
