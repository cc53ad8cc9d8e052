"""Why a runtime does not take a graph, in one line that names the operator and where in the detector it stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.types import Unavailable

LONGEST = 200  # characters of a runtime's own text; its reason stands at the end, after the places in its source
# A runtime's text with an operator where an operator stands: "Col2Im(-1)", "Op (Col2Im)", "Col2Im-18", "operations: pod.Col2Im". Other words of it,
# as Shape and Not, are operators too.
PLACES = (r"\b{kind}\(-?\d+\)", r"\({kind}\)", r"\b{kind}-\d+\b", r"operations: [^;]*\b{kind}\b")
Node = tuple[str, str]  # its operator, and its name as the exporter gives it: /backbone/layer4/layer4.0/conv2/Conv


def refused(runtime: str, path: Path, error: Exception) -> Unavailable:
    """The error to raise: the end of the runtime's text, and before it the operators that it names, each with a node."""
    said = " ".join(str(error).split())
    named = ", ".join(f"{kind} of {node or 'a node without a name'}" for kind, node in culprits(nodes(path), said))
    where, what = (f"it fails on {named}: ", "take a row without that operator, as FD is to GSL") if named else ("", "export the graph anew")
    return Unavailable(f"{runtime} cannot run {path.name}: {where}{said[-LONGEST:]}; {what}")


def culprits(found: Sequence[Node], said: str) -> list[Node]:
    """The nodes that a text names; where it names none, the first of each operator that it names as one."""
    named = [(kind, node) for kind, node in found if node and re.search(rf"(?<![\w./]){re.escape(node)}(?![\w./])", said)]
    if named:
        return named
    first = dict(reversed(found))
    return [(kind, node) for kind, node in first.items() if any(re.search(place.format(kind=re.escape(kind)), said) for place in PLACES)]


def nodes(path: Path) -> list[Node]:
    """All nodes of a graph, those of its branches behind; none of a file that is no graph."""
    try:
        import onnx

        waiting = [onnx.load(str(path), load_external_data=False).graph]
    except Exception:  # noqa: BLE001 - not installed, or damaged: protobuf's errors have no common class, and the runtime's own text remains
        return []
    found: list[Node] = []
    while waiting:
        for node in waiting.pop(0).node:
            found.append((node.op_type, node.name))
            waiting += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found
