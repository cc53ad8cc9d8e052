"""A detector of one paper with what others do to it: built by its own row's builder, filled with its run's weights, then changed step by step.

No paper is imported here: a row's parts are found by PAPER.ROW (paper.py) and stand, as functions and arguments, in the row's own arguments, so that
its digest covers their source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from implementations.layers.weights import fill

if TYPE_CHECKING:
    from bench.spec import Request
    from implementations.combinations.paper import Part


def build_combined(request: Request, *, base: Part, weights: str, then: Sequence[Part]) -> Any:
    """`base` builds the detector, the run `weights` (a key of request.inputs) fills it, and each of `then` changes it.

    Without that run's weights it has the sizes and no meaning.
    """
    detector = base.do(request, **base.arguments)
    if weights in request.inputs:
        fill(detector, request.inputs[weights])
    for part in then:
        detector = part.do(detector, **part.arguments)
    return detector
