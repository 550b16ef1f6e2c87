"""The plan of a backlog, compared with the best of all plans."""

from __future__ import annotations

import random
from functools import cache

import pytest

from batcher.core.policies.backlog import Plan, Price, plan
from batcher.core.times import TOLERANCE_NS

UNIT = 1_000_000
FREE = Price(0.0, 0.0, 1.0)


def curve(base, each, largest):
    return [0.0] + [float((base + each * rows) * UNIT) for rows in range(1, largest + 1)]


def most_in_time(finish_by, rows, free, times):
    """The most requests that any choice of batches, in order, serves in time."""

    @cache
    def best(position, free_ns):
        if position == len(finish_by):
            return 0
        found = best(position + 1, free_ns)
        total = 0
        for end in range(position, len(finish_by)):
            total += rows[end]
            if total >= len(times):
                break
            done_ns = free_ns[0] + times[total]
            if done_ns > finish_by[position] + TOLERANCE_NS:
                break
            later = tuple(sorted((*free_ns[1:], done_ns)))
            found = max(found, end - position + 1 + best(end + 1, later))
        return found

    return best(0, tuple(sorted(free)))


def served_by_following(finish_by, rows, free, times):
    """How many are served by taking the plan's first step, again and again."""
    finish_by, rows, free = list(finish_by), list(rows), list(free)
    served = 0
    while finish_by:
        before = [0]
        for each in rows:
            before.append(before[-1] + each)
        ones = all(each == 1 for each in rows)
        step = plan(finish_by, None if ones else before, sorted(free), times, times, FREE, 0)
        end = step.drop + step.take
        if not step.take:
            return served
        free.sort()
        done_ns = free[0] + times[sum(rows[step.drop : end])]
        assert done_ns <= finish_by[step.drop] + TOLERANCE_NS
        free[0] = done_ns
        served += step.take
        finish_by, rows = finish_by[end:], rows[end:]
    return served


@pytest.mark.parametrize("seed", range(150))
def test_one_instance_and_single_rows_are_planned_as_well_as_can_be(seed):
    draw = random.Random(seed)
    finish_by = sorted(draw.randint(3, 40) * UNIT for _ in range(draw.randint(1, 9)))
    times = curve(draw.randint(1, 6), draw.randint(1, 3), draw.choice([3, 8]))
    rows = [1] * len(finish_by)
    free = [draw.choice([0, 4]) * UNIT]
    assert served_by_following(finish_by, rows, free, times) == most_in_time(
        finish_by, rows, free, times
    )


@pytest.mark.parametrize("seed", range(100))
def test_several_rows_and_instances_are_planned_nearly_as_well(seed):
    draw = random.Random(seed)
    finish_by = sorted(draw.randint(5, 40) * UNIT for _ in range(draw.randint(1, 7)))
    rows = [draw.randint(1, 3) for _ in finish_by]
    times = curve(draw.randint(1, 6), 1, 8)
    free = [draw.choice([0, 4]) * UNIT for _ in range(draw.choice([1, 2]))]
    best = most_in_time(finish_by, rows, free, times)
    served = served_by_following(finish_by, rows, free, times)
    assert best - 2 <= served <= best


def test_what_cannot_be_in_time_is_given_up():
    times = curve(5, 1, 8)
    step = plan([4 * UNIT, 5 * UNIT, 100 * UNIT], None, [0], times, times, FREE, 0)
    assert (step.drop, step.take) == (2, 1)


def test_nothing_is_taken_when_nothing_can_be_in_time():
    times = curve(5, 1, 8)
    step = plan([1 * UNIT, 2 * UNIT], None, [0], times, times, FREE, 0)
    assert (step.drop, step.take) == (2, 0)


def test_time_that_is_worth_more_than_a_request_is_not_spent_on_it():
    times = curve(1, 4, 8)
    finish_by = [5 * UNIT, 30 * UNIT, 30 * UNIT]
    cheap = plan(finish_by, None, [0], times, times, FREE, 0)
    dear = plan(finish_by, None, [0], times, times, Price(0.5 / UNIT, 0.0, 0.1 * UNIT), 0)
    assert cheap.drop == 0
    assert dear.drop > cheap.drop


def test_a_price_is_flat_before_its_bend_and_a_line_after_it():
    price = Price(2.0, 100.0, 1.0)
    assert price(50.0) == pytest.approx(0.0, abs=1e-9)
    assert price(160.0) - price(150.0) == pytest.approx(20.0)


@pytest.mark.parametrize(("largest", "target", "most"), [(32, 10, 5), (4, 50, 20), (32, 50, 40)])
@pytest.mark.parametrize("count", [1024, 2048])
def test_a_long_backlog_is_planned_nearly_as_well(largest, target, most, count):
    """All are due at once, and only a few can be in time."""
    times = curve(5, 1, largest)
    finish_by = [target * UNIT] * count
    assert served_by_following(finish_by, [1] * count, [0.0], times) >= 0.9 * most


def test_a_large_request_that_cannot_be_in_time_does_not_hide_small_ones():
    times = curve(5, 1, 32)
    finish_by = [10 * UNIT] + [20 * UNIT] * 8
    rows_before = [0, *range(24, 33)]
    assert plan(finish_by, rows_before, (0.0,), times, times, FREE, 0) == Plan(drop=1, take=8)
