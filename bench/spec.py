"""A paper as data: tables, rows, columns, claims, scales and recipes. Standard library only; builds nothing, measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

Tier = Literal["smoke", "proxy", "real", "paper"]
TIERS: tuple[Tier, ...] = ("smoke", "proxy", "real", "paper")
ClaimKind = Literal["superiority", "equality", "magnitude", "cost", "arithmetic"]


@dataclass(frozen=True)
class Backbone:
    """A ResNet of bottleneck blocks: blocks a stage, and the width of the first stage (64 in the paper's nets)."""

    blocks: tuple[int, int, int, int]
    width: int = 64


@dataclass(frozen=True)
class Xception:
    """An Xception-like net (Light-Head R-CNN, Table 7): channels of Conv1 and of Stage2 to 4, blocks of these stages, and how a block is read."""

    channels: tuple[int, int, int, int] = (24, 144, 288, 576)
    blocks: tuple[int, int, int] = (4, 8, 4)
    reading: str = "A"  # a key of READINGS in implementations/layers/xception.py: the paper does not draw its block


@dataclass(frozen=True)
class Schedule:
    """How long and how a run learns; a row's own factor (1x, 2x) multiplies the image counts.

    The rate warms up linearly, is constant, and then decays: linearly to zero over `decay_images` ("linear", which can be continued from the
    end of the constant part), or by x0.1 at each of `drops`, fractions of the whole ("steps", as the papers do).
    """

    images: int  # seen at the constant rate, warm-up included
    decay_images: int
    epoch_images: int  # images between two checkpoints
    warmup_images: int
    batch: int
    rate: float
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.05
    decay: Literal["linear", "steps"] = "linear"
    drops: tuple[float, ...] = ()
    clip_norm: float = 10.0


@dataclass(frozen=True)
class Scale:
    """What a tier multiplies: it changes sizes, never which parts a model has."""

    tier: Tier
    width: float  # of channels
    size: float  # of pixels: 600 becomes 600 * size
    backbones: Mapping[str, Backbone | Xception]  # each named backbone's own proxy: R50 and R101 stay different
    schedule: Schedule
    rois: int  # proposals sampled an image in training (512 in FPN)
    proposals: tuple[int, int]  # kept after suppression in training and in testing
    seeds: int = 5  # of a headline row
    threads: int = 1  # CPU threads a run: part of what makes it repeatable
    anchors: float = 1.0  # further factor on the anchors of a pyramid, whose strides do not shrink with the pixels
    single_map: float = 1.0  # further factor on the pixels of detectors with one map of stride 16, whose cells small images would make too coarse

    def channels(self, paper: int, *, multiple: int = 8, least: int = 8) -> int:
        """A channel count of the paper at this width, rounded to a multiple and not below `least` (never above the paper's own)."""
        scaled = round(paper * self.width / multiple) * multiple
        return paper if self.width == 1 else min(paper, max(least, scaled))

    def pixels(self, paper: float) -> float:
        """A length of the paper in pixels at this size."""
        return paper * self.size


@dataclass(frozen=True)
class Setting:
    """What a table prints beside a row: the data, its classes, the image size, the backbone, the length of training."""

    data: str  # "voc07+12", "coco2014"
    classes: int  # background not counted
    min_px: int
    max_px: int
    backbone: str  # a key of Scale.backbones
    schedule: float = 1.0  # 1x


@dataclass(frozen=True)
class Train:
    """A step: learn from the data by the scale's schedule."""

    name: str = "train"


@dataclass(frozen=True)
class Transform:
    """A step: change the weights of the run that the row needs, without data (SVD, pruning); `apply` is named in the row's arguments."""

    name: str = "transform"


@dataclass(frozen=True)
class Derive:
    """A step: numbers that the trained detector gives on images, kept as derived.json beside its weights and among the record's values.

    `measure(detector, batches)` is given an iterable of lists of images and gives numbers by name; it is a plain function of the paper's paper.py.
    """

    name: str
    measure: Callable[..., Mapping[str, float]]
    images: int = 500  # drawn from each split at random; all of a split that has fewer
    splits: tuple[str, ...] = ("train", "val")


@dataclass(frozen=True)
class Effort:
    """How a row learns at the tiers that learn from the embedded data; printed nowhere, so chosen until a plateau is reached."""

    length: float = 1.0  # times the tier's schedule
    threads: int = 1  # CPU threads, where other rows wait for this one; part of what makes a run repeatable


PLAIN = Effort()  # the tier's own schedule, one thread


Step = Train | Transform | Derive
Start = Literal["backbone", "builder", "needs"]
Recipe = tuple[Step, ...]


@dataclass(frozen=True)
class Request:
    """All that a row's builder may know."""

    setting: Setting
    scale: Scale
    classes: int  # of the data at hand, background not counted
    inputs: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))  # row key -> safetensors of the run it needs


PRETRAINED = (
    "pretrained"  # the key in Request.inputs of the first weights (a pretrained backbone's, or a body's), for a row whose builder puts them in
)

Builder = Callable[..., Any]  # (request: Request, **arguments) -> Trainable


@dataclass(frozen=True)
class Row:
    """A model with its recipe. `build` is a plain function of the paper's paper.py whose body imports the model."""

    key: str  # unique in its paper: "fpn-k16-l5"
    title: str  # in words, for a reader
    setting: Setting
    build: Builder | None  # None: a row that the paper quotes from elsewhere
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    recipe: Recipe = (Train(),)  # empty: it is counted and never run (a classifier whose cost is printed)
    needs: tuple[str, ...] = ()  # keys of rows whose weights it starts from; PAPER.ROW for a row of another paper (Paper.others)
    # who puts the first weights in: the harness those of the pretrained backbone or the body; the builder, out of request.inputs[PRETRAINED]; or the
    # builder, out of the rows that it needs, so that neither is asked for
    start: Start = "backbone"
    # key of the row whose trained detector this one starts from, its second stage left out (start "backbone") or what the builder leaves out
    body: str = ""
    body_at: tuple[Tier, ...] = ("smoke", "proxy", "real")  # the tiers where it does; at the others it starts from the pretrained backbone
    reference: str = ""  # key of the row that its accuracy is judged against; empty: it is a reference itself
    headline: bool = False  # five seeds, may not be undertrained
    quoted: str = ""  # why it is shown and never measured
    channel_first: bool = False  # count the 1x1 before the pooling (Condensing's printed GMAC)
    notes: str = ""
    effort: Effort = PLAIN
    schedule: Schedule | None = None  # how it learns at the paper's own scale, where that is not the tier's
    # arguments that are others in what is deployed of it, as {"teacher": ""}: what its accuracy is of, and so its costs at a tier's own scale
    deployed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    # measure -> why no reading of the paper gives its printed number: the outcome word ("irreproducible", "deviates") and the proof in a sentence
    unmatched: Mapping[str, tuple[str, str]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Column:
    """How one printed column is measured: the meter's value, and how far it may be from what is printed."""

    measure: str  # "" for a column that states a setting; else a key of Record.values: "params_m", "size_mb", "macs_g", "voc_ap50", "ap"
    tolerance: float = 0.0  # relative; 0: the printed digits, by rounding or truncation
    unattempted: str = ""  # why this column is not attempted at all (test-dev, private data)
    # key of a table's row -> key of the row that answers this column in its place: the same weights with another head tested, or deployed
    stands_in: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Table:
    """One printed table: for each printed row the key of ours, for each printed column its meaning."""

    id: str  # "T3", as in published.json
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    endings: tuple[str, ...] = ()  # for each printed row what its columns' measures end with, where several are of one row of ours
    references: Mapping[str, str] = field(
        default_factory=dict
    )  # row -> the row that it is judged against here, where that is not its own reference; "" is one

    def measure(self, row: int, column: int) -> str:
        """What is measured in the cell at these places; empty for a column that states a setting."""
        measure = self.columns[column].measure
        return measure + self.endings[row] if measure and self.endings else measure


@dataclass(frozen=True)
class Verdict:
    """What became of a claim: an outcome word of DESIGN section 6, what was measured, the reason in a sentence."""

    outcome: str
    measured: float | None
    reason: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper: its place in published.json, its kind, and the function of the evidence that decides it.

    `decide(case)` is given a bench.claims.Case: published cells, cost values, paired differences of trained rows, and the rules to judge them by.
    """

    key: str
    index: int  # in published.json's claims of this paper; -1: implied by a table, not a sentence
    kind: ClaimKind
    decide: Callable[[Any], Verdict]
    headline: bool = False


FindingKind = Literal["contradicted", "copied", "shown nowhere", "left out"]


@dataclass(frozen=True)
class Check:
    """Where a paper's printed numbers may disagree with each other, in a findings.py: found anew from the cells each time it is asked.

    `find(printed)` is given a bench.audit.Printed and gives the arithmetic that shows the disagreement, or nothing where there is none.
    """

    key: str  # unique in its paper
    kind: FindingKind
    title: str  # what is found, in words; it holds no printed number, as the cell may change
    source: str  # table, section and line of the paper
    find: Callable[[Any], str]


@dataclass(frozen=True)
class CostRule:
    """What a paper's cost columns are of, and by which conventions it counted them (bench/meters)."""

    macs: str = "mac"
    size: str = "mb"
    scope: Literal["head", "model"] = "head"  # the second-stage head alone, or the whole detector
    rois: int = 1000


@dataclass(frozen=True)
class Variant:
    """Another kind of scenes that some rows are trained and judged on too."""

    data: str  # "scenes-v1-crowded"
    rows: tuple[str, ...]
    seeds: int = 0  # 0: as many as the rows have on the plain ones


@dataclass(frozen=True)
class Series:
    """Rows of one kind along a sweep, and what the paper prints of them."""

    name: str  # "weights, one-shot"
    rows: tuple[tuple[float, str], ...]  # (where, key of the row), the reference left out
    printed: tuple[str, int] = ("", 0)  # id of the table, place of its accuracy's column; empty: not printed
    places: tuple[tuple[float, int], ...] = ()  # (where, place of the printed row), the reference among them


@dataclass(frozen=True)
class Sweep:
    """Accuracy over a quantity that a family of rows differs by, all compared with one row."""

    key: str  # unique in its paper
    title: str
    along: str  # the quantity with its unit
    reference: tuple[float, str]  # where, key of the row that all start from
    series: tuple[Series, ...]
    flat_to: float  # up to here the paper has it without a loss
    least: float = 5.0  # per cent of the reference's accuracy: with less at the far end it has collapsed


@dataclass(frozen=True)
class Paper:
    """One paper: its key is the name of its folder."""

    key: str
    title: str
    rows: tuple[Row, ...]
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...]
    twins: tuple[tuple[str, str], ...] = ()  # rows that differ only in what a lower tier cannot show, and so share their runs there
    costs: CostRule = field(default_factory=CostRule)
    variants: tuple[Variant, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    others: tuple[Paper, ...] = ()  # papers whose rows some rows of this one need
    compared: tuple[tuple[str, str], ...] = ()  # a row and another than its reference, where a sentence speaks of both
    quick: bool = False  # whether `dvc repro quick` trains its headline rows: its twenty minutes hold those of one paper

    def row(self, key: str) -> Row:
        """The row of that key; KeyError if there is none."""
        return {row.key: row for row in self.rows}[key]
