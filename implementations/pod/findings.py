"""Where POD disagrees with itself: the abstract against the introduction, Table 2 against Table 4, the text against Table 3. No torch."""

from __future__ import annotations

from typing import Any

from bench.spec import Check

BLOCKS = ("R31", "R34", "R41", "R46", "R51", "R53")
OURS = "FRCNN-FD-WT(ours), ResNet-101"


def _two_gains(printed: Any) -> str:
    abstract, introduction = printed.said(0)[3], printed.said(3)[0]
    if abstract == introduction:
        return ""
    ours = printed.number("T1", OURS, "AP")
    baselines = f"{ours - abstract:.1f} or {ours - introduction:.1f}"
    return f"the abstract says {abstract:+g}, the introduction {introduction:+g}: the baseline of {ours:g} is {baselines}"


def _baseline_of_no_table(printed: Any) -> str:
    ours = printed.number("T1", OURS, "AP")
    wanted = [round(ours - gain, 1) for gain in dict.fromkeys((printed.said(0)[3], printed.said(3)[0]))]
    there = printed.column("T1", "AP")
    if any(value in there for value in wanted):
        return ""
    return f"{ours:g} less its gain is {' or '.join(f'{value:g}' for value in wanted)}; Table 1's {len(there)} rows on test-dev print neither"


def _one_row_twice(printed: Any) -> str:
    second, fourth = (printed.number(table, printed.rows(table)[0], "AP") for table in ("T2", "T4"))
    return f"Faster R-CNN R50-C4, 1x, is {second:g} in Table 2 and {fourth:g} in Table 4" if second != fourth else ""


def _wide_scales(printed: Any) -> str:
    (limit,) = printed.said(4)
    above = []
    for row in printed.rows("T3"):
        for block in BLOCKS:
            mean, deviation = printed.pair("T3", row, block)
            if 100 * deviation / mean >= limit:
                above.append(f"{deviation:g} / {mean:g} = {100 * deviation / mean:.2f} % ({block}, {row})")
    return f"not below {limit:g} %: {'; '.join(above)}" if above else ""


CHECKS = (
    Check(
        "two-gains", "contradicted", "Abstract and introduction have two gains of one detector.", "Abstract, line 17; Section 1, line 38", _two_gains
    ),
    Check(
        "baseline-of-no-table",
        "shown nowhere",
        "The two-stage baseline on test-dev is printed nowhere.",
        "Table 1, lines 167 to 181",
        _baseline_of_no_table,
    ),
    Check("one-row-twice", "contradicted", "One row has two accuracies.", "Table 2, line 206; Table 4, line 234", _one_row_twice),
    Check(
        "wide-scales", "contradicted", "A scale varies more than the text allows.", "Section 3.1, line 108; Table 3, lines 222 to 225", _wide_scales
    ),
)
