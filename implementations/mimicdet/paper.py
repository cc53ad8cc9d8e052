"""MimicDet as data: the rows of Tables 1 to 7 and the sentences. Repeats no printed result, imports no torch."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from bench.spec import Claim, Column, CostRule, Effort, Paper, Request, Row, Schedule, Setting, Table, Transform, Verdict

# ---- settings: sections 4.1 and 5.1; 80k train images and 35k of val, 80 classes

EPOCHS_1X, EPOCHS_2X, EPOCHS_LONG = 13, 24, 36  # section 4.1; Table 7 is trained 1.5 times longer than 2x
R50 = Setting("coco115k", classes=80, min_px=800, max_px=1333, backbone="R50")
R50_2X = replace(R50, schedule=EPOCHS_2X / EPOCHS_1X)
R101_2X = replace(R50_2X, backbone="R101")
R101_LONG = replace(R101_2X, schedule=EPOCHS_LONG / EPOCHS_1X)
X101_LONG = replace(R101_LONG, backbone="X101-64x4d")
JITTER = (640, 800)  # px, section 5.2
LONGER = {400: 667, 600: 1000, 800: 1333}  # px that the longer side never passes: the usual 5 : 3, the paper does not say

EPOCH = 115_200  # images: 115k in whole batches


def _schedule(epochs: int, first: int, second: int) -> Schedule:
    """Section 4.1, in epochs; the rate is for 32 images a step. How long warm-up takes is not said: 500 steps."""
    return Schedule(
        images=8 * EPOCH,
        decay_images=5 * EPOCH,
        epoch_images=EPOCH,
        warmup_images=16_000,
        batch=32,
        rate=0.04,
        optimizer="sgd",
        weight_decay=1e-4,
        decay="steps",
        drops=(first / epochs, second / epochs),
        clip_norm=35.0,
    )


SCHEDULES = {
    R50.schedule: _schedule(EPOCHS_1X, 8, 11),
    R50_2X.schedule: _schedule(EPOCHS_2X, 16, 22),
    R101_LONG.schedule: _schedule(EPOCHS_LONG, 24, 33),
}
BODIES = {"R50": "body-r50", "R101": "body-r101"}  # the row that those of each backbone start from below the paper's scale
LEARNT = Effort(length=2.5)  # below the paper's scale, from a body: as long as the rows of the other papers that start from one
# Tables 5 to 7 train 2x and longer, one seed, half of it on R101: half of that length, so that 2x is about as many images as a row of 1x has here.
LEARNT_2X = Effort(length=1.25)

# ---- builders: each imports its model when it is called


def mimicdet(request: Request, **arguments: Any) -> Any:
    """MimicDet and every variant of its tables; arguments are the fields of model.Settings."""
    from implementations.mimicdet.model import build_mimicdet

    return build_mimicdet(request, **arguments)


# ---- rows


def _row(key: str, title: str, setting: Setting = R50, *, reference: str = "mimicdet", **arguments: Any) -> Row:
    """A row that learns by the paper's schedule. Where the S-head is what is tested, its teacher is not deployed."""
    given, body, schedule = MappingProxyType(arguments), BODIES.get(setting.backbone, ""), SCHEDULES[setting.schedule]
    without = {"teacher": ""} | ({"taught_by": ""} if "taught_by" in arguments else {})
    deployed = MappingProxyType({} if arguments.get("tested") == "teacher" else without)
    effort = LEARNT if setting.schedule == R50.schedule else LEARNT_2X
    return Row(key, title, setting, mimicdet, given, body=body, reference=reference, effort=effort, schedule=schedule, deployed=deployed)


def _headline(row: Row) -> Row:
    return replace(row, headline=True)


def _retested(key: str, title: str, source: Row, *, reference: str, **arguments: Any) -> Row:
    """The weights of another row, tested otherwise."""
    given = MappingProxyType({**source.arguments, "weights": source.key, **arguments})
    recipe = (Transform("another head"),)
    return Row(key, title, source.setting, mimicdet, given, recipe=recipe, needs=(source.key,), reference=reference)


def _deployed(source: Row, reference: str) -> Row:
    """What is timed and counted of a row: P2 and the T-head are not built. Its accuracy is the row's own."""
    title = f"{source.title}, as deployed"
    given = MappingProxyType({"teacher": ""})
    notes = "Counted and timed only: the same boxes as the trained row, bit for bit."
    return Row(f"deployed-{source.key}", title, source.setting, mimicdet, given, recipe=(), reference=reference, notes=notes)


# What all rows start from below the paper's tier, where a run is far shorter than the paper's: backbone, P3 to P7 and refinement module, learnt four
# times as long as the tier's schedule says. Nothing that the paper claims a gain for has shaped it: no T-head, no mimicking, no deformable layer, and
# P2's layers are in it as they were drawn. So S-head, T-head and P2 are new to every row, and rows of one schedule learn them equally long.
_PLAIN = {"teacher": "", "mimic": False, "alignment": "conv", "with_p2": True}


def _body(setting: Setting) -> Row:
    row = _row(BODIES[setting.backbone], "without T-head, plain convolution, for the body alone", setting, reference="", **_PLAIN)
    return replace(row, body="", effort=Effort(length=4.0, threads=2))


_BODIES = (_body(R50), _body(replace(R50, backbone="R101")))

_T1 = (
    _headline(_row("no-t-head", "without T-head, without mimicking", reference="", teacher="", mimic=False)),
    _headline(_row("with-t-head", "with T-head, without mimicking", reference="no-t-head", mimic=False)),
    _headline(_row("mimicdet", "MimicDet", reference="with-t-head")),
)
_MIMICDET = _T1[-1]

_T2 = (
    _headline(_row("conv", "5x5 convolution as alignment layer", alignment="conv")),
    _headline(_row("deform", "5x5 deformable convolution", reference="conv", alignment="deform")),
    _headline(_row("guided", "5x5 guided deformable convolution on every level", reference="conv", alignment="guided")),
)

_LIGHT = _row("light", "light T-head, features not split", teacher="light", paths=1)
_HEAVY = _row("heavy", "heavy T-head, features not split", teacher="heavy", paths=1)
_T3 = (
    _LIGHT,
    _HEAVY,
    _retested("light-t", "light T-head tested", _LIGHT, reference="mimicdet-t", tested="teacher"),
    _retested("heavy-t", "heavy T-head tested", _HEAVY, reference="mimicdet-t", tested="teacher"),
    _retested("mimicdet-t", "MimicDet's T-head tested", _MIMICDET, reference="mimicdet", tested="teacher"),
)

_T4 = (_row("same-pyramid", "P3 to P7 for T-head and S-head", staggered=False),)


def _alone(setting: Setting) -> tuple[Row, Row]:
    """Table 5: a two-stage detector of the same design, and the student that it teaches with a backbone of its own."""
    name, shared = setting.backbone.lower(), f"{setting.backbone.lower()}-800"
    teacher = _row(f"teacher-{name}", "the two-stage teacher alone", setting, reference=shared, student=False, tested="teacher", mimic=False)
    arguments = {"teacher": "", "taught_by": teacher.key}
    student = _row(f"separated-{name}", "separated backbone: taught by a fixed teacher", setting, reference=shared, **arguments)
    return teacher, replace(student, needs=(teacher.key,))


def _sizes(setting: Setting, reference: str) -> tuple[Row, ...]:
    """Table 6: 400, 600 and 800 pixels of one backbone; 800 first, as the others are judged against it."""
    name = setting.backbone.lower()
    rows = [
        _row(f"{name}-{side}", f"MimicDet, {setting.backbone}, {side} px, 2x", replace(setting, min_px=side, max_px=LONGER[side]))
        for side in (800, 600, 400)
    ]
    return tuple(replace(row, reference=reference if row is rows[0] else rows[0].key) for row in rows)


_T6_R50, _T6_R101 = _sizes(R50_2X, ""), _sizes(R101_2X, "r50-800")
_T5 = (*_alone(R50_2X), *_alone(R101_2X))
_DEPLOYED_T6 = tuple(_deployed(row, "" if row.key == "r50-800" else "deployed-r50-800") for row in (*_T6_R50, *_T6_R101))

_X101 = replace(
    _row("x101", "MimicDet, ResNeXt-101 64x4d, scale jitter", X101_LONG, reference="r101-jitter", jitter=JITTER),
    recipe=(),
    notes="Counted and timed only: its accuracy is of test-dev alone, and no backbone of its kind is pretrained here.",
)
_T7 = (
    _row("r101-jitter", "MimicDet, ResNet-101, scale jitter", R101_LONG, reference="r101-800", jitter=JITTER),
    _X101,
    replace(_deployed(_X101, "deployed-r101-800"), key="deployed-x101"),
)

# In no table: the deployed student as a run of its own, and what the text leaves open where it can change a result.
_OTHERS = (
    _retested("deployed", "MimicDet deployed: P2 and T-head not built", _MIMICDET, reference="mimicdet", teacher=""),
    _row("features", "MimicDet, classification mimicked on features", mimicked="features"),
)


def _quoted(key: str, title: str, px: int, setting: Setting = R101_2X) -> Row:
    place = replace(setting, min_px=px, max_px=LONGER.get(px, px))
    return Row(key, title, place, None, quoted="the paper quotes this system; it is shown and not measured here")


_SYSTEMS = (
    ("ssd", "SSD, ResNet-101", 513),
    ("dssd", "DSSD, ResNet-101", 513),
    ("refinedet", "RefineDet, ResNet-101", 512),
    ("yolov3", "YOLOv3, DarkNet-53", 608),
    ("extremenet", "ExtremeNet, Hourglass-104", 511),
    ("cornernet", "CornerNet, Hourglass-104", 511),
    ("centernet", "CenterNet, Hourglass-104", 511),
    ("retinanet", "RetinaNet, ResNet-101", 800),
    ("fsaf", "FSAF, ResNet-101", 800),
    ("fcos", "FCOS, ResNet-101", 800),
    ("rpdet", "RPDet, ResNet-101", 800),
    ("aligndet", "AlignDet, ResNet-101", 800),
    ("retinanet-x101", "RetinaNet, ResNeXt-101 32x8d", 800),
    ("fsaf-x101", "FSAF, ResNeXt-101 64x4d", 800),
    ("fcos-x101", "FCOS, ResNeXt-101 64x4d", 800),
)
_QUOTED = tuple(_quoted(f"quoted-{key}", title, px) for key, title, px in _SYSTEMS)
_QUOTED_KEYS = tuple(row.key for row in _QUOTED)

# ---- tables: for each printed row the key of ours, for each printed column its meaning

TEST_DEV = "COCO test-dev: its annotations are not public and need the evaluation server"
_LABEL = Column("")
_AP = Column("ap")
_THREE = (_AP, Column("ap50"), Column("ap75"))
_SIX = (*_THREE, Column("ap_s"), Column("ap_m"), Column("ap_l"))
_TEST_DEV = tuple(replace(column, unattempted=TEST_DEV) for column in _SIX)
_T_HEAD = Column("ap", stands_in=MappingProxyType({key: f"{key}-t" for key in ("light", "heavy", "mimicdet")}))
_T6_ORDER = (*reversed([row.key for row in _T6_R50]), *reversed([row.key for row in _T6_R101]))
_AS_DEPLOYED = {row.key.removeprefix("deployed-"): row.key for row in _DEPLOYED_T6}
_MS = Column("latency_ms", stands_in=MappingProxyType({**_AS_DEPLOYED, "r101-jitter": "deployed-r101-800", "x101": "deployed-x101"}))


def _to(reference: str, *rows: str) -> dict[str, str]:
    """The first row of a table is the one that its others are judged against there, whatever they are judged against elsewhere."""
    return {reference: "", **dict.fromkeys(rows, reference)}


TABLES = (
    Table("T1", ("no-t-head", "with-t-head", "mimicdet"), (_LABEL, *_THREE)),
    Table("T2", ("conv", "deform", "guided", "mimicdet"), (_LABEL, *_THREE), references=_to("conv", "mimicdet")),
    Table(
        "T3",
        ("light", "heavy", "mimicdet"),
        (_LABEL, _T_HEAD, _AP),
        references=_to("light", "heavy", "mimicdet") | _to("light-t", "heavy-t", "mimicdet-t"),
    ),
    Table("T4", ("same-pyramid", "mimicdet"), (_LABEL, _LABEL, _LABEL, _AP), references=_to("same-pyramid", "mimicdet")),
    Table("T5", ("r50-800", "separated-r50", "r101-800", "separated-r101"), (_LABEL, _LABEL, _AP, Column("training_h"))),
    Table("T6", _T6_ORDER, (_LABEL, _LABEL, *_SIX, _MS)),
    Table("T7", (*_QUOTED_KEYS[:12], "r101-jitter", *_QUOTED_KEYS[12:], "x101"), (_LABEL, _LABEL, _LABEL, _MS, *_TEST_DEV)),
)

# ---- claims: `index` is the sentence's place in published.json; `case` is a bench.claims.Case


def _test_dev(case: Any) -> Verdict:  # noqa: ARG001 - the form of every claim
    return Verdict("not attempted", None, TEST_DEV)


def _mimicking_gains(case: Any) -> Verdict:
    """The sentence's fourth and fifth numbers are the differences; its first three are cells of Table 1."""
    return case.magnitudes(1, {3: ("with-t-head", "no-t-head"), 4: ("mimicdet", "with-t-head")}, "ap")


def _alignment_gains(case: Any) -> Verdict:
    return case.magnitudes(2, {0: ("deform", "conv"), 1: ("guided", "conv")}, "ap")


def _dual_path_gains(case: Any) -> Verdict:
    return case.magnitude(3, "mimicdet", "heavy", "ap")


def _staggered_gains(case: Any) -> Verdict:
    return case.magnitude(4, "mimicdet", "same-pyramid", "ap")


def _half_of_the_training(case: Any) -> Verdict:
    """Both rows of each backbone; the separated one's time holds its teacher's training."""
    return case.training_share(5, (("r50-800", "separated-r50"), ("r101-800", "separated-r101")))


def _fast_r50(case: Any) -> Verdict:
    return case.frames_as_printed(6, "T6", timed="deployed-r50-600", row="r50-600")


def _fast_r101(case: Any) -> Verdict:
    return case.frames_as_printed(7, "T6", timed="deployed-r101-800", row="r101-800")


def _as_accurate(case: Any) -> Verdict:
    """Table 5's sentence: "comparable accuracy"."""
    return case.equality("separated-r50", "r50-800", "ap")


def _smaller_kernel(case: Any) -> Verdict:
    """Table 2's sentence: (d), with 3x3 on P3, "is comparable with model (c)"."""
    return case.equality("mimicdet", "guided", "ap")


CLAIMS = (
    Claim("best-on-test-dev", 0, "magnitude", _test_dev),
    Claim("mimicking-gains", 1, "magnitude", _mimicking_gains, headline=True),
    Claim("alignment-gains", 2, "magnitude", _alignment_gains, headline=True),
    Claim("dual-path-gains", 3, "magnitude", _dual_path_gains),
    Claim("staggered-gains", 4, "magnitude", _staggered_gains),
    Claim("half-the-training-time", 5, "cost", _half_of_the_training),
    Claim("fast-r50", 6, "arithmetic", _fast_r50),
    Claim("fast-r101", 7, "arithmetic", _fast_r101),
    Claim("both-on-test-dev", 8, "magnitude", _test_dev),
    Claim("shared-as-accurate", -1, "equality", _as_accurate),
    Claim("smaller-kernel-on-p3", -1, "equality", _smaller_kernel),
)

PAPER = Paper(
    key="mimicdet",
    title="MimicDet: Bridging the Gap Between One-Stage and Two-Stage Object Detection",
    rows=(*_BODIES, *_T1, *_T2, *_T3, *_T4, *_T6_R50, *_T6_R101, *_T5, *_T7, *_DEPLOYED_T6, *_OTHERS, *_QUOTED),
    tables=TABLES,
    claims=CLAIMS,
    costs=CostRule(rois=128),  # sampled for the T-head in training; the head is what is deployed: refinement module and S-head
)
