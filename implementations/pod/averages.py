"""Section 4.4 and Table 3: the learnt scales averaged over images, and where a decomposition takes them from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.types import Detector, UserError
from implementations.pod.global_scale import ScalePredictor, of_images

if TYPE_CHECKING:
    from implementations.pod.model import Pod

DERIVED = "derived.json"  # beside the weights of the run that learnt the scales
SPLIT = "train"  # of the images whose averages are decomposed
PRINTED = Path(__file__).with_name("published.json")
TYPES = {"c4": ("FRCNN", "R50-C4"), "fpn": ("FRCNN", "R50-FPN"), "retina": ("RetinaNet", "R50-FPN")}  # how Table 3 calls them
DIRECTIONS = ("h", "w")
Scales = Mapping[str, tuple[float, float]]  # block -> (d_h, d_w)


@contextmanager
def _listening(predictors: Mapping[str, ScalePredictor]) -> Iterator[dict[str, list[Tensor]]]:
    """Every scale that is predicted meanwhile, by block: one row (2,) an image, or a region where each region has its own."""
    heard: dict[str, list[Tensor]] = {name: [] for name in predictors}

    def listener(name: str) -> Any:
        def listen(module: ScalePredictor, given: tuple[Any, ...], found: Tensor) -> None:
            members = given[1] if len(given) > 1 else None
            shared = members is not None and module.sharing == "image"
            heard[name].append(of_images(found, members)[members.unique()] if shared else found)

        return listen

    handles = [predictor.register_forward_hook(listener(name)) for name, predictor in predictors.items()]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def predictors_of(detector: nn.Module) -> dict[str, ScalePredictor]:
    """The predictors by the name of their block; UserError for a detector that learns no scales."""
    from implementations.pod.model import blocks_of

    found = {name: block.conv2.predictor for name, block in blocks_of(detector).items() if hasattr(block.conv2, "predictor")}
    if not found:
        raise UserError("this detector has no scale predictors; averages are of a GSL row")
    return found


def scale_averages(detector: Any, images: Iterable[Sequence[Tensor]]) -> dict[str, float]:
    """Mean and standard deviation of every learnt scale over batches of images, in cells: {"R31_h": 0.88, "std_R31_h": 0.004, ...}.

    Table 3's columns, the first and the last block of a stage, come again under names that nets of any depth have: "conv3_first_h". The deviation is
    that of these images (divisor N). A region that has a scale of its own counts as an image does.
    """
    assert isinstance(detector, Detector)
    predictors = predictors_of(detector)  # type: ignore[arg-type]  # a Detector that is no nn.Module has none
    with torch.inference_mode(), _listening(predictors) as heard:
        for batch in images:
            detector.network(detector.prepare(batch))
    values: dict[str, float] = {}
    for name, parts in heard.items():
        scales = torch.cat(parts).double()
        for at, direction in enumerate(DIRECTIONS):
            for known in (name, *_by_position(name, list(heard))):
                values[f"{known}_{direction}"] = float(scales[:, at].mean())
                values[f"std_{known}_{direction}"] = float(scales[:, at].std(unbiased=False))
    return values


def _by_position(name: str, names: Sequence[str]) -> list[str]:
    """As in "conv3_first": what a block is called if it is the first or the last of its stage."""
    stage = [other for other in names if other[1] == name[1]]
    return [f"conv{name[1]}_{end}" for end, at in (("first", 0), ("last", -1)) if stage[at] == name]


def read_averages(weights: Path) -> Scales:
    """The averages over training images that stand beside a GSL run's weights; UserError if they are missing or damaged."""
    path = weights.with_name(DERIVED)
    try:
        means: Mapping[str, float] = json.loads(path.read_text())["scales"][SPLIT]
        names = sorted(name.removesuffix("_h") for name in means if name.startswith("R") and name.endswith("_h"))
        return {name: (float(means[f"{name}_h"]), float(means[f"{name}_w"])) for name in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no averaged scales in it ({type(error).__name__}); run the GSL row that stands beside it again") from error


def printed_averages(kind: str, blocks: Sequence[int]) -> Scales:
    """Table 3's averages for a detector that has no run to take them from: to count and to time it at the paper's scale.

    Only the first and the last block of a stage of R50 are printed; between them we go in equal steps, and R101 gets R50's.
    `kind`: a key of TYPES; `blocks`: of each of the four stages.
    """
    table = next(table for table in json.loads(PRINTED.read_text())["tables"] if table["id"] == "T3")
    columns = [column["name"] for column in table["columns"]]
    rows = {row["cells"][3]: row["values"] for row in table["rows"] if (row["cells"][0], row["cells"][2]) == TYPES[kind] and row["cells"][1] == SPLIT}
    printed = {name: tuple(rows[direction][columns.index(name)][0] for direction in DIRECTIONS) for name in columns if name.startswith("R")}
    found: dict[str, tuple[float, float]] = {}
    for stage, count in zip((3, 4, 5), blocks[1:], strict=True):
        first, last = (printed[name] for name in sorted(name for name in printed if name.startswith(f"R{stage}")))
        for block in range(count):
            way = block / (count - 1) if count > 1 else 0.0
            found[f"R{stage}{block + 1}"] = (first[0] + way * (last[0] - first[0]), first[1] + way * (last[1] - first[1]))
    return found


def scales_for(settings: Pod, inputs: Mapping[str, Path], blocks: Sequence[int]) -> Scales:
    """What is decomposed: the averages of the run that the row needs, or where there is none the printed ones."""
    if settings.scales_of in inputs:
        return read_averages(inputs[settings.scales_of])
    if inputs:
        raise UserError(f"{settings.scales_of or 'scales_of'}: its run is needed for the scales that are decomposed; next: run that row first")
    return printed_averages(settings.detector, blocks)
