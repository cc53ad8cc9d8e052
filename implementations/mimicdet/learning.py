"""What the heads learn from (sections 3.3, 3.4, 4.1): labels by overlap, sampling for the T-head, hard negative mining for the S-head, mimicking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from implementations.layers.boxes import encode
from implementations.layers.matching import Matches, Thresholds, match, matched
from implementations.layers.regions import RegionConfig, flatten
from implementations.layers.sampling import Sample, lots, sample
from implementations.layers.targets import Truth
from implementations.mimicdet.heads import Answer, Mimicked, detached, mimic_loss
from implementations.mimicdet.refinement import Adjusted

TEACHER, STUDENT = 1, 2  # purposes of random draws
Teach = Callable[[Tensor, Tensor], Answer]  # (RoIs (R, 5), the position that each was (R,)) -> what the T-head says


@dataclass(frozen=True)
class Mining:
    """What the S-head learns from, of an image's proposals."""

    hard: int = 128  # with the largest class loss
    positives: int = 64  # at most, drawn by lot, for the boxes


@dataclass(frozen=True)
class Labelled:
    """The proposal set with its labels, by the IoU criterion at 0.6; the objects themselves are not added, as they come from no position."""

    adjusted: Adjusted
    label: Tensor  # (B, P) int8: 1 positive, 0 negative, -1 neither
    classes: Tensor  # (B, P) int64, 0 background
    objects: Tensor  # (B, P, 4) that each stands for; meaningful where positive


@torch.no_grad()
def labelled(adjusted: Adjusted, truth: Truth, config: RegionConfig) -> Labelled:
    """Label the proposals."""
    matches: Matches = match(adjusted.boxes, truth, Thresholds(config.threshold, config.threshold))
    label = matches.label.masked_fill(~adjusted.valid, -1)
    classes = matched(truth.labels, matches.index) * (label == 1)
    return Labelled(adjusted, label, classes, matched(truth.boxes, matches.index))


def box_loss(deltas: Tensor, boxes: Tensor, objects: Tensor, config: RegionConfig) -> Tensor:
    """L1 between offsets (R, 4) of boxes and those of their objects, summed."""
    return F.l1_loss(deltas, encode(objects, boxes, config.weights), reduction="sum")


# ---- S-head


def hardest(loss: Tensor, usable: Tensor, count: int) -> Tensor:
    """Which boxes have the `count` largest losses of their image: (B, P) bool."""
    top = loss.masked_fill(~usable, -1).topk(min(count, loss.shape[1]), 1)
    return torch.zeros_like(usable).scatter(1, top.indices, top.values >= 0)


def drawn_positives(proposals: Labelled, truth: Truth, count: int) -> Tensor:
    """At most `count` positives of each image, by lot: (B, P) bool."""
    positive = proposals.label == 1
    lot = lots(truth.seeds, positive.shape[1], purpose=STUDENT, device=positive.device).masked_fill(~positive, -1)
    top = lot.topk(min(count, lot.shape[1]), 1)
    return torch.zeros_like(positive).scatter(1, top.indices, top.values >= 0)


def student_losses(answer: Answer, proposals: Labelled, truth: Truth, config: RegionConfig, mining: Mining) -> dict[str, Tensor]:
    """Class loss of the hardest boxes and box loss of drawn positives, from what the S-head says of all proposals; divided by a constant."""
    each = F.cross_entropy(answer.scores.flatten(0, 1), proposals.classes.flatten(), reduction="none").view_as(proposals.label)
    chosen = hardest(each.detach(), proposals.label >= 0, mining.hard)
    where = drawn_positives(proposals, truth, mining.positives)
    box = box_loss(answer.deltas[where], proposals.adjusted.boxes[where], proposals.objects[where], config)
    whole = mining.hard * len(proposals.label)
    return {"student_class": each[chosen].sum() / whole, "student_box": box / whole}


# ---- T-head


@dataclass(frozen=True)
class Taught:
    """The boxes sampled for the T-head, B_t, with what it says of them; all of them are mimicked (B_m = B_t)."""

    chosen: Sample
    answer: Answer  # of the R valid ones, flat

    def student(self, answer: Answer) -> Answer:
        """What the S-head says of the same boxes, from its answer for all proposals: traced back to their first positions."""
        found = answer.at(self.chosen.index)
        where = self.chosen.valid
        return Answer(found.scores[where], found.deltas[where], tuple(one[where] for one in found.features))


def taught(teach: Teach, proposals: Labelled, truth: Truth, config: RegionConfig) -> Taught:
    """Sample 128 boxes of each image, a quarter of them positive at most, and ask the T-head."""
    with torch.no_grad():
        lot = lots(truth.seeds, proposals.label.shape[1], purpose=TEACHER, device=proposals.label.device)
        chosen = sample(proposals.label, lot, config.quota)
        rois = flatten(matched(proposals.adjusted.boxes, chosen.index), chosen.valid)
        position = proposals.adjusted.position.gather(1, chosen.index)[chosen.valid]
    return Taught(chosen, teach(rois, position))


def teacher_losses(found: Taught, proposals: Labelled, config: RegionConfig) -> dict[str, Tensor]:
    """Class and box loss of the sampled boxes; divided by a constant."""
    where = found.chosen.valid
    classes, objects, boxes = (
        matched(values, found.chosen.index)[where] for values in (proposals.classes, proposals.objects, proposals.adjusted.boxes)
    )
    positive = classes > 0
    box = box_loss(found.answer.deltas[positive], boxes[positive], objects[positive], config)
    whole = config.quota.count * len(where)
    return {"teacher_class": F.cross_entropy(found.answer.scores, classes, reduction="sum") / whole, "teacher_box": box / whole}


def mimicking(found: Taught, student: Answer, what: Mimicked, *, both_learn: bool) -> Tensor:
    """L_mimic. The T-head is a target: its gradient is cut, or it could make itself easy to mimic; with `both_learn` it is not."""
    return mimic_loss(found.answer if both_learn else detached(found.answer), found.student(student), what)
