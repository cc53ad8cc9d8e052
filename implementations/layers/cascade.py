"""The second stage of Cascade R-CNN: three heads, each fed with the boxes of the one before (Cai and Vasconcelos, 2018, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from implementations.layers.boxes import clip, decode
from implementations.layers.parts import Part
from implementations.layers.regions import Answers, Pool, RegionConfig, choose, finish, flatten, region_losses
from implementations.layers.rpn import Proposals

if TYPE_CHECKING:
    from bench.types import Detections
    from implementations.layers.heads import HeadOutput
    from implementations.layers.regions import Regions
    from implementations.layers.targets import Truth

LOSS_WEIGHTS = (1.0, 0.5, 0.25)  # mmdetection's, which the papers build on
PURPOSES = 2  # random draws of one stage


class CascadeStage(nn.Module):
    """Heads in a row at rising overlap thresholds; boxes are class-agnostic."""

    def __init__(self, configs: Sequence[RegionConfig], pool: Pool, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.configs = tuple(configs)
        self.pool = pool
        self.heads = nn.ModuleList(heads)

    def losses(self, maps: Sequence[Tensor], proposals: Proposals, truth: Truth) -> dict[str, Tensor]:
        """The losses of each stage on the boxes that the stage before refined."""
        losses: dict[str, Tensor] = {}
        sizes = proposals.sizes
        for i, (config, head, weight) in enumerate(zip(self.configs, self.heads, LOSS_WEIGHTS, strict=True)):
            with torch.no_grad():
                regions = choose(proposals, truth, config, purpose=1 + PURPOSES * i)
            output = head(self.pool(maps, regions.rois), regions.labels)
            losses |= {f"{name}_{i + 1}": weight * loss for name, loss in region_losses(output, regions, config).items()}
            proposals = refine(regions, output, sizes, config)
        return losses

    def forward(self, maps: Sequence[Tensor], proposals: Proposals) -> Answers:
        """The last stage's boxes with the mean of the three stages' class probabilities."""
        rois = flatten(proposals.boxes, proposals.valid)
        output: HeadOutput = self.heads[0](self.pool(maps, rois))
        scores = output.scores.float().softmax(1)
        for before, head in zip(self.configs[:-1], self.heads[1:], strict=True):
            rois = moved(rois, output.deltas, proposals.sizes, before)
            output = head(self.pool(maps, rois))
            scores = scores + output.scores.float().softmax(1)
        return Answers(rois, scores / len(self.heads), output.deltas.float(), tuple(proposals.valid.sum(1).tolist()))

    def parts(self, map_shape: tuple[int, ...], roi_shape: tuple[int, ...]) -> tuple[Part, ...]:  # noqa: ARG002 - the interface of stages
        """Each head, once a RoI."""
        return tuple(Part(f"head {i + 1}", head, (roi_shape,), per_roi=True, head=True) for i, head in enumerate(self.heads))

    def finish(self, answers: Answers, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image in pixels of the network's input."""
        return finish(answers, sizes, self.configs[-1])


def moved(rois: Tensor, deltas: Tensor, sizes: Tensor, config: RegionConfig) -> Tensor:
    """RoIs (R, 5) moved by their offsets (R, 4) and cut at their image."""
    boxes = clip(decode(deltas.detach().float(), rois[:, 1:], config.weights), sizes[rois[:, 0].long()])
    return torch.cat((rois[:, :1], boxes), 1)


def refine(regions: Regions, output: HeadOutput, sizes: Tensor, config: RegionConfig) -> Proposals:
    """The next stage's proposals: the sampled RoIs moved; objects that were added for training are left out."""
    rois = moved(regions.rois, output.deltas, sizes, config)
    boxes = rois.new_zeros(*regions.valid.shape, 4)
    boxes[regions.valid] = rois[:, 1:]
    return Proposals(boxes, regions.valid & regions.proposed, sizes)
