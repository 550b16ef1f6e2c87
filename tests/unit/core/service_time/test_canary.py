"""What runs although it is predicted to be late."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.service_time.canary import (
    CANARY_NS,
    CANARY_PART,
    UNREACHABLE_BURST,
    UNREACHABLE_PART,
    Canaries,
)
from batcher.core.service_time.estimator import ServiceTimes

TAKES_NS = 40 * MILLISECOND


@pytest.mark.parametrize(
    ("quiet", "apart_ns"), [(True, CANARY_NS), (False, int(TAKES_NS / CANARY_PART))]
)
def test_one_is_let_in_now_and_then(quiet, apart_ns):
    probes = Canaries()
    assert probes.let_in(TAKES_NS, 5, quiet=quiet) == 5
    assert probes.let_in(TAKES_NS, 6, quiet=quiet) == 5 + apart_ns
    assert probes.let_in(TAKES_NS, 5 + apart_ns, quiet=quiet) == 5 + apart_ns
    assert probes.probed_ns == 5 + apart_ns


def test_a_batch_of_as_many_rows_shows_it_too():
    probes = Canaries(refused_rows=4)
    probes.began(3, 10)
    assert (probes.tried_ns, probes.probed_ns, probes.only_canaries) == (10, None, False)
    probes.began(4, 20)
    assert (probes.tried_ns, probes.probed_ns, probes.only_canaries) == (20, 20, True)


def test_it_is_untried_until_a_batch_begins():
    probes = Canaries()
    assert probes.untried(0)
    probes.began(1, 10)
    assert not probes.untried(9)
    assert probes.untried(10)


def test_out_of_reach_a_few_come_at_once_and_then_a_part_of_the_time():
    probes = Canaries()
    apart_ns = int(TAKES_NS / UNREACHABLE_PART)
    now_ns = SECOND
    let_in = [probes.let_in_late(TAKES_NS, now_ns, quiet=False) for _ in range(9)]
    assert sum(from_ns <= now_ns for from_ns in let_in) == UNREACHABLE_BURST + 1
    assert let_in[-1] == now_ns + apart_ns
    assert probes.let_in_late(TAKES_NS, now_ns, quiet=True) == now_ns


def test_they_are_captured_with_the_times_of_their_bucket():
    times = ServiceTimes(8)
    times.canaries = Canaries(3, 2, 5, 7)
    assert ServiceTimes.restored(times.capture()).canaries == Canaries(3, 2, 5, 7)
