"""Why a runtime does not take a graph, in one line that names the operator and where in the detector it stands."""

from __future__ import annotations

import re
from pathlib import Path

from bench.types import Unavailable

LONGEST = 200  # characters of a runtime's own text; its reason stands at the end, after the places in its source


def refused(runtime: str, path: Path, error: Exception) -> Unavailable:
    """The error to raise: the operators of the graph that the runtime's text names, each with its first node; without any, the end of that text."""
    said = " ".join(str(error).split())
    named = [f"{kind} of {node}" for kind, node in first_nodes(path).items() if re.search(rf"\b{re.escape(kind)}\b", said)]
    why = f"it fails on {', '.join(named)}; export a row with plain convolutions" if named else f"{said[-LONGEST:]}; export the graph anew"
    return Unavailable(f"{runtime} cannot run {path.name}: {why}")


def first_nodes(path: Path) -> dict[str, str]:
    """Each kind of operator with the name of its first node, as /backbone/layer4/layer4.0/conv2/Conv; empty for a file that is no graph."""
    try:
        import onnx

        nodes = onnx.load(str(path), load_external_data=False).graph.node
    except Exception:  # noqa: BLE001 - not installed, or damaged: protobuf's errors have no common class, and the runtime's own text remains
        return {}
    return {node.op_type: node.name or "a node without a name" for node in reversed(nodes)}
