"""The student as it runs fastest on a CPU: the S-head aligns and answers at the positions that are kept, and at no other.

Which 1000 boxes are kept is the refinement module's word alone (section 4.2), so what the S-head says elsewhere is never read. The form gives what
the detector gives, up to rounding; at 800 x 1333 it aligns 1000 of 22,400 positions. Its convolutions are those of `layers.fused`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Batch, Detections, UserError
from implementations.layers.deformable import DeformableConv, sampled_at
from implementations.layers.fused import FusedConv, fused
from implementations.layers.regions import Answers, flatten
from implementations.layers.two_stage import Raw
from implementations.mimicdet.heads import FreeAlignment, GuidedAlignment, PlainAlignment, SHead
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


class KeptRows(nn.Module):
    """An alignment layer at some positions of a map: its taps are rows of the map, so only those of these positions are read."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, (PlainAlignment, FreeAlignment, GuidedAlignment))
        self.layer = layer
        conv = layer.conv
        self.kernel = conv.kernel if isinstance(conv, DeformableConv) else int(conv.kernel_size[0])
        self.weight, self.bias = _by_taps(conv.weight), conv.bias
        free = layer.offsets if isinstance(layer, FreeAlignment) else None
        self.free = None if free is None else nn.Linear(free.in_channels * self.kernel**2, free.out_channels)
        if free is not None and self.free is not None:
            self.free.weight, self.free.bias = _by_taps(free.weight), free.bias

    def forward(self, x: Tensor, deltas: Tensor, image: Tensor, place: Tensor) -> Tensor:
        """A map (B, C, H, W); of each position (M,) its deltas (M, 4), its image, its place in H * W -> aligned features (M, out)."""
        x, offsets = x.float(), x.new_zeros(len(place), self.kernel**2, 2, dtype=torch.float32)
        if isinstance(self.layer, GuidedAlignment):
            offsets = self.layer.guide(deltas[None])[0].float()
        elif self.free is not None:
            offsets = self.free(sampled_at(x, offsets, image, place)).float().unflatten(1, (-1, 2))
        return F.linear(sampled_at(x, offsets, image, place), self.weight, self.bias)


def _by_taps(weight: Tensor) -> nn.Parameter:
    """A kernel (out, C, K, K) as a matrix (out, K * K * C) for samples tap by tap."""
    return nn.Parameter(weight.detach().permute(0, 2, 3, 1).flatten(1).contiguous(), requires_grad=False)


class KeptHead(nn.Module):
    """The S-head's aligned features of the boxes that are kept."""

    def __init__(self, head: SHead) -> None:
        super().__init__()
        self.channels = head.project[0].in_features
        self.aligned = KeptRows(head.aligned)
        self.aligned3 = None if head.aligned3 is None else KeptRows(head.aligned3)

    def forward(self, maps: Sequence[Tensor], deltas: Tensor, position: Tensor) -> Tensor:
        """P3 to P7, deltas (B, N, 4) of all positions, the kept ones (B, P) -> (B, P, C), as the rows that SHead gives there."""
        batch, kept = position.shape
        image = torch.arange(batch, device=position.device).repeat_interleave(kept)
        place, told = position.flatten(), deltas[image, position.flatten()]
        rows, first = told.new_empty(batch * kept, self.channels), 0
        for level, x in enumerate(maps):
            size = x.shape[2] * x.shape[3]
            where = ((place >= first) & (place < first + size)).nonzero()[:, 0]
            layer = self.aligned if level or self.aligned3 is None else self.aligned3
            rows[where] = layer(x, told[where], image[where], place[where] - first).to(rows.dtype)
            first += size
        return F.relu(rows).view(batch, kept, -1)


class KeptStudent(nn.Module):
    """A MimicDet detector whose S-head answers; it cannot learn any more."""

    def __init__(self, detector: MimicDet, dtype: torch.dtype) -> None:
        super().__init__()
        head = detector.regions.student
        assert head is not None
        self.config, self.detector, self.head = detector.config, detector, KeptHead(head)
        self.neck = FusedPyramid(detector.neck).to(dtype)
        detector.neck = nn.Identity()  # type: ignore[assignment]  # its weights are taken above
        head.aligned = head.aligned3 = None  # type: ignore[assignment]  # and these
        detector.regions.teacher = detector.regions.fixed = None  # nobody asks them

    def prepare(self, images: Sequence[Tensor]) -> Batch:
        """As MimicDet."""
        return self.detector.prepare(images)

    def network(self, batch: Batch) -> Raw:
        """All that learns: the refinement module picks the boxes first."""
        maps = self.neck(*self.detector.backbone(batch.pixels)[-3:])
        refined = self.detector.refinement(maps[-LEVELS:], sizes_of(batch))
        best = self.detector.refinement.best(refined)
        found = self.detector.regions.student.answer(self.head(maps, refined.deltas, best.position))  # type: ignore[union-attr]  # there is one
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
