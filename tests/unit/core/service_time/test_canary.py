"""How often requests run although they are predicted to be late."""

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

EXPECTED_NS = 40 * MILLISECOND


@pytest.mark.parametrize(
    ("no_other_traffic", "apart_ns"),
    [(True, CANARY_INTERVAL_NS), (False, int(EXPECTED_NS / CANARY_SHARE))],
)
def test_one_canary_is_admitted_per_interval_and_share(no_other_traffic, apart_ns):
    canaries = Canaries()

    def from_ns(now_ns):
        return canaries.admit_canary(EXPECTED_NS, now_ns, no_other_traffic=no_other_traffic)

    assert from_ns(5) == 5
    assert from_ns(6) == 5 + apart_ns
    assert from_ns(5 + apart_ns) == 5 + apart_ns
    assert canaries.last_canary_ns == 5 + apart_ns


def test_a_batch_of_at_least_the_refused_rows_counts_as_a_canary():
    canaries = Canaries(refused_rows=4)
    canaries.batch_started(3, 10)
    assert (canaries.last_batch_ns, canaries.last_canary_ns) == (10, None)
    assert not canaries.last_was_canary
    canaries.batch_started(4, 20)
    assert (canaries.last_batch_ns, canaries.last_canary_ns) == (20, 20)
    assert canaries.last_was_canary


def test_no_batch_since_a_moment_before_the_last_one_began():
    canaries = Canaries()
    assert canaries.no_batch_since(0)
    canaries.batch_started(1, 10)
    assert not canaries.no_batch_since(9)
    assert canaries.no_batch_since(10)


def test_requests_out_of_reach_run_in_a_burst_and_then_at_their_share():
    canaries = Canaries()
    apart_ns = int(EXPECTED_NS / UNREACHABLE_SHARE)
    now_ns = SECOND
    from_ns = [
        canaries.admit_unreachable(EXPECTED_NS, now_ns, no_other_traffic=False) for _ in range(9)
    ]
    assert sum(each_ns <= now_ns for each_ns in from_ns) == UNREACHABLE_BURST + 1
    assert from_ns[-1] == now_ns + apart_ns
    assert canaries.admit_unreachable(EXPECTED_NS, now_ns, no_other_traffic=True) == now_ns


def test_the_estimator_captures_them():
    times = ServiceTimes(8)
    times.canaries = Canaries(3, 2, 5, 7)
    assert ServiceTimes.restored(times.capture()).canaries == Canaries(3, 2, 5, 7)
