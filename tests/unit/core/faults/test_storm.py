"""When failures are a storm, and when it is over."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Part, Reason
from batcher.core.events import FailureCause
from batcher.core.faults.bisection import MAX_BISECTED, Bisections
from batcher.core.faults.storm import STORM_BATCHES, STORM_NS, STORM_SHARE, STORM_WINDOW_NS

OK = (Outcome.OK, Reason.NONE)
UNKNOWN = (Outcome.FAILED, Reason.UNKNOWN_FAILURE)


@pytest.mark.parametrize(("slots", "storms"), [(1, True), (2, False)])
def test_bisections_that_take_half_of_the_instances_are_a_storm(slots, storms):
    bisections = Bisections()
    parts = (Part(1, 0, 1), Part(2, 0, 1))
    assert bisections.begin(1, parts, (), FailureCause.UNKNOWN, 0)
    bisections.start(bisections.suspect_groups[0], 1.01 * STORM_SHARE * STORM_WINDOW_NS, slots, 0)
    assert (bisections.storm.until_ns is not None) == storms


def test_bisections_of_long_ago_do_not_count():
    bisections = Bisections()
    for batch in range(6):
        parts = (Part(2 * batch, 0, 1), Part(2 * batch + 1, 0, 1))
        now_ns = int(3 * STORM_WINDOW_NS * batch)
        assert bisections.begin(batch, parts, (), FailureCause.UNKNOWN, now_ns)
        bisections.start(
            bisections.suspect_groups[0], 0.9 * STORM_SHARE * STORM_WINDOW_NS, 1, now_ns
        )
    assert bisections.storm.until_ns is None


def test_too_many_bisected_batches_at_once_are_a_storm():
    bisections = Bisections()
    for batch in range(MAX_BISECTED + 1):
        parts = (Part(2 * batch, 0, 1), Part(2 * batch + 1, 0, 1))
        begun = bisections.begin(batch, parts, (), FailureCause.UNKNOWN, 0)
        assert begun == (batch < MAX_BISECTED)
    assert bisections.storm.until_ns == STORM_NS


def test_bisections_stop_on_a_device_that_fails_every_batch(bursts):
    world = bursts(set(range(10_000)), max_rows=32)
    at_ns = MILLISECOND
    for burst in range(40):
        ends = world.burst(100 * burst, 32, at_ns)
        assert set(ends.values()) == {UNKNOWN}
        at_ns = world.scheduler.now_ns
    assert world.storms == [False]
    assert world.scheduler.observe(0).models[0].storm
    assert world.extra <= (STORM_BATCHES + 1) * 12


def test_a_storm_is_over_once_batches_succeed(bursts):
    world = bursts(set(range(10_000)), max_rows=32)
    for burst in range(STORM_BATCHES):
        world.burst(100 * burst, 33, world.scheduler.now_ns)
    assert world.storms == [False]
    before = world.extra
    world.failing = {10_001}

    ends = world.burst(10_000, 32, world.scheduler.now_ns)
    assert (ends[10_001], world.extra) == (UNKNOWN, before)
    later_ns = world.scheduler.now_ns + STORM_NS
    world.failing = {11_001}
    ends = world.burst(11_000, 33, later_ns)
    assert list(ends.values()).count(OK) == 32
    assert world.storms == [False, True]
