from __future__ import annotations

import pytest

from batcher.telemetry.live import WINDOW_S, quantile
from batcher.telemetry.live.window import BATCH_BOUNDS

BOUNDS = (1.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("cumulative", "q", "value"),
    [
        ((0, 0, 0, 0), 0.5, None),
        ((10, 10, 10, 10), 0.5, 0.5),  # halfway through the first bucket, which begins at 0
        ((0, 10, 10, 10), 0.5, 1.5),
        ((5, 10, 10, 10), 0.5, 1.0),
        ((5, 5, 10, 10), 0.99, pytest.approx(3.96)),  # an empty bucket in between
        ((0, 0, 0, 3), 0.5, 4.0),  # above all bounds
        ((0, 0, 1, 1), 1.0, 4.0),
    ],
)
def test_quantiles_are_those_of_prometheus(cumulative, q, value):
    assert quantile(BOUNDS, cumulative, q) == value


def test_names_and_sizes():
    assert WINDOW_S == 10
    assert BATCH_BOUNDS[:4] == (1, 2, 4, 8)
