"""Where MimicDet could disagree with itself: its sentences are its tables' differences, so nothing is found in what is printed. No torch."""

from __future__ import annotations

from typing import Any

from bench.spec import Check

HALF = (0.45, 0.55)  # "about half"


def _differences(printed: Any, said: dict[float, tuple[tuple[str, str, str], tuple[str, str, str]]]) -> str:
    """Differences of two cells that a sentence rounds to something else."""
    wrong = []
    for claimed, (cell, other) in said.items():
        found = round(printed.number(*cell) - printed.number(*other), 1)
        if found != claimed:
            wrong.append(f"{printed.number(*cell):g} - {printed.number(*other):g} = {found:+g}, said {claimed:+g}")
    return "; ".join(wrong)


def _mimicking(printed: Any) -> str:
    rows = [("T1", f"{first} T-head & {second} mimic", "AP") for first, second in (("w/o", "w/o"), ("w", "w/o"), ("w", "w"))]
    numbers = printed.said(1)
    wrong = [
        f"Table 1 prints {printed.number(*row):g}, said {value:g}" for row, value in zip(rows, numbers, strict=False) if printed.number(*row) != value
    ]
    return "; ".join([*wrong, *filter(None, [_differences(printed, {numbers[3]: (rows[1], rows[0]), numbers[4]: (rows[2], rows[1])})])])


def _alignment(printed: Any) -> str:
    plain, deform, guided = (("T2", row, "AP") for row in printed.rows("T2")[:3])
    first, second = printed.said(2)
    return _differences(printed, {first: (deform, plain), second: (guided, plain)})


def _dual_path(printed: Any) -> str:
    return _differences(printed, {printed.said(3)[0]: (("T3", "Dual-path mimicking", "S-head AP"), ("T3", "Heavy head", "S-head AP"))})


def _staggered(printed: Any) -> str:
    plain, ours = printed.rows("T4")
    return _differences(printed, {printed.said(4)[0]: (("T4", ours, "AP"), ("T4", plain, "AP"))})


def _half_the_time(printed: Any) -> str:
    shares = {name: [printed.number("T5", f"{name}, {kind}", "training time") for kind in ("shared", "separated")] for name in ("Res-50", "Res-101")}
    wrong = [
        f"{name}: {shared:g} / {apart:g} = {shared / apart:.3f}"
        for name, (shared, apart) in shares.items()
        if not HALF[0] <= shared / apart <= HALF[1]
    ]
    return f"about half is said; {'; '.join(wrong)}" if wrong else ""


def _frames(printed: Any) -> str:
    wrong = []
    for index, row in ((6, "600, ResNet-50"), (7, "800, ResNet-101")):
        frames, ap = printed.said(index)
        milliseconds, cell = printed.number("T6", row, "Inference time"), printed.number("T6", row, "AP")
        if abs(1000 / milliseconds - frames) > 0.5 or cell != ap:
            wrong.append(f"{row}: {milliseconds:g} ms is {1000 / milliseconds:.1f} a second with {cell:g} AP, said {frames:g} with {ap:g}")
    return "; ".join(wrong)


def _one_detector(printed: Any) -> str:
    """What Tables 5 and 6 both print: the shared rows at 800 px."""
    pairs = {
        name: (printed.number("T5", f"{name}, shared", "AP"), printed.number("T6", f"800, ResNet-{name[4:]}", "AP")) for name in ("Res-50", "Res-101")
    }
    return "; ".join(f"{name}: {fifth:g} in Table 5, {sixth:g} in Table 6" for name, (fifth, sixth) in pairs.items() if fifth != sixth)


CHECKS = (
    Check("mimicking-gains", "contradicted", "The gains of T-head and mimicking are not Table 1's.", "Text, line 127; Table 1", _mimicking),
    Check("alignment-gains", "contradicted", "The gains of the alignment layers are not Table 2's.", "Text, line 148; Table 2", _alignment),
    Check("dual-path-gain", "contradicted", "The gain of dual-path mimicking is not Table 3's.", "Text, line 160; Table 3", _dual_path),
    Check("staggered-gain", "contradicted", "The gain of the staggered pyramid is not Table 4's.", "Text, line 169; Table 4", _staggered),
    Check(
        "half-the-training-time", "contradicted", "Sharing the backbone does not halve the training time.", "Text, line 179; Table 5", _half_the_time
    ),
    Check("frames-a-second", "contradicted", "The frames a second are not Table 6's milliseconds.", "Text, line 189; Table 6", _frames),
    Check("one-detector-twice", "contradicted", "One detector has two accuracies.", "Tables 5 and 6", _one_detector),
)
