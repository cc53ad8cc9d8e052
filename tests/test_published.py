"""What the papers print: counts, spelling against the papers' text where it is at hand, faults of a damaged file."""

import json
import os
import re
from pathlib import Path

import pytest

from bench.catalogue import FOLDER, built, catalogue, find_paper, printing
from bench.published import labels, numeric_cells, read_published, result_cells
from bench.types import UserError

PAPERS = ("compression", "condensing", "light_head", "mimicdet", "pod")
SHARED = Path(os.environ.get("LEANDET_SHARED", Path(__file__).parents[2] / "shared"))


def published():
    return {key: entry.published for key, entry in printing().items()}


def test_five_papers_are_found_by_folder():
    assert tuple(printing()) == PAPERS
    assert set(catalogue()) - set(PAPERS) == {"combinations"}
    assert "condensing" in built()


def test_counts_of_cells_and_claims():
    # Counted in the papers: 2 accuracy columns x 11 rows and 8 x 4 and 8 x 8 in Condensing's four tables, and so on.
    assert {key: len(result_cells(printed)) for key, printed in published().items()} == {
        "compression": 27 * 2,
        "condensing": 4 + 7 + 8 * 4 + 8 * 8,
        "light_head": 2 * 4 + 4 * 4 + 2 * 4 + 4 + (11 * 4 - 3) + 4 + 10 * 2,
        "mimicdet": 3 * 3 + 4 * 3 + 3 * 2 + 2 + 4 * 2 + 6 * 7 + (17 * 7 - 2),
        "pod": (15 * 6 - 1) + 12 * 6 + 8 * 6 + 9 * 2 + 9 * 4,
    }
    assert sum(len(result_cells(printed)) for printed in published().values()) == 721
    assert sum(len(numeric_cells(printed)) for printed in published().values()) == 771
    assert {key: len(printed.claims) for key, printed in published().items()} == {
        "compression": 5,
        "condensing": 12,
        "light_head": 15,
        "mimicdet": 9,
        "pod": 11,
    }


@pytest.mark.parametrize("key", PAPERS)
def test_each_cell_has_a_place_of_its_own(key):
    found = result_cells(published()[key])
    assert len({(cell.table, cell.row, cell.column) for cell in found}) == len(found)
    assert all(cell.row and cell.column and cell.unit for cell in found)


@pytest.mark.parametrize("key", PAPERS)
def test_each_value_is_what_its_cell_prints(key):
    for cell in numeric_cells(published()[key]):
        numbers = [float(text) for text in re.findall(r"\d+(?:\.\d+)?", cell.printed.split("(")[0])]
        values = cell.value.values() if hasattr(cell.value, "values") else cell.value if isinstance(cell.value, tuple) else (cell.value,)
        assert list(values) == numbers, cell


@pytest.mark.parametrize("key", PAPERS)
def test_each_result_stands_on_its_line_of_the_paper(key):
    """In Compressed Object Detection the second line of a block holds the sizes; everywhere else a row is a line."""
    printed = published()[key]
    path = SHARED / "papers" / printed.text
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand: the papers' texts lie outside this repository")
    lines = path.read_text(encoding="utf-8").splitlines()
    for table in printed.tables:
        for cell in (cell for cell in result_cells(printed) if cell.table == table.id):
            line = table.rows[cell.at[0]].line
            span = lines[line - 1 : line + (1 if key == "compression" else 0)]
            words = re.split(r"[\t|]", " \t ".join(span).replace("<b>", "").replace("</b>", "").replace("**", ""))
            assert cell.printed in [word.strip(" $") for word in words], cell


@pytest.mark.parametrize("key", PAPERS)
def test_each_claim_stands_near_its_line(key):
    printed = published()[key]
    path = SHARED / "papers" / printed.text
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand: the papers' texts lie outside this repository")
    lines = path.read_text(encoding="utf-8").splitlines()
    worded = {"50", "0", "7", "2.6", "3", "1", "0.5", "96"}  # "a half", "without", "nearly 3": printed in words or rounded by us
    for claim in printed.claims:
        values = claim.value if isinstance(claim.value, tuple) else () if claim.value is None else (claim.value,)
        for value in (f"{abs(value):g}" for value in values):
            assert value in lines[claim.line - 1] or value in worded, (claim, value)


def test_rows_that_several_papers_print_agree():
    """Three papers quote the same detectors; a slip of ours in one of them would show."""
    found = {(key, cell.table, cell.at[0]): set() for key, printed in published().items() for cell in result_cells(printed)}
    for key, printed in published().items():
        for cell in result_cells(printed):
            if isinstance(cell.value, float):
                found[key, cell.table, cell.at[0]].add(cell.value)
    retina, ssd, dssd = {39.1, 21.8, 42.7, 50.2}, {31.2}, {33.2}
    places = {"light_head": "T5", "pod": "T1", "mimicdet": "T7"}
    for key, table in places.items():
        assert any(retina <= values for place, values in found.items() if place[:2] == (key, table))
    for key, table in (("light_head", "T8"), ("pod", "T1"), ("mimicdet", "T7")):
        assert any(ssd <= values for place, values in found.items() if place[:2] == (key, table))
        assert any(dssd <= values for place, values in found.items() if place[:2] == (key, table))


def test_garbled_readings_and_notes_are_kept():
    printed = published()["light_head"]
    assert any("check marks" in str(note["what"]) for note in printed.table("T5").garbled)
    assert len(set(labels(printed.table("T5")))) == 11


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data["tables"][0]["rows"][0]["cells"].pop(), "table T1"),
        (lambda data: data["tables"][1]["columns"][0].update(kind="guess"), "table T2"),
        (lambda data: data["claims"][0].pop("value"), "claims"),
        (lambda data: data.pop("tables"), "the file"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path, damage, said):
    data = json.loads((FOLDER / "condensing" / "published.json").read_text())
    damage(data)
    path = tmp_path / "published.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=said) as fault:
        read_published(path)
    assert "published.json" in str(fault.value)
    assert "\n" not in str(fault.value)


def test_an_unknown_paper_is_answered_with_those_there_are():
    with pytest.raises(UserError, match="condensing"):
        find_paper("condensin")
