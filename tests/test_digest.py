"""A digest changes with what a run rests on, and with nothing else."""

from __future__ import annotations

import functools
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.digest import LOOSE, WHOLE, callables, closure, digest, plain

MODEL = '''
"""Doc."""
from __future__ import annotations
from typing import TYPE_CHECKING
from implementations.layers.heads import head
from bench import words
if TYPE_CHECKING:
    from bench.report import Page

WIDTH = 64  # channels

def build(x: int) -> int:
    """Build it."""
    from .svd import halve
    return halve(head(x) * WIDTH)

def other():
    return words.WORD
'''
FILES = {
    "bench/__init__.py": "",
    "bench/words.py": "WORD = 1\nSECOND = 2\n",
    "bench/report.py": "PAGE = 1\n",
    "implementations/__init__.py": "",
    "implementations/layers/__init__.py": "",
    "implementations/layers/heads.py": "import math\n\ndef head(x):\n    return math.sqrt(x)\n\ndef tail(x):\n    return x\n",
    "implementations/ours/__init__.py": "",
    "implementations/ours/model.py": MODEL,
    "implementations/ours/svd.py": "def halve(x):\n    return x / 2\n",
}
START = (("implementations.ours.model", "build"),)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def edited(project: Path, name: str, old: str, new: str) -> dict[str, str]:
    path = project / name
    assert old in path.read_text()
    before = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace(old, new))
    assert path.stat().st_mtime_ns != before
    return closure(START, project)


def test_follows_names_and_imports_within_the_project(project):
    named = {name for name in closure(START, project) if not name.endswith(":" + LOOSE)}
    assert named == {
        "implementations.ours.model:build",
        "implementations.ours.model:WIDTH",
        "implementations.ours.model:head",
        "implementations.layers.heads:head",
        "implementations.layers.heads:math",
        "implementations.ours.svd:halve",
    }


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("implementations/ours/model.py", "Build it.", "Builds it, as Section 3 says."),
        ("implementations/ours/model.py", "# channels", "# channels of the first layer"),
        ("implementations/ours/model.py", "x: int) -> int", "x: float) -> float"),
        ("implementations/ours/model.py", "return halve(head(x) * WIDTH)", "return halve(\n        head(x)\n        * WIDTH)"),
        ("implementations/ours/model.py", "return words.WORD", "return words.WORD + 1"),
        ("implementations/layers/heads.py", "return x\n", "return x + 1\n"),
        ("bench/words.py", "WORD = 1", "WORD = 3"),
        ("bench/report.py", "PAGE = 1", "PAGE = 2"),
    ],
)
def test_what_a_run_does_not_rest_on_leaves_its_digest(project, name, old, new):
    before = closure(START, project)
    assert edited(project, name, old, new) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("implementations/ours/model.py", "WIDTH = 64", "WIDTH = 65"),
        ("implementations/ours/model.py", "* WIDTH", "+ WIDTH"),
        ("implementations/layers/heads.py", "math.sqrt(x)", "math.sqrt(x + 1)"),
        ("implementations/ours/svd.py", "x / 2", "x / 4"),
        ("implementations/layers/heads.py", "import math\n", "import math\nmath.pi = 3\n"),
    ],
)
def test_what_a_run_rests_on_changes_its_digest(project, name, old, new):
    before = digest({}, closure(START, project))
    assert digest({}, edited(project, name, old, new)) != before


def test_of_a_module_imported_whole_only_what_is_named_counts(project):
    names = closure((("implementations.ours.model", "other"),), project)
    assert "bench.words:WORD" in names
    assert "bench.words:SECOND" not in names


def test_a_module_handed_on_counts_as_a_whole(project):
    path = project / "implementations/ours/model.py"
    path.write_text(path.read_text().replace("return words.WORD", "return vars(words)"))
    assert {"bench.words:WORD", "bench.words:SECOND"} <= set(closure((("implementations.ours.model", "other"),), project))


def test_a_start_may_be_a_whole_module(project):
    assert set(closure((("bench.words", WHOLE),), project)) == {"bench.words:WORD", "bench.words:SECOND", "bench.words:"}


def test_a_cycle_of_imports_ends(project):
    (project / "bench/words.py").write_text("from implementations.ours.model import other\nWORD = other\n")
    assert "bench.words:WORD" in closure((("implementations.ours.model", "other"),), project)


def test_values_that_differ_stay_different():
    @dataclass(frozen=True)
    class Size:
        width: int

    values = [
        1,
        1.5,
        "1",
        True,
        None,
        (1, 2),
        (2, 1),
        {"a": 1},
        {"a": 2},
        Size(1),
        Size(2),
        len,
        sorted,
        functools.partial(len),
        functools.partial(len, 1),
    ]
    texts = [repr(plain(value)) for value in values]
    assert len(set(texts)) == len(values)
    assert digest({"b": 1, "a": 2}, {}) == digest({"a": 2, "b": 1}, {})


def test_functions_within_arguments_are_found():
    def head() -> None: ...

    found = list(callables({"head": functools.partial(head, 3), "sizes": (1, head)}))
    assert found == [head, head]


def test_a_docstring_of_a_class_does_not_count(project):
    (project / "bench/words.py").write_text(textwrap.dedent('class A:\n    """One."""\n    x = 1\n'))
    start = (("bench.words", "A"),)
    before = closure(start, project)
    (project / "bench/words.py").write_text('class A:\n    """Two, longer."""\n\n    x = 1\n')
    assert closure(start, project) == before
