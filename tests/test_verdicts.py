"""The rules of judgement, by hand arithmetic."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import verdicts


@pytest.mark.parametrize(
    ("printed", "measured", "tolerance", "word"),
    [
        ("8.0", 7.953, 0.0, "reproduced"),  # rounds
        ("34.8", 34.886, 0.0, "reproduced"),  # is cut
        ("10.6", 10.699, 0.0, "reproduced"),  # is cut
        ("13 MB", 13.0, 0.0, "reproduced"),
        ("13 MB", 14.0, 0.0, "deviates"),
        ("733.8", 734.65, 0.01, "reproduced"),  # 0.12 %
        ("733.8", 734.65, 0.0, "deviates"),
        ("7.4", 8.03, 0.01, "deviates"),
        ("0.5", 0.45, 0.0, "reproduced"),  # half rounds up
        ("0.5", 0.4499, 0.0, "deviates"),
        ("14.0", 13.95, 0.0, "reproduced"),
        ("14.0", 14.1, 0.0, "deviates"),
    ],
)
def test_printed_digits(printed, measured, tolerance, word):
    assert verdicts.digits(printed, measured, tolerance=tolerance)[0] == word


@settings(deadline=None)  # a busy machine is no fault
@given(st.decimals(min_value="0.1", max_value="999", places=1), st.floats(min_value=-0.049, max_value=0.0989))
def test_a_number_that_shows_the_digits_is_reproduced_and_one_further_off_is_not(printed, off):
    assert verdicts.digits(str(printed), float(printed) + off)[0] == "reproduced"
    assert verdicts.digits(str(printed), float(printed) + 0.1001)[0] == "deviates"
    assert verdicts.digits(str(printed), float(printed) - 0.0501)[0] == "deviates"


@pytest.mark.parametrize(
    ("interval", "word"), [((-0.9, 0.9), "reproduced"), ((-1.1, 0.5), "undecided"), ((1.1, 2.0), "deviates"), ((-3.0, -1.2), "deviates")]
)
def test_equality_needs_the_whole_interval_inside_one_point(interval, word):
    assert verdicts.equality(interval)[0] == word


@pytest.mark.parametrize(
    ("interval", "claimed", "word"),
    [
        ((-2.0, -1.0), -1.5, "reproduced"),
        ((-3.0, -2.0), -1.5, "direction holds"),
        ((-2.0, 0.1), -1.5, "undecided"),  # holds the claim, and zero too
        ((0.5, 2.0), -1.5, "direction reversed"),
        ((0.2, 0.9), 0.6, "reproduced"),
        ((-0.9, -0.2), 0.6, "direction reversed"),
    ],
)
def test_magnitude(interval, claimed, word):
    assert verdicts.magnitude(interval, claimed)[0] == word


@pytest.mark.parametrize(("interval", "word"), [((0.1, 2), "reproduced"), ((-0.1, 2), "undecided"), ((-2, -0.1), "direction reversed")])
def test_superiority(interval, word):
    assert verdicts.superiority(interval)[0] == word


@settings(deadline=None)  # a busy machine is no fault
@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(-3, 3).filter(lambda x: abs(x) > 0.01))
def test_turning_a_comparison_round_changes_no_verdict(low, width, claimed):
    interval = (low, low + width)
    turned = (-interval[1], -interval[0])
    assert verdicts.magnitude(interval, claimed)[0] == verdicts.magnitude(turned, -claimed)[0]
    assert verdicts.equality(interval)[0] == verdicts.equality(turned)[0]


def test_a_cell_without_a_number_is_an_error():
    with pytest.raises(ValueError, match="no number"):
        verdicts.printed_number("n/a")
