"""What a run depends on, as one hash: its settings as data, and the source it rests on without docstrings and comments. No torch.

The source is followed by definition, not by file: a function, what it names, what those import, and so on within this project. So a run
depends on its own row's builder in paper.py and not on its neighbours, and a new function in a shared file re-runs nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from bench import places

PROJECT = ("bench", "implementations")  # packages whose source belongs to a digest
WHOLE = "*"  # every definition of a module
LOOSE = ""  # statements of a module that define nothing; they run whenever it is imported

Place = tuple[str, str]  # (module, name defined there)


@dataclass(frozen=True)
class Definition:
    """One name of a module: the hash of its source, the names of the module that it uses, what it imports itself.

    `parts` are uses like `machine.precision`: of a module imported whole, only what is named counts.
    """

    code: str
    names: frozenset[str]
    parts: frozenset[tuple[str, str]]
    imports: tuple[Place, ...]
    alias: bool  # it is an import


def module_file(name: str, root: Path | None = None) -> Path | None:
    """The source of a module of this project; None for any other module."""
    if name.partition(".")[0] not in PROJECT:
        return None
    stem = (root or places.SOURCE).joinpath(*name.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _shape(node: Any) -> Any:
    """A tree as nested lists, without docstrings and annotations.

    Empty fields, which come and go between versions of Python, are left out, so that the same source has one hash on all of them.
    """
    if isinstance(node, list):
        return [_shape(item) for item in node if not _is_text(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    skipped = {"ctx", "kind", "annotation", "returns", "type_comment"}
    return [type(node).__name__, *([name, _shape(value)] for name, value in ast.iter_fields(node) if name not in skipped and value not in (None, []))]


def code_hash(nodes: Iterable[ast.AST]) -> str:
    """The hash of parsed source: an edit of a comment, a docstring, an annotation or the layout leaves it as it is."""
    return hashlib.sha256(repr(_shape(list(nodes))).encode()).hexdigest()


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, annotations left out: nothing runs because of them."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in {"annotation", "returns"}:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child)


def _imported(node: ast.AST, package: str) -> Iterator[Place]:
    """What an import statement refers to."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, WHOLE) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        above = parts[: len(parts) - node.level + 1] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        yield from ((source, alias.name) for alias in node.names)


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name.partition(".")[0]) for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name))


def _definition(name: str, nodes: list[ast.stmt], package: str) -> Definition:
    aliases = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    others = [node for node in nodes if node not in aliases]
    inner = [child for node in others for child in _walk(node)]
    imports = [place for child in inner for place in _imported(child, package)]
    for node in aliases:  # one statement may bind several names: only this one counts
        bound = [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        imports += [place for place, alias in zip(_imported(node, package), bound, strict=True) if alias == name]
    dotted = [child for child in inner if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name)]
    bases = {id(child.value) for child in dotted}
    used = frozenset(child.id for child in inner if isinstance(child, ast.Name) and id(child) not in bases)
    parts = frozenset((child.value.id, child.attr) for child in dotted if isinstance(child.value, ast.Name))
    return Definition(code_hash(others), used, parts, tuple(dict.fromkeys(imports)), alias=bool(aliases) and not others)


@functools.lru_cache(maxsize=1024)
def _definitions(path: Path, package: str, changed: int) -> dict[str, Definition]:  # noqa: ARG001 - `changed` is the cache's key
    grouped: dict[str, list[ast.stmt]] = {LOOSE: []}
    for node in ast.parse(path.read_bytes(), str(path)).body:
        if not _is_text(node) and not _for_type_checkers(node):
            for name in list(_bound(node)) or [LOOSE]:
                grouped.setdefault(name, []).append(node)
    return {name: _definition(name, nodes, package) for name, nodes in grouped.items()}


def _open(module: str, root: Path | None) -> dict[str, Definition] | None:
    path = module_file(module, root)
    if path is None:
        return None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return _definitions(path, package, path.stat().st_mtime_ns)


def closure(start: Iterable[Place], root: Path | None = None) -> dict[str, str]:
    """Hashes of source by "module:name", for these places and all of this project that they rest on."""
    found: dict[str, str] = {}
    waiting, seen = list(start), set[Place]()
    while waiting:
        module, name = place = waiting.pop()
        known = _open(module, root)
        if place in seen or known is None:
            continue
        seen.add(place)
        if name == WHOLE:
            waiting += [(module, each) for each, definition in known.items() if not definition.alias]  # an import counts where it is used
        elif name not in known:
            waiting.append((f"{module}.{name}", WHOLE))  # `from package import module`
        else:
            found[f"{module}:{name}"] = known[name].code
            waiting += [*known[name].imports, *((module, used) for used in known[name].names if used in known)]
            waiting += [_part(module, known, part, root) for part in known[name].parts if part[0] in known]
        waiting.append((module, LOOSE))
    return found


def _part(module: str, known: Mapping[str, Definition], part: tuple[str, str], root: Path | None) -> Place:
    """What `name.attribute` refers to: a definition of another module if the name is a module of ours, else the name itself."""
    name, attribute = part
    for source, imported in known[name].imports:
        whole = source if imported == WHOLE else f"{source}.{imported}"
        if module_file(whole, root) is not None and (imported == WHOLE or imported not in (_open(source, root) or {})):
            return whole, attribute
    return module, name


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses by their fields, functions by name; two values that differ stay different."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__, **{field.name: plain(getattr(value, field.name)) for field in fields(value)}}
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, functools.partial):
        return [plain(value.func), plain(value.args), plain(value.keywords)]
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    return value if isinstance(value, bool | int | str | None) or (isinstance(value, float) and math.isfinite(value)) else repr(value)


def callables(value: Any) -> Iterator[Callable[..., Any]]:
    """Every function within a value: a row's arguments may hold some."""
    if isinstance(value, functools.partial):
        yield from callables([value.func, *value.args, *value.keywords.values()])
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        yield from callables([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, Mapping):
        yield from callables(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from callables(item)
    elif inspect.isfunction(value) or inspect.isclass(value):
        yield value


def places_of(functions: Iterable[Callable[..., Any]]) -> list[Place]:
    """Where functions are defined; a lambda or an inner function counts as the definition around it, or else as its whole module."""
    return [(each.__module__, WHOLE if each.__qualname__.startswith("<") else each.__qualname__.partition(".")[0]) for each in functions]


def digest(settings: Mapping[str, Any], source: Mapping[str, str]) -> str:
    """The digest of a run: 64 hexadecimal digits."""
    text = json.dumps({"settings": plain(settings), "source": dict(source)}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
