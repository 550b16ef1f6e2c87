"""The clairvoyant bound against an exhaustive search, and its edges."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from batcher.simulation.compare.optimum import drops_needed, on_time_optimum

LINEAR = [0, 60, 70, 80, 90]


def exhaustive(arrivals, service, target):
    """Any subset of what is left may be the next batch, in any order, at its earliest start."""

    def best(free_at, left):
        most = 0
        for size in range(1, min(len(left), len(service) - 1) + 1):
            for batch in combinations(left, size):
                end = max(free_at, arrivals[batch[-1]]) + service[size]
                if end <= arrivals[batch[0]] + target:
                    rest = tuple(i for i in left if i not in batch)
                    most = max(most, size + best(end, rest))
        return most

    return best(-(10**9), tuple(range(len(arrivals))))


def poisson(seed, count, gap):
    return np.random.default_rng(seed).exponential(gap, count).cumsum().astype(np.int64)


@pytest.mark.parametrize("seed", range(30))
def test_no_search_finds_a_better_schedule(seed):
    rng = np.random.default_rng(seed)
    arrivals = sorted(rng.integers(0, 60 * rng.integers(1, 6), 6).tolist())
    service = [0, *np.cumsum(rng.integers(1, 40, rng.integers(1, 5))).tolist()]
    target = int(rng.integers(20, 200))

    assert on_time_optimum(arrivals, service, target) == exhaustive(arrivals, service, target)


def test_everything_is_served_while_the_device_keeps_up():
    arrivals = list(range(0, 100_000, 100))

    assert on_time_optimum(arrivals, LINEAR, 100) == len(arrivals)


def test_a_batch_waits_for_its_last_request():
    assert on_time_optimum([0, 10], LINEAR, 80) == 2
    assert on_time_optimum([0, 11], LINEAR, 80) == 1


def test_nothing_is_served_when_one_row_alone_misses_the_target():
    assert on_time_optimum([0, 1000], LINEAR, 59) == 0
    assert drops_needed([0, 1000], LINEAR, 59, 1) is None
    assert drops_needed([0, 1000], LINEAR, 59, 2) == 2


def test_nothing_arrived():
    assert on_time_optimum([], LINEAR, 100) == 0


def test_a_slow_small_batch_counts_as_the_faster_larger_one():
    assert on_time_optimum([0], [0, 500, 90], 100) == 1


def test_the_least_number_of_drops_is_what_the_optimum_leaves_out():
    arrivals = poisson(1, 300, 12)
    dropped = len(arrivals) - on_time_optimum(arrivals, LINEAR, 200)
    assert dropped > 100  # so that the band has moved and grown

    assert drops_needed(arrivals, LINEAR, 200, dropped) == dropped
    assert drops_needed(arrivals, LINEAR, 200, dropped - 1) is None


def test_many_requests_within_one_target_widen_the_band():
    arrivals = poisson(2, 2000, 1)
    service = [0, *range(100, 133)]

    # Batches that follow each other without a gap: the device is the bound, bar the ends.
    full = int((arrivals[-1] + 4000) / service[-1]) * 33
    assert full * 0.9 < on_time_optimum(arrivals, service, 4000) <= full


def test_arrivals_out_of_order_are_refused():
    with pytest.raises(ValueError, match="order"):
        on_time_optimum([2, 1], LINEAR, 100)


def test_a_table_without_a_batch_size_is_refused():
    with pytest.raises(ValueError, match="index 1"):
        on_time_optimum([1], [0], 100)


def test_arrivals_may_begin_at_any_time():
    arrivals = poisson(3, 200, 25)

    assert on_time_optimum(arrivals + 10**18, LINEAR, 200) == on_time_optimum(arrivals, LINEAR, 200)
