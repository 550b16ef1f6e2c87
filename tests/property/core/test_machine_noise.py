"""Stalls of the machine around a device whose own time is steady do not change what is known of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.clock import MILLISECOND, SECOND
from batcher.core.events import InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.service_time.drift import JUMP, JUMP_SAMPLES
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.simulation.engine.stalls import StalledDriver, Stalls

LARGEST = 8
GAP_NS = MILLISECOND // 4


def own_ns(rows):
    return (5 + rows) * MILLISECOND


def apart(spells):
    """(gap, length) pairs in milliseconds as spells that follow each other."""
    found, at_ns = [], SECOND
    for gap_ms, length_ms in spells:
        start_ns = at_ns + gap_ms * MILLISECOND
        at_ns = start_ns + length_ms * MILLISECOND
        found.append((start_ns, at_ns))
    return found


SPELLS = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 200)), max_size=20).map(apart)


def played(stalls, gaps_ms, *, prefetches):
    """The service times after arrivals that are so far apart, with these stalls."""

    def run(dispatch, from_ns):
        rows = sum(part.stop - part.start for part in dispatch.parts)
        return from_ns, from_ns + own_ns(rows)

    scheduler = Scheduler()
    driver = StalledDriver(scheduler, run, GAP_NS, stalls, observe=lambda _at, _commands: None)
    profile = tuple((rows, own_ns(rows)) for rows in range(1, LARGEST + 1))
    policy = Adaptive(limit_ns=SECOND)
    driver.step(
        [
            ModelConfigured("m", ModelSettings(LARGEST, policy, QueueLimits(), 50 * MILLISECOND)),
            InstanceUp("i", 1, "m", "d", 1, profile, prefetches=prefetches),
        ],
        0,
    )
    at_ns, events = SECOND, []
    for place, gap_ms in enumerate(gaps_ms):
        at_ns += gap_ms * MILLISECOND
        events.append((at_ns, RequestArrived(place, "m", 1, 10, (), "", at_ns)))
    driver.run(events)
    return scheduler.models["m"].times[()]


@given(
    loop=SPELLS,
    given_late=SPELLS,
    heard_late=SPELLS,
    gaps_ms=st.lists(st.integers(0, 60), min_size=30, max_size=80),
    prefetches=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_stalls_around_the_device_leave_curve_and_drift_exact(
    loop, given_late, heard_late, gaps_ms, prefetches
):
    stalls = Stalls(loop=loop, dispatch=given_late, reply=heard_late)
    times = played(stalls, gaps_ms, prefetches=prefetches)
    assert times.drift == 1.0
    known = [each - times.handling_ns for each in times.curve[1:]]
    assert known == pytest.approx([own_ns(rows) for rows in range(1, LARGEST + 1)])
    assert times.fastest_ns == own_ns(1)
    assert 1.0 <= times.margin <= JUMP


@given(
    stalled=st.lists(st.booleans(), min_size=1, max_size=200),
    lengths=st.lists(st.floats(JUMP, 40.0), min_size=200, max_size=200),
    rows=st.integers(1, LARGEST),
)
def test_stalls_of_the_device_that_are_not_three_in_a_row_leave_them_exact(stalled, lengths, rows):
    """Each stalled batch takes `JUMP` to 40 times as long; all have the same number of rows."""
    times = ServiceTimes(LARGEST)
    times.seed([(size, own_ns(size)) for size in range(1, LARGEST + 1)])
    at_ns, in_a_row = 0, 0
    for stalls, length in zip(stalled, lengths, strict=False):
        in_a_row = in_a_row + 1 if stalls else 0
        stalls_now = stalls and in_a_row % JUMP_SAMPLES != 0
        took_ns = int(own_ns(rows) * length) + 1 if stalls_now else own_ns(rows)
        at_ns += took_ns
        times.observe(rows, took_ns, at_ns)
        assert times.drift == 1.0
        assert list(times.curve) == [0.0] + [own_ns(size) for size in range(1, LARGEST + 1)]
        assert 1.0 <= times.margin <= JUMP


@given(st.lists(st.floats(1.0, 40.0), max_size=100))
def test_one_batch_as_before_and_some_in_a_row_end_what_stalls_have_done(lengths):
    """Whatever stalls there were, in any row: when they end, the prediction is right again."""
    times = ServiceTimes(LARGEST)
    times.seed([(size, own_ns(size)) for size in range(1, LARGEST + 1)])
    at_ns = 0
    for length in lengths:
        at_ns += int(own_ns(4) * length)
        times.observe(4, int(own_ns(4) * length), at_ns)
    for _ in range(100):
        at_ns += own_ns(4)
        times.observe(4, own_ns(4), at_ns)
    assert times.curve[4] == pytest.approx(own_ns(4), rel=0.05)
