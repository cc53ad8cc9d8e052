"""The student as it runs fastest on a CPU: backbone and pyramid by the convolutions of `layers.fused`, the same answers up to rounding.

As everywhere, the S-head aligns and answers at the kept positions alone: which 1000 boxes are kept is the refinement module's word (section 4.2), so
what the S-head would say elsewhere is never read. At 800 x 1333 they are 1000 of 22,400 positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Batch, Detections, UserError
from implementations.layers.fused import FusedConv, fused
from implementations.layers.regions import Answers, flatten
from implementations.layers.two_stage import Raw
from implementations.mimicdet.model import LEVELS, MimicDet, sizes_of
from implementations.mimicdet.pyramid import StaggeredPyramid


class FusedPyramid(nn.Module):
    """P3 to P7; each lateral convolution adds the coarser level itself."""

    def __init__(self, neck: StaggeredPyramid) -> None:
        super().__init__()
        levels = list(neck.levels)[-3:]
        self.lateral = nn.ModuleList(FusedConv(neck.get_submodule(f"lateral{level}")) for level in levels)  # type: ignore[arg-type]
        self.output = nn.ModuleList(FusedConv(neck.get_submodule(f"output{level}")) for level in levels)  # type: ignore[arg-type]
        self.output6, self.output7 = FusedConv(neck.output6), FusedConv(neck.output7)

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """C3 to C5 -> P3 to P7."""
        sums = [self.lateral[-1](maps[-1])]
        for lateral, x in zip(list(self.lateral)[-2::-1], maps[-2::-1], strict=True):
            sums.append(lateral(x, F.interpolate(sums[-1], size=x.shape[-2:], mode="nearest")))
        p6 = self.output6(maps[-1])
        return [*(output(x) for output, x in zip(self.output, sums[::-1], strict=True)), p6, self.output7(F.relu(p6))]


class KeptStudent(nn.Module):
    """A MimicDet detector whose S-head answers; it cannot learn any more."""

    def __init__(self, detector: MimicDet, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.detector = detector.config, detector
        self.neck = FusedPyramid(detector.neck).to(dtype)
        detector.neck = nn.Identity()  # type: ignore[assignment]  # its weights are taken above
        detector.regions.teacher = detector.regions.fixed = None  # nobody asks them

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """As MimicDet."""
        return self.detector.prepare(images)

    def network(self, batch: Batch) -> Raw:
        """All that learns: the refinement module picks the boxes first."""
        maps = self.neck(*self.detector.backbone(batch.pixels)[-3:])
        refined = self.detector.refinement(maps[-LEVELS:], sizes_of(batch))
        best = self.detector.refinement.best(refined)
        found = self.detector.student_answer([x.float() for x in maps], refined, best)
        assert found is not None, "kept() takes no detector without a student"
        rois, scores = flatten(best.boxes, best.valid), found.scores[best.valid].softmax(1)
        answers = Answers(rois, scores, found.deltas[best.valid], tuple(best.valid.sum(1).tolist()))
        return Raw(answers, batch.sizes, batch.originals)

    def finish(self, raw: Raw) -> list[Detections]:
        """As MimicDet."""
        return self.detector.finish(raw)


def kept(detector: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The form of a detector on the CPU, its convolutions in float32 or bfloat16; run the rest of a bfloat16 one under autocast.

    UserError for a detector that is no MimicDet or answers by its T-head, and where `fused` has one.
    """
    if not isinstance(detector, MimicDet) or detector.config.settings.tested != "student":
        raise UserError(f"kept: {type(detector).__name__} has no S-head that answers; allowed: rows of mimicdet whose student is tested, or @fused")
    return KeptStudent(fused(detector, dtype), dtype).eval()  # type: ignore[arg-type]  # a copy of a MimicDet
