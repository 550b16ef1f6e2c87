"""What runs although it is predicted to be late."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.service_time.canary import (
    CANARY_INTERVAL_NS,
    CANARY_SHARE,
    UNREACHABLE_BURST,
    UNREACHABLE_SHARE,
    Canaries,
)
from batcher.core.service_time.estimator import ServiceTimes

TAKES_NS = 40 * MILLISECOND


@pytest.mark.parametrize(
    ("no_other_traffic", "apart_ns"),
    [(True, CANARY_INTERVAL_NS), (False, int(TAKES_NS / CANARY_SHARE))],
)
def test_one_is_let_in_now_and_then(no_other_traffic, apart_ns):
    canaries = Canaries()
    assert canaries.admit_canary(TAKES_NS, 5, no_other_traffic=no_other_traffic) == 5
    assert canaries.admit_canary(TAKES_NS, 6, no_other_traffic=no_other_traffic) == 5 + apart_ns
    assert (
        canaries.admit_canary(TAKES_NS, 5 + apart_ns, no_other_traffic=no_other_traffic)
        == 5 + apart_ns
    )
    assert canaries.last_canary_ns == 5 + apart_ns


def test_a_batch_of_as_many_rows_shows_it_too():
    canaries = Canaries(refused_rows=4)
    canaries.batch_started(3, 10)
    assert (canaries.last_batch_ns, canaries.last_canary_ns, canaries.last_was_canary) == (
        10,
        None,
        False,
    )
    canaries.batch_started(4, 20)
    assert (canaries.last_batch_ns, canaries.last_canary_ns, canaries.last_was_canary) == (
        20,
        20,
        True,
    )


def test_it_is_untried_until_a_batch_begins():
    canaries = Canaries()
    assert canaries.no_batch_since(0)
    canaries.batch_started(1, 10)
    assert not canaries.no_batch_since(9)
    assert canaries.no_batch_since(10)


def test_out_of_reach_a_few_come_at_once_and_then_a_part_of_the_time():
    canaries = Canaries()
    apart_ns = int(TAKES_NS / UNREACHABLE_SHARE)
    now_ns = SECOND
    admit_canary = [
        canaries.admit_unreachable(TAKES_NS, now_ns, no_other_traffic=False) for _ in range(9)
    ]
    assert sum(from_ns <= now_ns for from_ns in admit_canary) == UNREACHABLE_BURST + 1
    assert admit_canary[-1] == now_ns + apart_ns
    assert canaries.admit_unreachable(TAKES_NS, now_ns, no_other_traffic=True) == now_ns


def test_they_are_captured_with_the_times_of_their_bucket():
    times = ServiceTimes(8)
    times.canaries = Canaries(3, 2, 5, 7)
    assert ServiceTimes.restored(times.capture()).canaries == Canaries(3, 2, 5, 7)
