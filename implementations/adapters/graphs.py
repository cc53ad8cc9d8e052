"""A trained detector as graphs for a runtime: what learns is exported, what decides (proposals, RoI features, suppression) stays in torch.

RetinaNet is one graph, image -> logits and offsets. A two-stage detector is two: "body", image -> maps, objectness and offsets of all anchors; and
"head", features of RoIs -> scores and offsets.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.types import Batch, Detections, Unavailable, UserError
from implementations.baselines.retinanet import Dense, RetinaNet
from implementations.layers import averages
from implementations.layers.regions import Answers, flatten
from implementations.layers.rpn import Proposals, Scored
from implementations.layers.two_stage import Raw, TwoStage

Runner = Callable[[Tensor], Sequence[Tensor]]  # one graph: input -> outputs, float32 on the CPU
OPSET = 18
BODY, HEAD = "body.onnx", "head.onnx"
NO_TRAINING = "a deployed detector cannot learn; train the row that it was exported from"


class Body(nn.Module):
    """What runs once an image: for RetinaNet everything."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.neck = detector.backbone, detector.neck
        self.dense = isinstance(detector, RetinaNet)
        self.head = detector.head if self.dense else detector.rpn.head
        self.levels = None if self.dense else len(detector.config.rpn.anchor_sizes)
        self.stem = None if self.dense else _stem(detector)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> logits, offsets, maps, and where the second stage has a stem what that makes of the last map."""
        maps = self.backbone(pixels)
        maps = maps if self.neck is None else self.neck(*maps)
        logits, deltas = self.head(*maps[: self.levels])
        return (logits, deltas, *maps) if self.stem is None else (logits, deltas, *maps, self.stem(maps[-1]))


class Head(nn.Module):
    """What runs once a RoI."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C, S, S) -> scores, offsets."""
        output = self.head(features)
        return output.scores, output.deltas


def export(detector: Any, folder: Path, *, size: tuple[int, int] = (128, 160)) -> tuple[Path, ...]:
    """Write the detector's graphs into a folder; batch, image size and number of RoIs stay free. `size`: of the image that is traced.

    Unavailable where the exporter is not installed or an operator has no counterpart; the text is one line.
    """
    detector = detector.eval()
    _require_one_head(detector)
    body = folder / BODY
    outputs = ["logits", "deltas", *(f"map{i}" for i in range(_maps(detector)))]
    free = {"pixels": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch", 1: "anchors"}, "deltas": {0: "batch", 1: "anchors"}}
    free |= {name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in outputs[2:]}
    _write(Body(detector), torch.zeros(2, 3, *size), body, ("pixels", outputs, free))
    if isinstance(detector, RetinaNet):
        return (body,)
    head = folder / HEAD
    names = ["scores", "deltas"]
    free = {name: {0: "rois"} for name in ("features", *names)}
    _write(Head(detector.regions.head), torch.zeros(3, *detector.config.roi_features), head, ("features", names, free))
    return body, head


def _require_one_head(detector: Any) -> None:
    """Unavailable for a second stage that is not one pooling and one head, as a cascade's heads are."""
    stage = None if isinstance(detector, RetinaNet) else getattr(detector, "regions", None)
    if stage is not None and not all(hasattr(stage, name) for name in ("pool", "head")):
        raise Unavailable(f"{type(stage).__name__} is not one pooling and one head, which are exported; take a row that is, or @fused")


def _stem(detector: Any) -> nn.Module | None:
    """What a second stage does once an image, before it pools; None where it does nothing."""
    return getattr(detector.regions, "stem", None)


def _maps(detector: Any) -> int:
    """How many maps the body gives."""
    strides = len(detector.config.strides)
    if isinstance(detector, RetinaNet):
        return strides
    return strides + (detector.neck is not None) + (_stem(detector) is not None)


def _write(module: nn.Module, example: Tensor, path: Path, names: tuple[str, list[str], Mapping[str, Mapping[int, str]]]) -> None:
    given, outputs, free = names
    module.eval()  # with all that it holds: the exporter leaves a module in the mode that it had itself
    try:
        with torch.no_grad(), constant_windows(), warnings.catch_warnings():
            module(example)  # makes the windows
            warnings.simplefilter("ignore")  # the tracer's, of what it takes as constant: sizes that are given as free are not
            torch.onnx.export(
                module, (example,), str(path), input_names=[given], output_names=outputs, dynamic_axes=free, opset_version=OPSET, dynamo=False
            )
    except ImportError as error:
        raise Unavailable(f"export to ONNX: {error.name or error} is not installed; next: pip install onnx") from error
    except torch.onnx.errors.UnsupportedOperatorError as error:
        raise Unavailable(f"export to ONNX: {' '.join(str(error).split())[:200]}; take a row whose convolutions are plain (FD)") from error


@contextmanager
def constant_windows() -> Iterator[None]:
    """Let averages have their windows as constants of a graph: to the tracer a side is a tensor, which is in no cache, and ONNX has no kron."""
    made = averages.windows
    averages.windows = lambda side, length: made(int(side), int(length))  # type: ignore[assignment]  # without what a cache can do besides
    try:
        yield
    finally:
        averages.windows = made


def operators(path: Path) -> tuple[str, ...]:
    """The kinds of operator that a graph holds, sorted, with those inside of branches; Unavailable without the package onnx."""
    try:
        import onnx
    except ImportError as error:
        raise Unavailable("onnx is not installed, so a graph cannot be read; next: pip install onnx") from error
    found: set[str] = set()
    waiting = [onnx.load(str(path)).graph]
    while waiting:
        for node in waiting.pop().node:
            found.add(node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}::{node.op_type}")
            waiting += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return tuple(sorted(found))


def deployed(detector: Any, folder: Path, runner: Callable[[Path], Runner]) -> DeployedDense | DeployedTwoStage:
    """The detector, exported into a folder and run from there by a runtime's `runner`."""
    files = export(detector, folder)
    graphs = Graphs(files, tuple(runner(path) for path in files))
    return DeployedDense(detector, graphs) if isinstance(detector, RetinaNet) else DeployedTwoStage(detector, graphs)


def deployed_here(detector: Any, dtype: torch.dtype, runner: Callable[[Path], Runner], runtime: str) -> DeployedDense | DeployedTwoStage:
    """The detector, run from graphs that live as long as this process; UserError for another precision or device."""
    if dtype != torch.float32:
        raise UserError(f"{runtime}: graphs are exported in float32; allowed: --precision float32")
    if {tensor.device.type for tensor in detector.parameters()} - {"cpu"}:
        raise UserError(f"{runtime}: runs on the CPU here; allowed: --device cpu")
    folder = Path(tempfile.mkdtemp(prefix="leandet-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        return deployed(detector, folder, runner)
    except Unavailable as reason:
        raise UserError(f"{runtime}: {reason}") from reason


@dataclass(frozen=True)
class Graphs:
    """Exported files and what runs them."""

    files: tuple[Path, ...]
    runners: tuple[Runner, ...]

    def stored_bytes(self) -> int:
        """Of the files."""
        return sum(path.stat().st_size for path in self.files)

    def weights_hash(self) -> str:
        """SHA-256 of the graphs, which hold the weights."""
        total = hashlib.sha256()
        for path in self.files:
            total.update(path.read_bytes())
        return total.hexdigest()


@dataclass
class DeployedDense:
    """RetinaNet in a runtime: a Detector as any other, that cannot learn."""

    detector: RetinaNet  # what it was exported from, for sizes, anchors and suppression; its weights are not used
    graphs: Graphs

    why_not = NO_TRAINING

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad."""
        return self.detector.prepare(images)

    def network(self, batch: Batch) -> Dense:
        """All that learns, in the runtime."""
        logits, deltas, *maps = self.graphs.runners[0](batch.pixels.contiguous())
        return self.detector.dense((logits, deltas), grids_of(maps), batch)

    def finish(self, raw: Dense) -> list[Detections]:
        """Decode, suppress, and go back to the pixels of each image as given."""
        return self.detector.finish(raw)

    def weights_hash(self) -> str:
        """Of its graphs."""
        return self.graphs.weights_hash()

    def stored_bytes(self) -> int:
        """Of its graphs."""
        return self.graphs.stored_bytes()

    @property
    def weights_from(self) -> str:
        """The folder and the file."""
        return "/".join(self.graphs.files[0].parts[-2:])

    def eval(self) -> DeployedDense:
        """Itself: it is never in training."""
        return self

    def forward(self, *_: Any) -> dict[str, Tensor]:
        """Unavailable: an exported network has no gradients."""
        raise Unavailable(NO_TRAINING)


@dataclass
class DeployedTwoStage:
    """A two-stage detector in a runtime: a Detector as any other, that cannot learn. Proposals and RoI features are made in torch."""

    detector: TwoStage  # what it was exported from, for sizes, anchors, proposals, RoI features and suppression; its weights are not used
    graphs: Graphs

    why_not = NO_TRAINING

    @property
    def config(self) -> Any:
        """Every number that makes it."""
        return self.detector.config

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad."""
        return self.detector.prepare(images)

    def network(self, batch: Batch) -> Raw:
        """All that learns, in the runtime."""
        body, head = self.graphs.runners
        logits, deltas, *maps = body(batch.pixels.contiguous())
        proposals, _ = self.propose(maps, batch, logits, deltas)
        rois = flatten(proposals.boxes, proposals.valid)
        source = maps if _stem(self.detector) is None else maps[-1:]
        scores, offsets = head(self.detector.regions.pool(source, rois).contiguous())
        answers = Answers(rois, scores.softmax(1), offsets, tuple(proposals.valid.sum(1).tolist()))
        return Raw(answers, batch.sizes, batch.originals)

    def propose(self, maps: Sequence[Tensor], batch: Batch, logits: Tensor, deltas: Tensor) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals from what the body says of every anchor, and no losses."""
        rpn = self.detector.rpn
        grids = grids_of(maps[: len(self.config.rpn.anchor_sizes)])
        levels = tuple(height * width * rpn.anchors.per_cell for height, width in grids)
        canvas = (int(batch.pixels.shape[-2]), int(batch.pixels.shape[-1]))
        scored = Scored(logits, deltas, rpn.anchors(grids, canvas, logits.device), levels)
        return rpn.propose(scored, torch.tensor(batch.sizes, dtype=torch.float32)), {}

    def finish(self, raw: Raw) -> list[Detections]:
        """Decode, suppress, and go back to the pixels of each image as given."""
        return self.detector.finish(raw)

    def weights_hash(self) -> str:
        """Of its graphs."""
        return self.graphs.weights_hash()

    def stored_bytes(self) -> int:
        """Of its graphs."""
        return self.graphs.stored_bytes()

    @property
    def weights_from(self) -> str:
        """The folder and the file."""
        return "/".join(self.graphs.files[0].parts[-2:])

    def eval(self) -> DeployedTwoStage:
        """Itself: it is never in training."""
        return self

    def forward(self, *_: Any) -> dict[str, Tensor]:
        """Unavailable: an exported network has no gradients."""
        raise Unavailable(NO_TRAINING)


def grids_of(maps: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each map."""
    return tuple((int(x.shape[-2]), int(x.shape[-1])) for x in maps)
