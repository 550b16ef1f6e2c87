"""How evenly rows arrive says which part of the highest rate can be served in time."""

from __future__ import annotations

import random

import pytest

from batcher.clock import SECOND
from batcher.core.scale.arrivals import LEAST, MOST, Evenness


def learned(gaps, rows=40, seconds=600, each=1):
    evenness = Evenness()
    evenness.fold(rows, 0)
    now, next_fold = 0.0, 5.0
    while now < seconds:
        now += gaps()
        evenness.rows += each
        if evenness.rows >= evenness.block_rows:
            evenness.block(int(now * SECOND))
        if now >= next_fold:
            evenness.fold(rows, int(now * SECOND))
            next_fold = now + 5.0
    return evenness


def poisson(rate, seed=1):
    draw = random.Random(seed)
    return lambda: draw.expovariate(rate)


def test_a_poisson_stream_is_what_is_expected_of_any():
    before = learned(poisson(400), seconds=0).part()
    assert before == pytest.approx(0.88, abs=0.03)
    assert learned(poisson(400)).part() == pytest.approx(before, abs=0.03)


def test_it_is_the_same_at_any_rate():
    parts = [learned(poisson(rate)).part() for rate in (100, 400, 1200)]
    assert max(parts) - min(parts) < 0.04


def test_even_arrivals_leave_all_and_bursts_less():
    even = learned(lambda: 1 / 400)
    draw = random.Random(2)
    bursty = learned(lambda: draw.gammavariate(1 / 9, 9 / 400))
    assert even.part() > 0.95
    assert 0.4 < bursty.part() < 0.75


def test_smaller_blocks_leave_less():
    parts = [learned(poisson(400), rows=rows).part() for rows in (5, 40, 400)]
    assert parts == sorted(parts)
    assert 0 < parts[0] < parts[2] <= 1


def test_a_pause_is_no_burst():
    draw, asked = random.Random(3), [0]

    def gaps():
        asked[0] += 1
        return 200.0 if asked[0] == 100_000 else draw.expovariate(400)

    assert learned(gaps).part() == pytest.approx(learned(poisson(400)).part(), abs=0.03)


def test_one_burst_is_of_no_account():
    draw, asked = random.Random(4), [0]

    def gaps():
        asked[0] += 1
        return 0.0 if 20_000 <= asked[0] < 20_400 else draw.expovariate(400)

    found = learned(gaps, seconds=100).part()
    assert found == pytest.approx(learned(poisson(400), seconds=100).part(), abs=0.05)


def test_requests_larger_than_a_block_are_counted_by_their_rows():
    evenness = learned(poisson(50), rows=2, each=8)
    assert 0 < evenness.part() <= 1


def test_memory_is_bounded_however_fast_blocks_come():
    evenness = learned(poisson(100_000), rows=2, seconds=4.9)
    assert len(evenness.spans) == MOST


def test_all_at_one_moment_says_nothing():
    evenness = learned(lambda: 1e-4, rows=2, seconds=0.5)
    evenness.spans = [0.0] * 40
    evenness.fold(2, 100 * SECOND)
    assert 0 < evenness.part() <= 1


def test_blocks_that_take_the_mean_but_for_rounding_are_counted():
    evenness = Evenness()
    evenness.fold(40, 0)
    for number in range(1, LEAST + 1):
        evenness.rows += 41
        evenness.block(number * 1_001_335)  # the mean of what they took is rounded up
    evenness.fold(40, 10 * SECOND)
    assert evenness.seen == LEAST
