"""Curves through measured batch times."""

from __future__ import annotations

import pytest

from batcher.core.service_time.fitting import curve_through, fit_line, isotonic


@pytest.mark.parametrize(
    ("values", "weights", "nearest"),
    [
        ([], [], []),
        ([1.0, 2.0, 3.0], [1, 1, 1], [1.0, 2.0, 3.0]),
        ([3.0, 1.0], [1, 3], [1.5, 1.5]),
        ([1.0, 4.0, 2.0, 3.0], [1, 1, 1, 1], [1.0, 3.0, 3.0, 3.0]),
    ],
)
def test_decreasing_values_are_pooled_by_weight(values, weights, nearest):
    assert isotonic(values, weights) == nearest


def test_a_line_is_fitted_exactly():
    assert fit_line([1, 2, 4], [7.0, 9.0, 13.0]) == pytest.approx((2.0, 5.0))


@pytest.mark.parametrize("times", [[9.0, 5.0], [2.0, 9.0]])
def test_neither_slope_nor_intercept_is_negative(times):
    slope, intercept = fit_line([1, 2], times)
    assert slope >= 0.0
    assert intercept >= 0.0


def test_one_size_alone_is_half_overhead_and_half_rows():
    assert fit_line([4], [8.0]) == (1.0, 4.0)


def test_the_curve_is_linear_between_points_and_follows_the_line_beyond():
    curve = curve_through([2, 4], [6.0, 10.0], 6)
    assert curve == pytest.approx([0.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0])
