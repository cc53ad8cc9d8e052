"""POD as data: the rows of Tables 1 to 5 and the sentences. Repeats no printed result, imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from bench.spec import Builder, Claim, Column, CostRule, Derive, Effort, Paper, Request, Row, Schedule, Setting, Table, Train, Variant, Verdict

# ---- settings: section 4.1; the test size is not stated, 800 / 1333 is the field's with COCO

R50 = Setting("trainval35k", classes=80, min_px=800, max_px=1333, backbone="R50-POD")
R101 = replace(R50, backbone="R101-POD")
JITTER = (640, 672, 704, 736, 768, 800)  # px, of Retina800, which section 4.3 follows

# Section 4.1: 13 epochs (the text's own total) with drops at 8 and 11, 0.00125 an image, SGD. The epoch is trainval35k's.
EPOCH = 118_288
SCHEDULE = Schedule(
    images=11 * EPOCH,
    decay_images=2 * EPOCH,
    epoch_images=EPOCH,
    warmup_images=8_000,
    batch=16,
    rate=0.02,
    optimizer="sgd",
    weight_decay=1e-4,
    decay="steps",
    drops=(8 / 13, 11 / 13),
    clip_norm=35.0,
)
EFFORT = Effort(length=1.0)  # of every row alike, as equal training is what the paper insists on
# A C4 detector that starts from a pretrained backbone alone is still learning then (29 AP after 8,000 images, 59 after 24,000): so far below the
# paper's lengths all rows of a detector, the baseline too, start from one trained detector without the method.
LONGER = {"r50": Effort(length=4.0), "r101": Effort(length=2.0)}  # R101's rows have one seed, and their bodies cost twice as much an image
_LEARNS: dict[str, Any] = {"schedule": SCHEDULE, "effort": EFFORT}

# ---- builders: each imports its model when it is called


def baseline(request: Request, **arguments: Any) -> Any:
    """Faster R-CNN (C4, FPN) or RetinaNet; arguments are those of model.build_baseline."""
    from implementations.pod.model import build_baseline

    return build_baseline(request, **arguments)


def pod(request: Request, **arguments: Any) -> Any:
    """A GSL or FD detector; arguments are the fields of model.Pod."""
    from implementations.pod.model import build_pod

    return build_pod(request, **arguments)


def one_stage(request: Request, **arguments: Any) -> Any:
    """RetinaNet: the arguments of `baseline`, or with a phase those of `pod`."""
    from implementations.pod.one_stage import build_one_stage

    return build_one_stage(request, **arguments)


def plain(detector: Any) -> Any:
    """A baseline or an FD detector as it is deployed: a copy of plain convolutions with norms folded in, and the same answers."""
    from implementations.pod.deployment import plain_convolutions

    return plain_convolutions(detector)


def scale_averages(detector: Any, images: Iterable[Any]) -> Mapping[str, float]:
    """The averages of a GSL detector's scales, Table 3."""
    from implementations.pod.averages import scale_averages as measure

    return measure(detector, images)


# ---- rows

SCALES = Derive("scales", scale_averages, images=500)  # section 3.1: "500+"
OPTIONS = ("phase", "begin", "scales_of", "sharing", "start", "inherit", "jitter")  # of model.build_pod; the rest of a row's words are spec.Row's
TITLES = {"c4": "Faster R-CNN, C4", "fpn": "Faster R-CNN, FPN", "retina": "RetinaNet"}
PLAIN: dict[str, Builder] = {"c4": baseline, "fpn": baseline, "retina": one_stage}
WITH_POD: dict[str, Builder] = {"c4": pod, "fpn": pod, "retina": one_stage}


def _twice(setting: Setting) -> Setting:
    return replace(setting, schedule=2.0)


def _at(setting: Setting) -> str:
    return "r50" if setting.backbone == R50.backbone else "r101"


def _body(base: str, setting: Setting) -> Row:
    """What the rows of a detector start from below the paper's tier: the plain detector, trained longer than each of them."""
    arguments = MappingProxyType({"detector": base})
    title, end = f"{TITLES[base]}, for the first weights alone", _at(setting)
    return Row(f"body-{base}-{end}", title, setting, PLAIN[base], arguments, start="builder", schedule=SCHEDULE, effort=LONGER[end])


def _baseline(base: str, setting: Setting, key: str, **more: Any) -> Row:
    arguments = MappingProxyType({"detector": base})
    return Row(key, TITLES[base], setting, PLAIN[base], arguments, body=f"body-{base}-{_at(setting)}", start="builder", **_LEARNS, **more)


def _pod(base: str, setting: Setting, key: str, title: str, **more: Any) -> Row:
    """A row of the method; `more`: what is an option of the model goes into its arguments, all else into the row."""
    options = {name: more.pop(name) for name in OPTIONS if name in more}
    arguments = MappingProxyType({"detector": base, **options})
    start = {"start": "needs"} if options.get("begin") == "transferred" else {"start": "builder", "body": f"body-{base}-{_at(setting)}"}
    return Row(key, f"{TITLES[base]}, {title}", setting, WITH_POD[base], arguments, **start, **_LEARNS, **more)


def _four(base: str, setting: Setting, end: str) -> tuple[Row, ...]:
    """Baseline, GSL, FD and FD-WT of one detector, 1x each. FD-WT has had 2x in all: its reference is the 2x baseline, where there is none FD."""
    plain, gsl = f"{base}-{end}", f"{base}-{end}-gsl"
    fd: dict[str, Any] = {"phase": "fd", "scales_of": gsl, "needs": (gsl,)}
    reference = f"{plain}-2x" if setting == R50 else f"{plain}-fd"
    return (
        _baseline(base, setting, plain),
        _pod(base, setting, gsl, "GSL", phase="gsl", recipe=(Train(), SCALES), reference=plain),
        _pod(base, setting, f"{plain}-fd", "FD from the pretrained weights", reference=plain, **fd),
        _pod(base, setting, f"{plain}-fd-wt", "FD from GSL's weights", begin="transferred", reference=reference, **fd),
    )


def _twofold(base: str) -> tuple[Row, ...]:
    """Table 5's 2x rows on R50."""
    plain, gsl = f"{base}-r50-2x", f"{base}-r50-gsl"
    return (
        _baseline(base, _twice(R50), plain),
        _pod(base, _twice(R50), f"{base}-r50-fd-2x", "FD, 2x", phase="fd", scales_of=gsl, needs=(gsl,), reference=plain),
    )


_JITTERED = _pod(
    "retina",
    replace(R101, schedule=1.5),
    "retina-r101-fd-wt-jitter",
    "FD from GSL's weights, scale jitter, 1.5x",
    phase="fd",
    begin="transferred",
    scales_of="retina-r101-gsl",
    needs=("retina-r101-gsl",),
    jitter=JITTER,
    reference="retina-r101-fd-wt",
)
_HEADLINES = {"c4-r50", "c4-r50-gsl", "c4-r50-fd", "c4-r50-2x", "c4-r50-fd-wt"}
_OURS = tuple(
    replace(row, headline=row.key in _HEADLINES)
    for row in (
        *(_body(base, setting) for base in TITLES for setting in (R50, R101)),
        *(row for base in TITLES for setting, end in ((R50, "r50"), (R101, "r101")) for row in _four(base, setting, end)),
        *(row for base in TITLES for row in _twofold(base)),
        _JITTERED,
    )
)


def _quoted(key: str, title: str, backbone: str = "R101-POD") -> Row:
    return Row(key, title, replace(R50, backbone=backbone), None, quoted="the paper quotes this system; it is shown and not measured here")


_OTHERS = (
    _quoted("quoted-yolo-v2", "YOLOv2, DarkNet-19"),
    _quoted("quoted-ssd", "SSD-513, ResNet-101"),
    _quoted("quoted-dssd", "DSSD-513, ResNet-101"),
    _quoted("quoted-refinedet", "RefineDet512, ResNet-101"),
    _quoted("quoted-retinanet", "RetinaNet, ResNet-101"),
    _quoted("quoted-cornernet", "CornerNet, Hourglass-104"),
    _quoted("quoted-frcnn-plus", "FRCNN+++, ResNet-101"),
    _quoted("quoted-fpn", "FRCNN w FPN, ResNet-101"),
    _quoted("quoted-tdm", "FRCNN w TDM, Inception-ResNet-v2"),
    _quoted("quoted-regionlets", "Regionlets, ResNet-101"),
    _quoted("quoted-mask-rcnn", "Mask R-CNN, ResNet-101"),
    _quoted("quoted-fitness-nms", "Fitness NMS, ResNet-101"),
    _quoted("quoted-cascade", "Cascade R-CNN, ResNet-101"),
)
_QUOTED = tuple(row.key for row in _OTHERS)

# ---- tables: for each printed row the key of ours, for each printed column its meaning

TEST_DEV = "COCO test-dev: its annotations are not public and need the evaluation server"
_LABEL = Column("")
_AP = Column("ap")
_SIZES = tuple(Column(measure) for measure in ("ap_s", "ap_m", "ap_l"))
_ALL = (_AP, Column("ap50"), Column("ap75"), *_SIZES)
_BLOCKS = tuple(Column(f"conv{stage}_{end}") for stage in (3, 4, 5) for end in ("first", "last"))
_T3_ROWS = ("c4-r50-gsl", "c4-r50-gsl", "fpn-r50-gsl", "retina-r50-gsl")
_T3_SPLITS = ("train", "val", "train", "train")  # the paper's minival is the data it looks at: val here, as test is scored once
_PAIRS_T2 = tuple((plain, f"{plain}-fd") for plain in ("c4-r50", "c4-r101", "fpn-r50", "fpn-r101", "retina-r50", "retina-r101"))

TABLES = (
    Table(
        "T1",
        (*_QUOTED[:6], "retina-r101-fd-wt-jitter", *_QUOTED[6:], "c4-r101-fd-wt"),
        (_LABEL, _LABEL, *(replace(column, unattempted=TEST_DEV) for column in _ALL)),
    ),
    Table("T2", tuple(key for pair in _PAIRS_T2 for key in pair), (*(_LABEL,) * 3, *_ALL)),
    Table(
        "T3",
        tuple(key for key in _T3_ROWS for _ in "hw"),
        (*(_LABEL,) * 4, *_BLOCKS),
        endings=tuple(f"_{direction}_{split}" for split in _T3_SPLITS for direction in "hw"),
    ),
    Table(
        "T4",
        tuple(f"{plain}{phase}" for plain in ("c4-r50", "c4-r101", "retina-r50") for phase in ("", "-gsl", "-fd")),
        (*(_LABEL,) * 3, _AP, Column("latency_ms")),
    ),
    Table("T5", tuple(f"{base}-r50{end}" for base in TITLES for end in ("-2x", "-fd-2x", "-fd-wt")), (*(_LABEL,) * 3, _AP, *_SIZES)),
)

# ---- claims: `index` is the sentence's place in published.json; `case` is a bench.claims.Case

ONE_SIZE = "scenes-v1-onesize"
_FD_PAIRS = tuple((row.key, row.key.partition("-fd")[0]) for row in _OURS if row.arguments.get("phase") == "fd")  # each beside its baseline
_STRIDED = tuple(f"conv{stage}_first" for stage in (3, 4, 5))


def _test_dev(case: Any) -> Verdict:
    return Verdict("not attempted", None, f"{TEST_DEV}; {case.note(0)}")


def _no_extra(case: Any) -> Verdict:
    return case.never_above(_FD_PAIRS, ("params_m", "macs_g"))


def _figure_1(case: Any) -> Verdict:
    return case.magnitudes(2, {0: ("c4-r50-fd-wt", "c4-r50-2x"), 1: ("retina-r50-fd-wt", "retina-r50-2x")}, "ap")


def _twofold_gain(case: Any) -> Verdict:
    return Verdict("not attempted", None, f"{TEST_DEV}; {case.note(3)}")


def _stable(case: Any) -> Verdict:
    return case.spread_below(4, "T3", tuple(dict.fromkeys(_T3_ROWS)))


def _local_scales(case: Any) -> Verdict:  # noqa: ARG001 - the form of every claim
    return Verdict("quoted", None, "the paper quotes these deviations of deformable convolution; both are above half of their mean")


def _fd_c4(case: Any) -> Verdict:
    return case.magnitudes(6, {2: ("c4-r50-fd", "c4-r50"), 3: ("c4-r101-fd", "c4-r101")}, "ap")


def _fd_pyramids(case: Any) -> Verdict:
    return case.magnitudes(7, {0: ("fpn-r50-fd", "fpn-r50"), 1: ("retina-r50-fd", "retina-r50")}, "ap")


def _transferred(case: Any) -> Verdict:
    return case.magnitudes(8, {0: ("c4-r50-fd-wt", "c4-r50-2x"), 1: ("retina-r50-fd-wt", "retina-r50-2x")}, "ap")


def _large(case: Any) -> Verdict:
    return case.learnt(9, "T3", "c4-r50-gsl", ("conv4_last_h_train", "conv4_last_w_train"))


def _below_one(case: Any) -> Verdict:
    measures = tuple(f"{block}_{direction}_train" for block in _STRIDED for direction in "hw")
    return case.learnt_below(10, "T3", ("fpn-r50-gsl", "retina-r50-gsl"), measures)


def _beside_the_control(case: Any, row: str, reference: str) -> Verdict:
    """A gain, and the same difference where all objects are of one size: there a method that learns scales should gain nothing."""
    verdict, control = (one.superiority(row, reference, "ap") for one in (case, case.on(ONE_SIZE)))
    shown = "not run yet" if control.interval is None else f"{control.measured:+.2f} [{control.interval[0]:+.2f}, {control.interval[1]:+.2f}]"
    return replace(verdict, reason=f"{verdict.reason}; on objects of one size: {shown}")


def _gsl_gains(case: Any) -> Verdict:
    return _beside_the_control(case, "c4-r50-gsl", "c4-r50")


def _fd_gains(case: Any) -> Verdict:
    return _beside_the_control(case, "c4-r50-fd", "c4-r50")


def _fd_as_gsl(case: Any) -> Verdict:
    return case.equality("c4-r50-fd", "c4-r50-gsl", "ap")


def _transfer_gains(case: Any) -> Verdict:
    """Against the baseline that was trained as long in all."""
    return _beside_the_control(case, "c4-r50-fd-wt", "c4-r50-2x")


def _deployed_as_fast(form: str) -> Callable[[Any], Verdict]:
    """Table 4's FD beside its baselines in a runtime that the paper does not name: deployment is its point."""
    pairs = tuple((f"{base}-r50-fd@{form}", f"{base}-r50@{form}") for base in ("c4", "retina"))
    return lambda case: case.as_fast(pairs)  # type: ignore[no-any-return]  # a Case gives a Verdict


CLAIMS = (
    Claim("test-dev", 0, "magnitude", _test_dev),
    Claim("no-extra-flops", 1, "cost", _no_extra),
    Claim("figure-1", 2, "magnitude", _figure_1),
    Claim("gain-over-2x", 3, "magnitude", _twofold_gain),
    Claim("stable-scales", 4, "arithmetic", _stable),
    Claim("local-scales-vary", 5, "arithmetic", _local_scales),
    Claim("fd-gains-on-c4", 6, "magnitude", _fd_c4),
    Claim("fd-gains-on-pyramids", 7, "magnitude", _fd_pyramids),
    Claim("transfer-beats-2x", 8, "magnitude", _transferred),
    Claim("huge-dilations", 9, "arithmetic", _large),
    Claim("strided-below-one", 10, "arithmetic", _below_one),
    # the headlines, on R50 with C4 alone, whose rows have five seeds: the printed sentences are of several detectors at once
    Claim("gsl-gains", -1, "superiority", _gsl_gains, headline=True),
    Claim("fd-gains", -1, "superiority", _fd_gains, headline=True),
    Claim("transfer-gains", -1, "superiority", _transfer_gains, headline=True),
    Claim("fd-as-accurate-as-gsl", -1, "equality", _fd_as_gsl),  # Table 4: "almost the same performance"
    Claim("fd-as-fast-in-onnxruntime", -1, "arithmetic", _deployed_as_fast("onnx")),
    Claim("fd-as-fast-in-openvino", -1, "arithmetic", _deployed_as_fast("openvino")),
)

PAPER = Paper(
    key="pod",
    title="POD: Practical Object Detection with Scale-Sensitive Network",
    rows=(*_OURS, *_OTHERS),
    tables=TABLES,
    claims=CLAIMS,
    costs=CostRule(scope="model"),
    compared=(("c4-r50-fd", "c4-r50-gsl"),),  # Table 4's "almost the same performance"
    variants=(Variant(ONE_SIZE, tuple(row.key for row in _OURS if row.headline), seeds=2),),
)
