"""POD (Peng, Sun, Zhang, Tan, Yan): the method, top to bottom, on Faster R-CNN (C4, FPN) and RetinaNet.

Phase one: every 3x3 convolution of conv3 to conv5 is sampled at a scale that the map predicts (GSL, global_scale.py). Its scales are averaged over
images (averages.py). Phase two: each convolution is decomposed into one or two of fixed integral dilations (FD, decomposition.py), which start from
the pretrained net's weights or from GSL's (FD-WT), and learn again. deployment.py exports what then are plain convolutions.

No code of the authors was found, so there is no second reading to compare with. What the text leaves open, and what is taken here (the default first;
each is a field of `Pod`):
- `sharing`: of conv5 in a C4 head, "image": the regions of an image share the mean of what they predict, as section 3.1 gives "global scales in both
  directions for each image"; "roi": the module by the letter, whose batch are the regions, so that each has a scale of its own.
- `start`: of the linear layer. Section 4.1 says He initialisation for all new parameters, and nothing of the bias. "plain": weights 0 and bias 1, so
  that GSL starts as the pretrained net's plain convolution; "he bias 1"; "he": bias 0, so that scales start around 0, some of them negative.
- `inherit`: of a kernel side of 1, "centre": "values of corresponding position" (section 3.3; Figure 5 is not legible in the text at hand), or
  "sum": all three, which is what a dilation of 0 computes and what keeps the network's function.

Decided here without an option:
- alpha * C_out is rounded to the nearest whole number, a half upwards; a part without a channel is an error. 0.95 counts as near an integer.
- Where one direction is near an integer its dilation is that integer in both parts and alpha is the other direction's fraction; where both are,
  nothing is split. A scale within 0.05 of 0 is a dilation of 0.
- Nothing keeps a predicted scale positive: neither does the text. An average that is not positive and finite is an error when it is decomposed.
- "500+ images" are 500 of the training split, drawn by the run's seed, unflipped, at test size; on FD the scales are those of its own seed's GSL run.
- Positions outside of the map are 0, as with the plain convolution's padding.
- Test size 800 / 1333 (not stated; it is the field's with COCO). The stride of a C4 head stands in its first 1x1, of a backbone in the 3x3.
- FPN's RoI head is that of two fully connected layers. RetinaNet is torchvision's first: nine anchors, L1, suppression over the best
  1000 of a level, P6 from P5 (from C5, as its own paper has it, 4.1 M weights more).
- FD-WT takes everything from GSL, its detector's head too, as section 3.3 says "finetune"; FD what GSL started from: at the paper's tier the
  pretrained backbone, below it a trained detector without the method, but for the layers that name classes (see README.md).
- Norm statistics are fixed and its scale and shift learn, where the paper has synchronised batch norm: a proxy run has one process and small batches.
- No horizontal flips, as in every row of this project (the drawn data's classes are each other's mirror images).
- Without a run to take scales from (to count and to time at the paper's scale) FD has Table 3's: see averages.printed_averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.spec import PRETRAINED
from bench.types import Detections, Unavailable, UserError
from implementations.baselines.faster_rcnn import faster_rcnn_c4, faster_rcnn_fpn
from implementations.baselines.retinanet import RetinaNet, retinanet
from implementations.layers.backbones import Bottleneck, freeze, load_backbone, normed
from implementations.layers.heads import HeadOutput, Layer4
from implementations.layers.parts import Part
from implementations.layers.regions import Answers, RegionStage, choose, finish, flatten, region_losses
from implementations.pod.averages import Scales, scales_for
from implementations.pod.decomposition import DecomposedConv, Decomposition, Inherit, decompose
from implementations.pod.global_scale import GlobalScaleConv, Sharing, Start, checked

if TYPE_CHECKING:
    from bench.spec import Request
    from implementations.layers.rpn import Proposals
    from implementations.layers.targets import Truth
    from implementations.layers.two_stage import TwoStage

Base = Literal["c4", "fpn", "retina"]
Phase = Literal["gsl", "fd"]
Begin = Literal["pretrained", "transferred"]
FROZEN = 2  # conv1 and stage 2, as the baselines
NAMING = (
    "regions.head.predictor.",
    "head.class_subnet.predict.",
)  # the layers with an output a class: data of other classes leaves the rest as it is


@dataclass(frozen=True)
class Pod:
    """The settings of one detector; options as the head of this file lists them."""

    detector: Base
    phase: Phase
    begin: Begin = "pretrained"  # FD's weights: of the pretrained net, or transferred from GSL (FD-WT)
    scales_of: str = ""  # FD: key of the GSL row whose averages are decomposed
    sharing: Sharing = "image"
    start: Start = "plain"
    inherit: Inherit = "centre"

    def __post_init__(self) -> None:
        for name, allowed in (("detector", Base), ("phase", Phase), ("begin", Begin), ("sharing", Sharing), ("start", Start), ("inherit", Inherit)):
            checked(f"Pod: {name}", getattr(self, name), get_args(allowed))


# ---- Figure 2: a block whose 3x3 is something else


class ScaledBottleneck(nn.Module):
    """A bottleneck with another 3x3 convolution; all names are the plain block's."""

    def __init__(self, block: Bottleneck, conv2: GlobalScaleConv | DecomposedConv) -> None:
        super().__init__()
        self.kind = block.kind
        self.conv1, self.bn1 = block.conv1, block.bn1
        self.conv2, self.bn2 = conv2, block.bn2
        self.conv3, self.bn3 = block.conv3, block.bn3
        self.downsample = block.downsample

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """(B, channels, H, W) -> (B, 4 * inner, H / step, W / step). `members` (B,) int64: the image of each, where they are regions."""
        out = F.relu_(normed(x, self.conv1, self.bn1, self.kind))
        out = F.relu_(self.conv2(out, self.bn2, members))
        out = normed(out, self.conv3, self.bn3, self.kind)
        shortcut = x if self.downsample is None else normed(x, self.downsample[0], self.downsample[1], self.kind)
        return F.relu_(out.add_(shortcut))


Replace = Callable[[str, nn.Conv2d], GlobalScaleConv | DecomposedConv]  # (name of the block, its plain 3x3)


def stages_of(detector: nn.Module) -> Iterator[tuple[int, nn.Sequential]]:
    """conv3, conv4 and conv5 wherever they stand, with their numbers: in the backbone, or conv5 in the head."""
    for name, module in detector.named_modules():
        if isinstance(module, nn.Sequential) and name.endswith(("layer2", "layer3", "layer4")):
            yield int(name[-1]) + 1, module


def scaled(detector: nn.Module, make: Replace) -> None:
    """Put another convolution into every block of conv3, conv4 and conv5; a block is called as in Table 3: R31 is the first of conv3."""
    for number, stage in list(stages_of(detector)):
        for place, block in enumerate(list(stage)):
            assert isinstance(block, Bottleneck), f"R{number}{place + 1} is no plain block"
            stage[place] = ScaledBottleneck(block, make(f"R{number}{place + 1}", block.conv2))


def blocks_of(detector: nn.Module) -> dict[str, ScaledBottleneck]:
    """The blocks with another convolution by name, in the order of the net."""
    return {
        f"R{number}{place + 1}": block
        for number, stage in sorted(stages_of(detector), key=lambda pair: pair[0])
        for place, block in enumerate(stage)
        if isinstance(block, ScaledBottleneck)
    }


# ---- conv5 in the head of a C4 detector, phase one: it is told which image a region is of


class ScaledLayer4(nn.Module):
    """The last stage as head, whose blocks predict scales."""

    def __init__(self, head: Layer4) -> None:
        super().__init__()
        self.layer4, self.predictor = head.layer4, head.predictor

    def forward(self, features: Tensor, labels: Tensor | None = None, members: Tensor | None = None) -> HeadOutput:  # noqa: ARG002 - as heads are called
        """(R, C, S, S) -> scores and offsets. `members` (R,): the image of each region; None: each is one by itself.

        Unavailable for a graph of the head alone, where regions share a scale.
        """
        if members is None and torch.jit.is_tracing():
            raise Unavailable("GSL's head shares a scale between the regions of an image, which a graph of region features cannot know; export FD")
        for block in self.layer4:
            features = block(features, members)
        output: HeadOutput = self.predictor(features.mean((2, 3)))
        return output


class ScaledRegions(nn.Module):
    """The second stage of a C4 detector in phase one."""

    def __init__(self, plain: RegionStage) -> None:
        super().__init__()
        assert isinstance(plain.head, Layer4)
        self.config, self.pool = plain.config, plain.pool
        self.head = ScaledLayer4(plain.head)

    def answer(self, maps: Sequence[Tensor], rois: Tensor) -> HeadOutput:
        """What the head says of RoIs (R, 5)."""
        output: HeadOutput = self.head(self.pool(maps, rois), None, rois[:, 0].long())
        return output

    def losses(self, maps: Sequence[Tensor], proposals: Proposals, truth: Truth) -> dict[str, Tensor]:
        """The losses of sampled RoIs."""
        regions = choose(proposals, truth, self.config)
        return region_losses(self.answer(maps, regions.rois), regions, self.config)

    def forward(self, maps: Sequence[Tensor], proposals: Proposals) -> Answers:
        """What the head says of every proposal."""
        rois = flatten(proposals.boxes, proposals.valid)
        output = self.answer(maps, rois)
        return Answers(rois, output.scores.float().softmax(1), output.deltas.float(), tuple(proposals.valid.sum(1).tolist()))

    def finish(self, answers: Answers, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image in pixels of the network's input."""
        return finish(answers, sizes, self.config)

    def parts(self, map_shape: tuple[int, ...], roi_shape: tuple[int, ...]) -> tuple[Part, ...]:  # noqa: ARG002 - as stages are asked
        """The head, once a RoI."""
        return (Part("head", self.head, (roi_shape,), per_roi=True, head=True),)


# ---- section 4.1: what the weights start from


def transfer(detector: nn.Module, path: Path) -> None:
    """Fill a plain detector from a GSL run's weights, its predictors left out; UserError names what does not fit."""
    weights = {name: tensor for name, tensor in _stored(path).items() if ".conv2.predictor." not in name}
    own = detector.state_dict()
    wrong = [name for name in {**own, **weights} if name not in weights or name not in own or weights[name].shape != own[name].shape]
    if wrong:
        place = block_name(wrong[0])
        raise UserError(f"{path}: {place} does not match this row's net; allowed are the weights of its GSL row at the same tier: run that row first")
    detector.load_state_dict(weights)


def _stored(path: Path) -> dict[str, Tensor]:
    with _readable(path):
        return load_file(path)


def _names(path: Path) -> set[str]:
    with _readable(path), safe_open(path, "pt") as file:
        return set(file.keys())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """UserError for a file of weights that is missing or damaged."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); run the row that this one starts from again") from error


def block_name(parameter: str) -> str:
    """As in "R46 (conv2.weight)": where a parameter stands, for an error; other parameters by their own names."""
    parts = parameter.split(".")
    at = next((i for i, part in enumerate(parts[:-2]) if part in {"layer2", "layer3", "layer4"}), None)
    return parameter if at is None else f"R{int(parts[at][-1]) + 1}{int(parts[at + 1]) + 1} ({'.'.join(parts[at + 2 :])})"


def continued(detector: nn.Module, path: Path) -> None:
    """Fill a plain detector from the weights of a trained one of its kind, but for the layers that name classes; UserError if it has another net."""
    weights = _stored(path)
    kept = {name: tensor for name, tensor in detector.state_dict().items() if not name.startswith(NAMING)}
    wrong = [name for name, tensor in kept.items() if name not in weights or weights[name].shape != tensor.shape]
    if wrong:
        raise UserError(f"{path}: {block_name(wrong[0])} does not match this row's net; allowed are the weights of the row that is its body")
    detector.load_state_dict({name: weights[name] for name in kept}, strict=False)
    freeze(detector.get_submodule("backbone"), FROZEN)


def started(detector: nn.Module, path: Path) -> None:
    """Put the first weights into a plain detector: a pretrained backbone's, or all of a trained detector's that its kind of data leaves the same."""
    names = _names(path)
    whole = any(name in names for name in detector.state_dict() if not name.startswith("backbone."))
    continued(detector, path) if whole else load_backbone(detector, path, frozen=FROZEN)


def begun(detector: nn.Module, settings: Pod, inputs: Mapping[str, Path]) -> None:
    """Put the first weights into the detector while it is still plain, so that what replaces its convolutions starts from them."""
    if settings.begin == "transferred" and settings.scales_of in inputs:
        transfer(detector, inputs[settings.scales_of])
        freeze(detector.get_submodule("backbone"), FROZEN)
    elif PRETRAINED in inputs:
        started(detector, inputs[PRETRAINED])


# ---- the rows: (request, **options) -> Trainable


def _c4(request: Request) -> TwoStage:
    """Faster R-CNN on C4; below the paper's scale it samples half as many regions an image, as its head is most of what it costs to train."""
    scale = request.scale
    return faster_rcnn_c4(request if scale.tier == "paper" else replace(request, scale=replace(scale, rois=scale.rois // 2)))


BASES: dict[str, Callable[..., Any]] = {"c4": _c4, "fpn": faster_rcnn_fpn, "retina": retinanet}


def build_baseline(request: Request, *, detector: Base) -> TwoStage | RetinaNet:
    """A detector without the method, from the same first weights as those with it."""
    checked("build_baseline: detector", detector, get_args(Base))
    made: TwoStage | RetinaNet = BASES[detector](request)
    if PRETRAINED in request.inputs:
        started(made, request.inputs[PRETRAINED])
    return made


def build_pod(request: Request, *, jitter: Sequence[int] = (), **options: Any) -> TwoStage | RetinaNet:
    """A GSL or FD detector; options are the fields of `Pod`, and for RetinaNet the px of a scale jitter."""
    settings = Pod(**options)
    detector = BASES[settings.detector](request, **({"jitter": jitter} if jitter else {}))
    begun(detector, settings, request.inputs)
    if settings.phase == "gsl":
        scaled(detector, lambda _, plain: GlobalScaleConv(plain, start=settings.start, sharing=settings.sharing))
        if settings.detector == "c4":
            detector.regions = ScaledRegions(detector.regions)
        return told(detector, settings)
    plans = deploy(detector, scales_for(settings, request.inputs, request.scale.backbones[request.setting.backbone].blocks), settings.inherit)
    return told(detector, settings, *plans.items())


def deploy(detector: nn.Module, scales: Scales, inherit: Inherit = "centre") -> dict[str, Decomposition]:
    """Decompose every block of a plain detector in place; UserError names a block without a scale, or with one that cannot be decomposed."""
    plans: dict[str, Decomposition] = {}

    def make(name: str, plain: nn.Conv2d) -> DecomposedConv:
        if name not in scales:
            raise UserError(f"{name}: no scale is given for it, only for {', '.join(scales)}; run this row's own GSL row")
        plans[name] = decompose(scales[name], plain.out_channels, name=name)
        return DecomposedConv(plain, plans[name], inherit=inherit)

    scaled(detector, make)
    return plans


def told(detector: Any, *more: object) -> Any:
    """The detector, with what it was told in its config, for the record."""
    name = "told" if isinstance(detector, RetinaNet) else "regions"
    detector.config = replace(detector.config, **{name: (*getattr(detector.config, name), *more)})
    return detector
