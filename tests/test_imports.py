"""The arrows of the layout: who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("bench", "implementations") for path in (HERE / folder).rglob("*.py"))
PAPERS = sorted(path.parent for path in (HERE / "implementations").glob("*/published.json"))
TORCHLESS = (
    "types",
    "spec",
    "records",
    "plan",
    "digest",
    "places",
    "tables",
    "claims",
    "evidence",
    "verdicts",
    "leaderboard",
    "leaderboard_command",
    "leaderboard_files",
    "leaderboard_table",
    "published",
    "catalogue",
)
ALSO_TORCHLESS = (
    "report",
    "gather",
    "publish",
    "pipeline",
    "orders",
    "campaign",
    "timing_command",
    "timing_records",
    "watching",
    "regression",
    "adapters",
    "adapted",
    "measuring",
    "checking",
)
FORBIDDEN_NAMES = {"utils", "misc", "common", "helpers", "base", "manager"}


def name_of(path: Path) -> str:
    parts = path.relative_to(HERE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, at_top: bool = False) -> set[str]:
    """Modules that a file imports; `at_top`: those that are imported with it, type checkers' own left out."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree)) if not at_top else tree.body
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if any(name == package or name.startswith(f"{package}.") for package in packages)}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(HERE / "bench")], ids=name_of)
def test_bench_imports_no_implementation(path):
    assert not within(imports(path), "implementations")


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(HERE / "implementations")], ids=name_of)
def test_implementations_import_only_the_shared_words_layers_and_baselines(path):
    own = f"implementations.{path.relative_to(HERE / 'implementations').parts[0]}"
    adapting = ("bench.adapters",) if own == "implementations.adapters" else ()  # the interface that they are written to
    allowed = ("bench.types", "bench.spec", "implementations.layers", "implementations.baselines", own, *adapting)
    found = within(imports(path), "bench", "implementations")
    loose = {name for name in found if not within({name}, *allowed)} - {"bench", "implementations"}
    assert not loose
    if path.is_relative_to(HERE / "implementations" / "layers"):
        assert not within(imports(path), "implementations.baselines")


@pytest.mark.parametrize("folder", PAPERS, ids=lambda folder: folder.name)
def test_a_paper_never_imports_another(folder):
    others = [f"implementations.{other.name}" for other in PAPERS if other != folder]
    for path in folder.rglob("*.py"):
        assert not within(imports(path), *others)


@pytest.mark.parametrize("name", TORCHLESS)
def test_what_plans_and_judges_imports_no_torch_itself(name):
    assert not within(imports(HERE / "bench" / f"{name}.py", at_top=True), "torch", "torchvision", "lightning_fabric")


@pytest.mark.parametrize("name", ["bench.types", "bench.spec"])
def test_the_shared_words_import_nothing_of_ours(name):
    path = HERE / Path(*name.split(".")).with_suffix(".py")
    assert not within(imports(path), "bench", "implementations")


def test_the_words_and_judges_leave_torch_unimported():
    modules = ", ".join(f"bench.{name}" for name in (*TORCHLESS, *ALSO_TORCHLESS))
    code = f"import sys, {modules}; from bench.catalogue import catalogue; catalogue(); print(*{{'torch', 'torchvision'}} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True).stdout
    assert said.strip() == ""


def test_no_file_bears_a_name_that_says_nothing():
    assert not [path for path in SOURCES if FORBIDDEN_NAMES & {part.removesuffix(".py") for part in path.relative_to(HERE).parts}]


def test_files_are_short():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    long = {name: count for name, count in lengths.items() if count > (500 if name.endswith(".model") else 400)}
    assert not long


def test_no_function_is_longer_than_sixty_lines():
    functions = [(path, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert not [f"{name_of(path)}.{node.name}" for path, node in functions if node.end_lineno - node.lineno + 1 > 60]
