"""Light-Head R-CNN as data: the rows of Tables 1 to 8 and the sentences. Repeats no printed result, imports no torch."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from bench.spec import Claim, Column, Effort, Paper, Request, Row, Schedule, Setting, Table, Transform, Variant, Verdict

# ---- settings: Section 4.1; 115k images, 80 classes

B1 = Setting("coco115k", classes=80, min_px=600, max_px=1000, backbone="R101")
B2 = replace(B1, min_px=800, max_px=1200)
S_800 = replace(B2, backbone="X145")
S_700 = replace(S_800, min_px=700, max_px=1100)
IMAGENET = Setting("imagenet", classes=1000, min_px=224, max_px=224, backbone="X145")

# Section 4.1: 0.01 for 1.5M images and a tenth of it for 0.5M, 16 images a step. An epoch is the code's, 80,000 images.
SCHEDULE = Schedule(
    images=1_520_000,
    decay_images=480_000,
    epoch_images=80_000,
    warmup_images=8_000,
    batch=16,
    rate=0.01,
    optimizer="sgd",
    weight_decay=1e-4,
    decay="steps",
    drops=(0.75,),
    clip_norm=35.0,
)

# ---- builders: each imports its model when it is called


def light_head(request: Request, **arguments: Any) -> Any:
    """Light-Head R-CNN and what its tables set beside it; arguments are the fields of model.LightHead."""
    from implementations.light_head.model import build_light_head

    return build_light_head(request, **arguments)


def classifier(request: Request) -> Any:
    """The small net of Table 7 with its FC."""
    from implementations.light_head.model import build_classifier

    return build_classifier(request)


# ---- rows

ALPHA, SIDE = 10, 7  # thin maps: alpha * p * p channels
MULTI_SCALE = (600, 700, 800, 900, 1000)  # Section 4.3
_RFCN = {"maps": "scores", "subnet": "vote"}
_B1 = {**_RFCN, "baseline": "B1"}
_FASTER = {"maps": "narrow", "warping": "roi", "subnet": "two fc"}
_THIN = {"maps": "pointwise", "subnet": "linear", "alpha": ALPHA}
_ALIGN = {"warping": "psroi align"}
_NMS = {**_ALIGN, "nms": 0.5}
_S = {**_ALIGN, "mid": 64, "rpn": 256}


# Each second stage learns as long as every other: as long as those of Condensing needed for a plateau.
_LONG = Effort(length=2.5)


def _row(key: str, title: str, setting: Setting = B2, *, reference: str = "", effort: Effort = _LONG, **arguments: Any) -> Row:
    """A row that learns by the paper's schedule."""
    return Row(key, title, setting, light_head, MappingProxyType(arguments), reference=reference, effort=effort, schedule=SCHEDULE)


def _on(body: str, *rows: Row) -> tuple[Row, ...]:
    """The rows as those that start from a body below the paper's tier."""
    return tuple(replace(row, body=body) for row in rows)


def _headline(row: Row) -> Row:
    return replace(row, headline=True)


def _retested(row: Row, source: str, step: str) -> Row:
    """The row, but with the weights of another: only the test differs."""
    return replace(row, recipe=(Transform(step),), needs=(source,))


# What rows with the same body and proposal network start from below the paper's tier, where a run is far shorter than the paper's: R-FCN (for setting
# S: itself), trained four times as long. Only their second stages are then new.
_BODIES = (
    _row("body-b1", "B1, for the body alone", B1, effort=Effort(length=4.0, threads=2), **_B1),
    _row("body-b2", "B2, for the body alone", B2, effort=Effort(length=4.0, threads=2), **_RFCN),
    _row("body-s", "setting S, for the body alone", S_800, effort=Effort(length=4.0, threads=2), **_S),
)


_BASELINES = (
    *_on(
        "body-b1",
        _row("b1", "B1: R-FCN", B1, **_B1),
        _row("thin-b1", "thin feature maps B1", B1, reference="b1", baseline="B1", **_THIN),
    ),
    *_on(
        "body-b2",
        _headline(_row("b2", "B2: R-FCN, larger image, box loss twice, 256 hardest of 2000", reference="b1", **_RFCN)),
        _row("thin-b2", "thin feature maps B2", reference="b2", **_THIN),
        _row("thin-roi", "thin feature maps B2, plain RoI pooling", reference="thin-b2", warping="roi", **_THIN),
        _headline(_row("large-kernel", "B2 + large kernel", reference="b2", subnet="linear")),
        _row("faster-2fc", "Faster R-CNN, two fully connected layers", reference="b2", **_FASTER),
    ),
    _row("faster-c5", "Faster R-CNN, the last stage as head", reference="b2", maps="", warping="roi", subnet="stage 5"),
)

_LARGE = (
    *_on(
        "body-b2",
        _headline(_row("light-l", "Light-Head R-CNN, setting L", reference="b2")),
        _row("light-l-code", "setting L as released: two branches, boxes for each class", reference="light-l", branches=2, per_class=True),
        _headline(_row("align", "setting L + pool with alignment", reference="light-l", **_ALIGN)),
        _row("ms-train", "setting L + alignment + NMS 0.5 + multi-scale training", reference="nms-05", scales=MULTI_SCALE, **_NMS),
    ),
    _retested(_headline(_row("nms-05", "setting L + alignment + NMS 0.5", reference="align", **_NMS)), "align", "nms"),
    _row(
        "pyramid",
        "setting L + alignment + NMS 0.5 + multi-scale training + feature pyramid",
        reference="ms-train",
        pyramid=True,
        rpn=256,
        scales=MULTI_SCALE,
        **_NMS,
    ),
)

_SMALL = (
    *_on("body-s", _row("light-s", "Light-Head R-CNN, setting S", S_800, reference="b1", **_S)),
    _retested(_row("light-s-700", "setting S, tested at 700 / 1100", S_700, reference="light-s", **_S), "light-s", "size"),
    Row("xception", "the small net of Table 7 as a classifier", IMAGENET, classifier, recipe=(), notes="Counted only: its accuracy is ImageNet's."),
)


def _quoted(key: str, title: str, setting: Setting = B1) -> Row:
    return Row(key, title, setting, None, quoted="the paper quotes this system; it is shown and not measured here")


_OTHERS = (
    _quoted("quoted-faster-2fc", "Faster R-CNN (2fc)"),
    _quoted("quoted-deformable", "Deformable R-FCN"),
    _quoted("quoted-g-rmi", "G-RMI"),
    _quoted("quoted-fpn", "FPN", B2),
    _quoted("quoted-mask-rcnn", "Mask R-CNN", B2),
    _quoted("quoted-retinanet", "RetinaNet", B2),
    _quoted("quoted-retinanet-ms", "RetinaNet, multi-scale training", B2),
    _quoted("quoted-yolo-v2", "YOLO V2, Darknet"),
    _quoted("quoted-ssd-vgg", "SSD 300, VGG"),
    _quoted("quoted-ssd-300", "SSD 300, ResNet-101"),
    _quoted("quoted-ssd-500", "SSD 500, ResNet-101"),
    _quoted("quoted-dssd-300", "DSSD 300"),
    _quoted("quoted-dssd-500", "DSSD 500"),
    _quoted("quoted-denet", "DeNet, ResNet-34"),
)
_QUOTED_T5 = tuple(row.key for row in _OTHERS[:7])
_QUOTED_T8 = tuple(row.key for row in _OTHERS[7:])

# ---- tables: for each printed row the key of ours, for each printed column its meaning

TEST_DEV = "COCO test-dev: its annotations are not public and need the evaluation server"
_LABEL = Column("")
_AP = Column("ap")
_SIZES = (_AP, Column("ap_s"), Column("ap_m"), Column("ap_l"))
_TEST_DEV = tuple(replace(column, unattempted=TEST_DEV) for column in _SIZES)

TABLES = (
    Table("T1", ("b1", "b2"), (_LABEL, *_SIZES)),
    Table("T2", ("b1", "thin-b1", "b2", "thin-b2"), (_LABEL, *_SIZES)),
    Table("T3", ("b2", "large-kernel"), (_LABEL, *_SIZES)),
    Table("T4", ("faster-2fc", "b2", "large-kernel", "light-l"), (_LABEL, _AP)),
    Table("T5", ("b1", *_QUOTED_T5, "nms-05", "ms-train", "pyramid"), (*(_LABEL,) * 4, *_TEST_DEV)),
    Table("T6", ("light-l", "align", "nms-05", "ms-train"), (_LABEL, _AP)),
    Table("T7", ("xception",) * 12, (_LABEL,) * 6),
    Table("T8", (*_QUOTED_T8[:6], "b1", _QUOTED_T8[6], "light-s", "light-s-700"), (*(_LABEL,) * 3, Column("fps"), _TEST_DEV[0])),
)

CROWDED = "scenes-v1-crowded"

# ---- claims: `index` is the sentence's place in published.json; `case` is a bench.claims.Case


def _fast_and_accurate(case: Any) -> Verdict:  # noqa: ARG001 - the form of every claim
    return Verdict("not attempted", None, f"{TEST_DEV}; the speed is a cell of Table 8")


def _b1(case: Any) -> Verdict:
    return case.absolute(1, "b1", "ap")


def _b2_gains(case: Any) -> Verdict:
    return case.magnitude(2, "b2", "b1", "ap")


def _channels(case: Any) -> Verdict:
    """One score map for each class, background too, and place; alpha for each place. That both perform alike is for Table 2's cells to say."""
    verdict: Verdict = case.arithmetic(3, ((B2.classes + 1) * SIDE**2, ALPHA * SIDE**2))
    return replace(verdict, reason=f"{verdict.reason} channels; for the performance see the cells of Table 2")


def _roi_pooling_gains(case: Any) -> Verdict:
    return case.magnitude(4, "thin-roi", "thin-b2", "ap")


def _more_features(case: Any) -> Verdict:
    """All maps in each place, against one map a place: a single layer behind each costs as much more."""
    return case.cost_ratio(5, "thin-roi", "thin-b2", "macs_per_roi_g")


def _large_kernel_gains(case: Any) -> Verdict:
    return case.magnitude(6, "large-kernel", "b2", "ap")


def _light_head(case: Any) -> Verdict:
    return case.absolute(7, "light-l", "ap")


def _same_settings(case: Any) -> Verdict:
    return case.as_printed(8, "T4", ("faster-2fc", "b2"), "ap")


def _alignment_gains(case: Any) -> Verdict:
    return case.magnitude(9, "align", "light-l", "ap")


def _multi_scale_gains(case: Any) -> Verdict:
    return case.magnitude(10, "ms-train", "nms-05", "ap")


def _nms_gains(case: Any) -> Verdict:
    """Decided where objects overlap, as they do in COCO's photographs; few do in the plain scenes, whose difference stands beside it."""
    crowded: Verdict = case.on(CROWDED).magnitude(11, "nms-05", "align", "ap")
    plain = case.magnitude(11, "nms-05", "align", "ap")
    beside = "" if plain.interval is None else f"; on the plain scenes {plain.measured:+.2f} [{plain.interval[0]:+.2f}, {plain.interval[1]:+.2f}]"
    return replace(crowded, reason=f"on crowded scenes: {crowded.reason}{beside}")


def _beats_all(case: Any) -> Verdict:  # noqa: ARG001 - the form of every claim
    return Verdict("not attempted", None, TEST_DEV)


def _complexity(case: Any) -> Verdict:
    """Reading A of the block, with conv1 and FC; millions are printed, thousand millions counted."""
    return case.cost_claim(13, "xception", "macs_g", tolerance=0.02, unit=1e-3)


def _top_1(case: Any) -> Verdict:  # noqa: ARG001 - the form of every claim
    return Verdict("not attempted", None, "ImageNet accuracy: its training takes days of several GPUs, and the net was never released")


def _beats_rfcn(case: Any) -> Verdict:
    return case.superiority("light-l", "b2", "ap")


def _faster_than_rfcn(case: Any) -> Verdict:
    return case.faster("light-s", "b1")


def _faster_than_faster(case: Any) -> Verdict:
    return case.faster("light-s", "faster-c5")


CLAIMS = (
    Claim("fast-and-accurate", 0, "superiority", _fast_and_accurate),
    Claim("b1-ap", 1, "magnitude", _b1),
    Claim("b2-gains", 2, "magnitude", _b2_gains),
    Claim("channels", 3, "arithmetic", _channels),
    Claim("roi-pooling-gains", 4, "magnitude", _roi_pooling_gains),
    Claim("roi-pooling-features", 5, "cost", _more_features),
    Claim("large-kernel-gains", 6, "magnitude", _large_kernel_gains, headline=True),
    Claim("light-head-ap", 7, "magnitude", _light_head),
    Claim("same-settings", 8, "arithmetic", _same_settings),
    Claim("alignment-gains", 9, "magnitude", _alignment_gains, headline=True),
    Claim("multi-scale-gains", 10, "magnitude", _multi_scale_gains),
    Claim("nms-gains", 11, "magnitude", _nms_gains, headline=True),
    Claim("beats-all", 12, "superiority", _beats_all),
    Claim("small-net-145m", 13, "cost", _complexity),
    Claim("small-net-top-1", 14, "magnitude", _top_1),
    Claim("light-head-beats-r-fcn", -1, "superiority", _beats_rfcn, headline=True),
    Claim("setting-s-faster-than-r-fcn", -1, "superiority", _faster_than_rfcn),
    Claim("setting-s-faster-than-faster-r-cnn", -1, "superiority", _faster_than_faster),
)

PAPER = Paper(
    key="light_head",
    title="Light-Head R-CNN: In Defense of Two-Stage Object Detector",
    rows=(*_BODIES, *_BASELINES, *_LARGE, *_SMALL, *_OTHERS),
    tables=TABLES,
    claims=CLAIMS,
    variants=(Variant(CROWDED, ("align", "nms-05")),),
)
