"""When failures are a storm, and when it is over."""

from __future__ import annotations

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Part, Reason
from batcher.core.events import FailureCause
from batcher.core.faults.bisection import MAX_BISECTED, STORM_FAILURES, Bisections
from batcher.core.times import LATELY_NS

OK = (Outcome.OK, Reason.NONE)
UNKNOWN = (Outcome.FAILED, Reason.UNKNOWN_FAILURE)


def begin(bisections, batch):
    parts = (Part(2 * batch, 0, 1), Part(2 * batch + 1, 0, 1))
    return bisections.begin(batch, parts, (), FailureCause.UNKNOWN, 0)


def test_many_executions_that_fail_in_a_row_are_a_storm():
    bisections = Bisections()
    for batch in range(STORM_FAILURES - 1):
        assert begin(bisections, batch)
    assert bisections.storm_until_ns is None
    assert not begin(bisections, STORM_FAILURES)
    assert bisections.storm_until_ns == LATELY_NS


def test_failures_between_which_a_batch_succeeds_are_none():
    bisections = Bisections()
    for batch in range(MAX_BISECTED):
        assert begin(bisections, batch)
        assert not bisections.note_success(0)
    assert bisections.storm_until_ns is None


def test_too_many_bisected_batches_at_once_are_a_storm():
    bisections = Bisections()
    for batch in range(MAX_BISECTED + 1):
        assert begin(bisections, batch) == (batch < MAX_BISECTED)
        bisections.note_success(0)
    assert bisections.storm_until_ns == LATELY_NS


def test_bisections_stop_on_a_device_that_fails_every_batch(bursts):
    world = bursts(set(range(10_000)), max_rows=32)
    at_ns = MILLISECOND
    for burst in range(40):
        ends = world.burst(100 * burst, 32, at_ns)
        assert set(ends.values()) == {UNKNOWN}
        at_ns = world.scheduler.now_ns
    assert world.storms == [False]
    assert world.scheduler.observe(0).models[0].storm
    assert world.extra < STORM_FAILURES


def test_a_storm_is_over_once_batches_succeed(bursts):
    world = bursts(set(range(10_000)), max_rows=32)
    while not world.storms:
        world.burst(100 * len(world.dispatches), 33, world.scheduler.now_ns)
    before = world.extra
    world.failing = {10_001}

    ends = world.burst(10_000, 32, world.scheduler.now_ns)
    assert (ends[10_001], world.extra) == (UNKNOWN, before)
    later_ns = world.scheduler.now_ns + LATELY_NS
    world.failing = {11_001}
    ends = world.burst(11_000, 33, later_ns)
    assert list(ends.values()).count(OK) == 32
    assert world.storms == [False, True]
