"""Sizes that batches run with: what rows cost then, and where a batch is cut back to a size."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import MILLISECOND
from batcher.core.batch_sizes import BatchSizes, filled_rows, largest_up_to
from batcher.core.batching.cutting import cut, filling
from batcher.core.commands import Dispatch
from batcher.core.events import InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings
from batcher.testing.invariants import validate

SIZES = (1, 2, 4, 8, 16)
some_sizes = st.sets(st.integers(1, 40), max_size=6).map(lambda found: tuple(sorted(found)))


def line(base_ms, row_ms):
    return lambda rows: round((base_ms + row_ms * rows) * MILLISECOND)


def measured(time, sizes=SIZES, max_rows=16):
    times = ServiceTimes(max_rows, None, BatchSizes(sizes, max_rows))
    times.seed([(size, time(size)) for size in sizes])
    return times


# Rounding


@given(st.integers(1, 60), some_sizes)
def test_rows_are_filled_up_to_the_least_size_that_holds_them(rows, sizes):
    filled = filled_rows(rows, sizes)
    assert filled == min([size for size in sizes if size >= rows], default=rows)
    assert filled_rows(filled, sizes) == filled


@given(st.integers(1, 60), some_sizes)
def test_the_largest_size_up_to_a_bound(most, sizes):
    found = largest_up_to(most, sizes)
    if not sizes:
        assert found == most
    elif most < sizes[0]:
        assert found == sizes[0]
    else:
        assert found == max(size for size in sizes if size <= most)
        assert filled_rows(found, sizes) == found


@given(st.integers(1, 40), some_sizes)
def test_no_batch_runs_with_more_rows_than_the_largest(max_rows, sizes):
    found = BatchSizes(sizes, max_rows)
    assert len(found.executed) == max_rows + 1
    for rows in range(1, max_rows + 1):
        assert rows <= found.executed[rows] <= max_rows
        assert found.executed[rows] == min(filled_rows(rows, found.sizes), max_rows)
        below = found.below(rows)
        assert below < rows
        assert (below == 0) == (rows in found.sizes or rows < found.sizes[0])
        assert not below or below in found.sizes


@given(st.integers(1, 40), some_sizes, st.floats(0, 50), st.floats(0.01, 10))
def test_apart_never_takes_longer_than_together(max_rows, sizes, base_ms, row_ms):
    """Whatever is said to take no longer apart does so: laid out batch by batch."""
    found, time = BatchSizes(sizes, max_rows), line(base_ms, row_ms)
    curve = [0, *(time(found.executed[rows]) for rows in range(1, max_rows + 1))]
    cheapest = [0.0]
    for rows in range(1, max_rows + 1):
        cheapest.append(min(curve[first] + cheapest[rows - first] for first in range(1, rows + 1)))
    for rows in range(1, max_rows + 1):
        assert cheapest[rows] <= found.least_ns(rows, curve) <= curve[rows]
        size = found.below(rows)
        if size and found.apart(size, rows, curve):
            assert curve[size] + cheapest[rows - size] <= curve[rows]


# What rows take


def test_rows_take_what_the_next_size_takes():
    time = line(5, 1)
    times = measured(time)
    assert list(times.curve) == [0, *(time(filled_rows(rows, SIZES)) for rows in range(1, 17))]


@given(some_sizes, st.lists(st.tuples(st.integers(1, 24), st.integers(1, 9)), max_size=60))
def test_the_curve_is_a_step_function_whatever_was_seen(sizes, batches):
    times = ServiceTimes(24, None, BatchSizes(sizes, 24))
    for place, (rows, took_ms) in enumerate(batches):
        times.observe(rows, took_ms * MILLISECOND, (place + 1) * 10 * MILLISECOND)
    twin = ServiceTimes(24, None, BatchSizes(sizes, 24))
    twin.restore(times.capture())
    assert list(twin.curve) == list(times.curve)
    if not batches:
        return
    executed = BatchSizes(sizes, 24).executed
    assert all(low <= high for low, high in pairwise(times.curve))
    for rows in range(1, 25):
        assert times.curve[rows] == times.curve[executed[rows]]


def test_what_a_batch_took_is_learned_for_its_size():
    times = ServiceTimes(16, None, BatchSizes(SIZES, 16))
    for moment in range(1, 5):
        times.observe(5, 9 * MILLISECOND, moment * 100 * MILLISECOND)
    assert [times.curve[rows] for rows in (5, 6, 7, 8)] == [9 * MILLISECOND] * 4
    for moment in range(5, 9):
        times.observe(8, 9 * MILLISECOND, moment * 100 * MILLISECOND)
    assert times.margin == 1.0
    assert times.steady > 0


def test_other_sizes_apply_to_what_is_known():
    times = measured(line(5, 1))
    times.resize(8, BatchSizes((2, 8), 8))
    assert [times.curve[rows] / MILLISECOND for rows in (1, 2, 3, 8)] == [7, 7, 13, 13]
    times.resize(8)
    assert times.curve[3] < times.curve[4] == 9 * MILLISECOND


@dataclass
class Waiting:
    rows: int


@pytest.mark.parametrize(
    ("each", "most", "runs"),
    [([1] * 5, 3, 2), ([1] * 7, 6, 4), ([1] * 5, None, 5), ([3, 1], 2, 3), ([1] * 3, 3, 2)],
)
def test_while_requests_fail_a_batch_has_no_more_than_it_should(each, most, runs):
    """5 rows cost what 8 cost, but are less likely to fail."""
    take = [Waiting(rows) for rows in each]
    times = measured(line(20, 1)) if most is None else measured(line(0.1, 1))
    fewer, rows = cut(take, sum(each), times, most)
    assert rows == runs == sum(request.rows for request in fewer)
    assert list(fewer) == take[: len(fewer)]


def test_a_bound_between_sizes_holds_where_rows_cost_little():
    fewer, rows = cut([Waiting(1)] * 8, 8, measured(line(20, 1)), 5)
    assert rows == len(fewer) == 5


# Which rows run together


def dispatched(rows_each, settings, time, sizes=SIZES):
    """The rows of the batch that an idle instance begins with, of what waits."""
    scheduler = Scheduler()
    profile = tuple((size, time(size)) for size in sizes)
    scheduler.handle([ModelConfigured("m", settings), InstanceUp("i", 1, "m", "d", 1, profile)], 0)
    arrived = [
        RequestArrived(number, "m", rows, 0, (), "", 1000) for number, rows in enumerate(rows_each)
    ]
    commands = scheduler.handle(arrived, 1000)
    validate(scheduler)
    (dispatch,) = [each for each in commands if isinstance(each, Dispatch)]
    assert [part.id for part in dispatch.parts] == list(range(len(dispatch.parts)))
    return sum(part.stop - part.start for part in dispatch.parts)


POLICIES = {
    "fixed": ModelSettings(16, FixedWindow(), batch_sizes=SIZES),
    "adaptive": ModelSettings(16, Adaptive(), target_ns=200 * MILLISECOND, batch_sizes=SIZES),
    "no target": ModelSettings(16, Adaptive(), batch_sizes=SIZES),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("waits", "base_ms", "runs"),
    [
        (8, 1, 8),
        (9, 1, 8),  # 9 + 2 ms apart, 17 ms together
        (9, 7, 8),  # 15 + 8 ms apart, 23 ms together: nothing ends later
        (9, 8, 9),
        (12, 1, 8),
        (12, 5, 12),  # 13 + 9 ms apart, 21 ms together
        (15, 1, 15),
        (16, 1, 16),
    ],
)
def test_rows_just_above_a_size_run_as_that_size_and_a_rest(policy, waits, base_ms, runs):
    assert dispatched([1] * waits, POLICIES[policy], line(base_ms, 1)) == runs


def test_no_request_is_cut():
    assert dispatched([3, 3, 3], POLICIES["fixed"], line(0.1, 1)) == 6
    assert dispatched([9], POLICIES["fixed"], line(0.1, 1)) == 9
    assert dispatched([1, 8], POLICIES["fixed"], line(0.1, 1)) == 1


def test_without_sizes_nothing_is_cut():
    settings = ModelSettings(16, FixedWindow())
    assert dispatched([1] * 9, settings, line(0.1, 1)) == 9


@pytest.mark.parametrize(
    ("rows", "room", "filled"), [(5, 3, 3), (5, 4, 3), (5, 11, 11), (8, 1, 0), (3, 1, 1), (8, 8, 8)]
)
def test_rows_of_a_split_request_fill_up_to_a_size(rows, room, filled):
    assert filling(rows, room, measured(line(0.1, 1))) == filled
