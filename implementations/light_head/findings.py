"""Where Light-Head R-CNN disagrees with itself: text against Tables 1 to 8, and these against each other. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.spec import Check

# The tables of the mini-validation set, by the column of the AP over all sizes.
MINIVAL = {"T1": "mAP", "T2": "mmAP", "T3": "mmAP", "T4": "mAP@[0.5:0.95]", "T6": "mAP@[0.5:0.95]"}
SIZES = ("AP_s", "AP_m", "AP_l")
NARROWING = 4  # output over inner channels of a bottleneck, as in ResNet; the paper does not draw the block
NEAR = 0.1  # relative


def _same_settings(printed: Any) -> str:
    said = printed.said(8)
    cells = tuple(printed.number("T4", row, "mAP@[0.5:0.95]") for row in ("baseline Faster R-CNN", "B2 (R-FCN)"))
    if cells == said:
        return ""
    differ = ", ".join(f"{ours - theirs:+.1f}" for ours, theirs in zip(said, cells, strict=True))
    return f"the text says {said[0]:g}/{said[1]:g}, Table 4 prints {cells[0]:g} and {cells[1]:g}: {differ}"


def _mini_validation_as_test(printed: Any) -> str:
    row, baseline = "R-FCN [17], 600/1000", [printed.number("T1", "B1", column) for column in ("mAP", *SIZES)]
    quoted = [printed.number("T5", row, column) for column in ("mAP@[0.5:0.95]", *SIZES)]
    other = printed.number("T8", "R-FCN, Resnet101, 600/1000", "mAP@[0.5:0.95]")
    if quoted != baseline or other == quoted[0]:
        return ""
    values = "/".join(f"{value:g}" for value in quoted)
    return f"R-FCN on test-dev is {values} in Table 5, which is B1's mini-validation of Table 1 digit for digit; Table 8 prints {other:g} on test-dev"


def _gain_of_no_table(printed: Any) -> str:
    (gain,) = printed.said(4)
    thin = [printed.number("T2", f"thin feature maps {name}", "mmAP") for name in ("B1", "B2")]
    wanted = [round(value + gain, 1) for value in thin]
    there = [value for table, column in MINIVAL.items() for value in printed.column(table, column)]
    if any(value in there for value in wanted):
        return ""
    return (
        f"the thin maps have {thin[0]:g} (B1) and {thin[1]:g} (B2) in Table 2; {gain:+g} would be {wanted[0]:g} or {wanted[1]:g}, "
        f"and none of the {len(there)} accuracies of the mini-validation tables is either"
    )


def _stages(printed: Any) -> Iterator[tuple[int, int, int]]:
    """Output channels, output side and blocks of Table 7's stages 2 to 4."""
    rows = printed.rows("T7")
    for first in (name for name in rows if name.startswith("Stage")):
        second = rows[rows.index(first) + 1]
        channels = int(printed.number("T7", first, "output channels"))
        side = int(printed.text("T7", first, "Output size").partition("x")[0])
        yield channels, side, int(printed.number("T7", first, "Rep")) + int(printed.number("T7", second, "Rep"))


def _separable(channels: int, out: int) -> int:
    """Multiply-adds at a place: 3x3 channel by channel, then 1x1."""
    return 9 * channels + channels * out


def literal_complexity(printed: Any) -> float:
    """Millions of multiply-adds of Table 7 where every convolution of a bottleneck, its projection too, is "channel-wise": 3x3 by channel and 1x1."""
    conv1 = next(name for name in printed.rows("T7") if name.startswith("Conv1"))
    before = int(printed.number("T7", conv1, "output channels"))
    side = int(printed.text("T7", conv1, "Output size").partition("x")[0])
    total = 27 * before * side**2
    for channels, side, blocks in _stages(printed):
        inner = channels // NARROWING
        for block in range(blocks):
            given = before if block == 0 else channels
            total += side**2 * (_separable(given, inner) + _separable(inner, inner) + _separable(inner, channels))
            total += side**2 * _separable(given, channels) if block == 0 else 0
        before = channels
    fc = next(name for name in printed.rows("T7") if name.startswith("FC"))
    return (total + before * int(printed.number("T7", fc, "output channels"))) / 1e6


def _literal_sentence(printed: Any) -> str:
    (claimed,) = printed.said(13)
    literal = literal_complexity(printed)
    if abs(literal / claimed - 1) < NEAR:
        return ""
    more = 100 * (literal / claimed - 1)
    return f"Table 7 with every convolution of a bottleneck channel-wise has {literal:.1f} M multiply-adds, {more:+.0f} % of {claimed:g} M"


def _told_apart_by_nothing(printed: Any) -> str:
    table = printed.published.table("T5")
    settings = [place for place, column in enumerate(table.columns) if column.kind == "setting"]
    last = table.columns.index(next(column for column in table.columns if column.kind == "accuracy"))
    seen: dict[tuple[str, ...], list[str]] = {}
    for row in table.rows:
        seen.setdefault(tuple(row.cells[place].strip() for place in settings), []).append(row.cells[last])
    twice = {cells: values for cells, values in seen.items() if len(set(values)) > 1}
    return "; ".join(f"{', '.join(filter(None, cells))}: {' and '.join(values)}" for cells, values in twice.items())


CHECKS = (
    Check("same-settings", "contradicted", "The text's baselines are not its tables'.", "Section 4.2.3, line 161; Tables 1 to 4", _same_settings),
    Check(
        "mini-validation-as-test",
        "copied",
        "A mini-validation result stands in the test-dev table.",
        "Table 5, line 190; Table 1, line 123; Table 8, line 244",
        _mini_validation_as_test,
    ),
    Check(
        "gain-of-no-table",
        "shown nowhere",
        "The gain of RoI pooling on thin maps is in no table.",
        "Section 4.2.2, line 134; Tables 1 to 4 and 6",
        _gain_of_no_table,
    ),
    Check(
        "literal-complexity",
        "contradicted",
        "The sentence on channel-wise convolution does not give the complexity.",
        "Section 4.4, line 182; Table 7, lines 215 to 226",
        _literal_sentence,
    ),
    Check(
        "told-apart-by-nothing",
        "left out",
        "Rows of one setting have two accuracies: their marks are lost in the text at hand.",
        "Table 5, lines 198 and 200",
        _told_apart_by_nothing,
    ),
)
