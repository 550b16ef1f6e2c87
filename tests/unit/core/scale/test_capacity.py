"""What slots can serve inside the targets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import MILLISECOND, SECOND
from batcher.core.scale.capacity import flow, times_served
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import Adaptive, ModelSettings, NoBatching


def of(rate_s, base=5, row=1, most=32, target=None, policy=None):
    """A flow of so many rows a second; times in milliseconds."""
    times = ServiceTimes(most)
    times.seed([(rows, (base + row * rows) * MILLISECOND) for rows in range(1, most + 1)])
    target_ns = None if target is None else target * MILLISECOND
    return flow(
        rate_s / SECOND, times, ModelSettings(most, policy or Adaptive(), target_ns=target_ns)
    )


def capacity(*flows, slots=1):
    """Rows a second."""
    return sum(each.rate for each in flows) * SECOND * times_served(flows, slots)


@pytest.mark.parametrize(
    ("target", "rows_a_second"),
    [
        (None, 32_000 / 37),  # full batches
        (74, 32_000 / 37),  # two of them fit
        (40, 15_000 / 20),  # two of 20 ms fit, which have 15 rows
        (13, 1_500 / 6.5),  # between two sizes
        (12, 1_000 / 6),
        (5, 32_000 / 37),  # every request is late
    ],
)
def test_a_request_waits_for_the_batch_before_it(target, rows_a_second):
    assert capacity(of(100, target=target)) == pytest.approx(rows_a_second, rel=0.01)


def test_it_does_not_depend_on_what_is_offered():
    found = [capacity(of(rate, target=40)) for rate in (1, 100, 5_000)]
    assert found == pytest.approx([750] * 3, rel=0.01)


def test_slots_add_up():
    assert capacity(of(100, target=40), slots=2) > 1.9 * capacity(of(100, target=40))


def test_models_on_a_device_wait_for_each_other():
    # Each cycle has a batch of both, and one more: 3 * (5 ms + b) = 60 ms.
    both = capacity(of(100, target=60), of(100, target=60))
    assert both == pytest.approx(30_000 / 40, rel=0.01)
    assert both < capacity(of(200, target=60))


def test_without_batching_each_request_costs_what_it_costs_alone():
    assert capacity(of(100, policy=NoBatching())) == pytest.approx(1_000 / 6)


@given(
    rate=st.floats(0.01, 10_000),
    base=st.integers(0, 20),
    row=st.integers(1, 5),
    target=st.integers(1, 500),
    slots=st.integers(1, 4),
    factor=st.floats(1.01, 10),
)
def test_load_is_in_proportion_to_what_is_offered(rate, base, row, target, slots, factor):
    once, more = (of(each, base, row, target=target) for each in (rate, rate * factor))
    assert times_served([once], slots) == pytest.approx(
        factor * times_served([more], slots), rel=0.01
    )


@given(target=st.integers(30, 500), more=st.integers(0, 200), rate=st.floats(1, 1000))
def test_a_longer_target_serves_no_less(target, more, rate):
    short, long = (capacity(of(rate, target=each)) for each in (target, target + more))
    assert long >= 0.99 * short
