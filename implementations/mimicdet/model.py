"""MimicDet (Lu, Li, Li, Yan): the method, top to bottom, and every variant that its tables set beside it.

Backbone -> staggered pyramid -> refinement module on P3 to P7 -> S-head, dense; in training also a T-head on P2 to P6, which the S-head mimics.

There is no official code, so the text is the truth. What the text leaves open is decided here; README.md lists each choice with its reason:
- Classification is mimicked on the 81 logits (T-head's text, Figure 2); `mimicked="features"` takes the 1024 features of S-head's text and Eq. 1.
- The T-head is a target: L_mimic's gradient is cut there (`both_learn` lets it through). It reaches the S-head, its micro-network, and through
  the pyramid the backbone; it never reaches the refinement module, whose regression guides the offsets as a value.
- Position (i, j) of a map stands for the pixel stride x (i, j), as RoIAlign here has it: at 800 x 1333 exactly 22,300 of the padded 22,400
  positions then lie in the image, and only those are learnt from and answered.
- The S-head's two 1x1 layers and predictions are shared by the levels; (d)'s 3x3 layer on P3 has a micro-network of its own; biases everywhere.
- An object's scale is the root of its area; an anchor in two positive areas stands for the smaller object.
- The T-head reads box and features one level below the level of the box's anchor ("one layer ahead"), whatever the box has become.
- Class-agnostic box offsets (4) in all heads; weights 1 in the refinement module, 10 10 5 5 in the heads, as Faster R-CNN's code.
- Losses are divided by constants: 256 in the refinement module, 128 in the heads; the mimic loss by the number of its boxes, as Eq. 1 says.
- All batch norms are fixed, scale and shift too, as section 4.1 says. No flipping in training, as in no row of this project.
- Separated backbone (Table 5): a two-stage detector of the same design is trained first (row `teacher-*`), then fixed; both trainings count.

Below paper scale strides stay and pixels shrink by `size`: S_l and the anchors become sqrt(size) of the paper's and the positive area 1 / sqrt(size),
so that an object of its level still holds at least one position. The Gaussian's deviation follows the width, so that signals keep their variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.types import Batch, Detections, Target, UserError
from implementations.baselines.numbers import anchor_quota, image_sides
from implementations.layers import images as image_layer
from implementations.layers.backbones import ResNet
from implementations.layers.jitter import jittered
from implementations.layers.parts import Part
from implementations.layers.regions import Answers, RegionConfig, finish, flatten
from implementations.layers.resnext import ResNeXt
from implementations.layers.sampling import Quota
from implementations.layers.targets import collate
from implementations.layers.two_stage import Raw, enlarge
from implementations.mimicdet.heads import SIDE, Alignment, Answer, Mimicked, SHead, TeacherKind, Widths, pool, teacher_head
from implementations.mimicdet.labels import Ranges
from implementations.mimicdet.learning import Mining, Teach, labelled, mimicking, student_losses, taught, teacher_losses
from implementations.mimicdet.pyramid import StaggeredPyramid
from implementations.mimicdet.refinement import Adjusted, Refined, Refinement, RefinementConfig

if TYPE_CHECKING:
    from bench.spec import Backbone, Request

LEVELS = 5  # that each head reads
LEAST_BOXES = 32  # sampled for the T-head: at a small scale fewer would hold hardly a positive
RESNEXT = {"X101-64x4d": "R101"}  # nets of groups: the same blocks as this one


@dataclass(frozen=True)
class Settings:
    """The settings of one detector. The defaults are MimicDet as in the last rows of Tables 1 to 4."""

    student: bool = True  # False: the two-stage detector alone, a teacher with a backbone of its own
    teacher: TeacherKind | Literal[""] = "dual"  # "": none is built, and no P2
    mimic: bool = True
    mimicked: Mimicked = "logits"
    both_learn: bool = False
    staggered: bool = True  # False: the T-head reads P3 to P7, as the S-head does
    with_p2: bool = False  # P2's layers are built though nobody reads them: rows that start from this one find a place for theirs
    alignment: Alignment = "guided*"
    paths: Literal[1, 2] = 2  # of the S-head's features: 1 where they are not split
    taught_by: str = ""  # key of the row of a fixed teacher with a backbone of its own
    tested: Literal["student", "teacher"] = "student"  # the head that answers
    weights: str = ""  # key of the row whose weights are taken as they are, as far as this detector has them
    jitter: tuple[int, int] | None = None  # px of the shorter side in training, from and to; None: the setting's own side

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"MimicDet: {name} is {getattr(self, name)!r}; allowed: {', '.join(map(repr, allowed))}; give one of them")
        if not self.student and not self.teacher:
            raise UserError("MimicDet: neither student nor teacher; allowed: at least one head; give teacher='dual'")
        if not getattr(self, self.tested):
            raise UserError(f"MimicDet: tested={self.tested!r}, but that head is not built; test one that is")
        if self.with_p2 and not self.staggered:
            raise UserError("MimicDet: with_p2=True and staggered=False; allowed: P2 where the pyramid is staggered; give staggered=True")
        own = 2 if self.taught_by or self.teacher == "dual" else 1 if self.teacher else self.paths
        if self.student and self.mimic and own != self.paths:
            raise UserError(f"MimicDet: paths={self.paths}, but its teacher has {own}; allowed: as many; give paths={own}")
        if self.teacher and self.taught_by:
            raise UserError(f"MimicDet: taught_by={self.taught_by!r} and teacher={self.teacher!r}; allowed: one teacher; give teacher=''")

    @property
    def fine(self) -> bool:
        """Whether P2 is built."""
        return self.with_p2 or (bool(self.teacher) and self.staggered)


ALLOWED: dict[str, tuple[object, ...]] = {
    "teacher": ("dual", "light", "heavy", ""),
    "mimicked": ("logits", "features"),
    "alignment": ("conv", "deform", "guided", "guided*"),
    "paths": (1, 2),
    "tested": ("student", "teacher"),
}


# ---- the numbers at a request's scale


@dataclass(frozen=True)
class MimicDetConfig:
    """Every number that makes a detector, for the record."""

    name: str
    shorter: int  # px that the shorter side of an image becomes
    longer: int  # px that the longer side never passes
    settings: Settings
    refinement: RefinementConfig
    regions: RegionConfig  # of both heads: overlap, sample, suppression
    mining: Mining
    widths: Widths
    jitter: tuple[int, int] | None = None  # px


def ranges_at(size: float) -> Ranges:
    """Strides do not shrink with the pixels: S_l goes halfway, in octaves, and the positive area grows as much, so that it still holds a position."""
    halfway, paper = math.sqrt(size), Ranges()
    return replace(paper, basic=tuple(side * halfway for side in paper.basic), central=min(1.0, paper.central / halfway))


def config_of(settings: Settings, request: Request) -> MimicDetConfig:
    """The paper's numbers, or a tier's."""
    scale = request.scale
    boxes = max(LEAST_BOXES, scale.rois // 4)
    hidden = (scale.channels(64), scale.channels(128))
    widths = Widths(scale.channels(256), scale.channels(1024), hidden, request.classes, 0.01 / math.sqrt(scale.width))
    refinement = RefinementConfig(widths.channels, ranges_at(scale.size), scale.proposals, anchor_quota(request).count, widths.deviation)
    regions = RegionConfig(request.classes, 1, Quota(boxes, 0.25), threshold=0.6, score=0.005, nms=0.6)
    jitter = None if settings.jitter is None else (round(scale.pixels(settings.jitter[0])), round(scale.pixels(settings.jitter[1])))
    return MimicDetConfig("mimicdet", *image_sides(request), settings, refinement, regions, Mining(boxes, boxes // 2), widths, jitter)


# ---- the detector


class Heads(nn.Module):
    """What stands behind the refinement module: the S-head, the T-head, or both; with a separated backbone also a fixed teacher.

    What a row starts from below the paper's tier holds none of it (`load_body`): a fixed teacher brings its own weights.
    """

    def __init__(self, settings: Settings, widths: Widths, fixed: MimicDet | None) -> None:
        super().__init__()
        self.student = SHead(widths, settings.alignment, paths=settings.paths) if settings.student else None
        self.teacher = teacher_head(widths, settings.teacher) if settings.teacher else None
        self.fixed = fixed.requires_grad_(requires_grad=False) if fixed is not None else None


class MimicDet(nn.Module):
    """Backbone, staggered pyramid, refinement module, heads."""

    def __init__(self, config: MimicDetConfig, body: tuple[nn.Module, StaggeredPyramid], teacher: MimicDet | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.neck = body
        self.refinement = Refinement(config.widths.channels, config.refinement)
        self.regions = Heads(config.settings, config.widths, teacher)

    @property
    def teacher(self) -> MimicDet | None:
        """The fixed teacher with a backbone of its own, where there is one."""
        return self.regions.fixed

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """Resize, normalise, pad to a multiple of 32."""
        return image_layer.prepare(images, self.config.shorter, self.config.longer)

    def maps(self, pixels: Tensor, *, fine: bool) -> list[Tensor]:
        """P3 to P7; with `fine` what the T-head reads too, so P2 where the pyramid is staggered."""
        maps = self.backbone(pixels)
        levels: list[Tensor] = self.neck(*(maps if fine else maps[-3:]))
        return levels

    def teach(self, maps: Sequence[Tensor], refined: Refined) -> Teach:
        """The T-head on these maps: P2 to P6 of six, or P3 to P7 of five."""
        strides = self.config.refinement.ranges.strides
        if len(maps) > LEVELS:
            strides = tuple(stride // 2 for stride in strides)
        read, level = list(maps[:LEVELS]), refined.anchors.level

        def ask(rois: Tensor, position: Tensor) -> Answer:
            answer: Answer = self.regions.teacher(pool(read, strides, rois, level[position]))  # type: ignore[misc]  # there is one, or nobody asks
            return answer

        return ask

    # ---- section 4.2: inference

    def network(self, batch: Batch) -> Raw:
        """All that learns: the best adjusted anchors, and what the S-head (or, where that is tested, the T-head) says of them."""
        by_teacher = self.config.settings.tested == "teacher"
        maps = self.maps(batch.pixels, fine=by_teacher)
        refined = self.refinement(maps[-LEVELS:], sizes_of(batch))
        best = self.refinement.best(refined)
        rois = flatten(best.boxes, best.valid)
        if by_teacher:
            answer = self.teach(maps, refined)(rois, best.position[best.valid])
            scores, deltas = answer.scores, answer.deltas
        else:
            found = self.student_answer(maps, refined, best)
            assert found is not None, "Settings lets no detector answer with a head that is not built"
            scores, deltas = found.scores[best.valid], found.deltas[best.valid]
        return Raw(Answers(rois, scores.softmax(1), deltas, tuple(best.valid.sum(1).tolist())), batch.sizes, batch.originals)

    def finish(self, raw: Raw) -> list[Detections]:
        """The second regression, NMS 0.6, 100 boxes, and back to the pixels of each image as given."""
        found = finish(raw.answers, raw.sizes, self.config.regions)
        return [enlarge(one, size, original) for one, size, original in zip(found, raw.sizes, raw.originals, strict=True)]

    # ---- section 3.4, 4.1: training

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named losses of a batch: L = L_R + L_S + L_T + L_mimic."""
        config = self.config
        batch = self.prepare(images)
        if config.jitter:
            least, most = config.jitter
            batch = jittered(images, [target.seed for target in targets], range(least, most + 1), config.longer)
        truth = collate(targets, batch)
        maps = self.maps(batch.pixels, fine=self.regions.teacher is not None)
        refined = self.refinement(maps[-LEVELS:], sizes_of(batch))
        losses = self.refinement.losses(refined, truth)
        proposals = labelled(self.refinement.proposals(refined), truth, config.regions)
        student = self.student_answer(maps[-LEVELS:], refined, proposals.adjusted)
        if student is not None:
            losses |= student_losses(student, proposals, truth, config.regions, config.mining)
        teach = self.teaching(maps, refined, batch)
        if teach is None:
            return losses
        found = taught(teach, proposals, truth, config.regions)
        if self.teacher is None:
            losses |= teacher_losses(found, proposals, config.regions)
        if student is not None and config.settings.mimic:
            losses["mimic"] = mimicking(found, student, config.settings.mimicked, both_learn=config.settings.both_learn)
        return losses

    def student_answer(self, maps: Sequence[Tensor], refined: Refined, adjusted: Adjusted) -> Answer | None:
        """What dense detection says of these boxes: the S-head aligns and answers at their positions only, as nobody asks for the others."""
        head = self.regions.student
        return None if head is None else head.answer(head.rows_at(maps, refined.deltas.detach(), adjusted.position))

    def teaching(self, maps: Sequence[Tensor], refined: Refined, batch: Batch) -> Teach | None:
        """The T-head of this detector, or of the fixed one; None where there is none."""
        if self.teacher is None:
            return self.teach(maps, refined) if self.regions.teacher is not None else None
        with torch.no_grad():
            return self.teacher.teach(self.teacher.maps(batch.pixels, fine=True), refined)

    # ---- cost

    def parts(self, height: int, width: int) -> tuple[Part, ...]:
        """The detector taken apart for its cost on an image of exactly that size. As a head, refinement module and S-head are deployed."""
        strides = (*(4, 8, 16, 32)[4 - len(self.neck.levels) :], 64, 128)
        grids = [tuple(-(-side // stride) for side in (height, width)) for stride in strides]
        channels = self.config.widths.channels
        maps = tuple((1, channels, *grid) for grid in grids[-LEVELS:])
        positions = sum(grid[0] * grid[1] for grid in grids[-LEVELS:])
        bodies = tuple((1, count, *grid) for count, grid in zip(self.backbone.channels, grids, strict=False))
        heads = self.regions
        own = (
            Part("backbone", self.backbone, ((1, 3, height, width),)),
            Part("neck", self.neck, bodies),
            Part("refinement", self.refinement.head, maps, head=True),
            *(() if heads.student is None else (Part("student", heads.student, (*maps, (1, positions, 4)), head=True),)),
            *(() if heads.teacher is None else (Part("teacher", heads.teacher, ((1, channels, SIDE, SIDE),), per_roi=True),)),
        )
        others = () if self.teacher is None else self.teacher.parts(height, width)
        return (*own, *(replace(part, name=f"teacher's {part.name}", head=False) for part in others))


def sizes_of(batch: Batch) -> Tensor:
    """Height and width of each image in its batch, (B, 2)."""
    return torch.tensor(batch.sizes, dtype=torch.float32, device=batch.pixels.device)


# ---- building


def build_mimicdet(request: Request, **options: Any) -> MimicDet:
    """Every row: options are the fields of `Settings`."""
    settings = Settings(**options)
    teacher = None
    if settings.taught_by:
        teacher = build_mimicdet(request, student=False, tested="teacher", staggered=settings.staggered, weights=settings.taught_by)
    detector = MimicDet(config_of(settings, request), body_of(settings, request), teacher)
    if settings.weights in request.inputs:
        take_weights(detector, load_file(request.inputs[settings.weights]))
    return detector


def body_of(settings: Settings, request: Request) -> tuple[nn.Module, StaggeredPyramid]:
    """Backbone and pyramid, with P2 only where a T-head reads it (or will, in rows that start from this one); batch norms fixed."""
    name, outputs = request.setting.backbone, 4 if settings.fine else 3
    spec: Backbone = request.scale.backbones[RESNEXT.get(name, name)]  # type: ignore[assignment]  # a row of this paper names no other kind
    net = ResNeXt(spec, outputs=outputs) if name in RESNEXT else ResNet(spec, outputs=outputs)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(requires_grad=False)
    neck = StaggeredPyramid(net.channels, request.scale.channels(256))
    if settings.fine and not settings.teacher:  # nobody reads P2 here
        for name in ("lateral2", "output2"):
            neck.get_submodule(name).requires_grad_(requires_grad=False)
    return net, neck


def take_weights(detector: MimicDet, weights: Mapping[str, Tensor]) -> None:
    """Fill a detector from one that has its parts and may have more: a deployed student from a trained pair. UserError names what is missing."""
    own = detector.state_dict()
    missing = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if missing:
        raise UserError(f"{missing[0]}: missing from the weights, or of another shape; allowed: those of a row with the same parts; train it first")
    detector.load_state_dict({name: weights[name] for name in own})


def deployed(trained: MimicDet, request: Request) -> MimicDet:
    """The student of a trained pair as it is deployed: P2 and the T-head are not built."""
    settings = replace(trained.config.settings, teacher="", taught_by="", weights="", tested="student")
    student = MimicDet(config_of(settings, request), body_of(settings, request))
    take_weights(student, trained.state_dict())
    return student.train(trained.training)
