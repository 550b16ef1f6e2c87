"""What contradicts what is known is ignored: a report that is late, twice, or of nothing."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    DeviceConfigured,
    Failure,
    FailureCause,
    InstanceDown,
    InstanceDraining,
    InstanceUp,
    ModelRemoved,
    RepliesTook,
    RequestCancelled,
    Timings,
)
from batcher.core.history import InvalidTransition
from batcher.testing.invariants import validate

UNKNOWN, INPUT = FailureCause.UNKNOWN, FailureCause.INPUT

NOTHING_KNOWN = [
    BatchProgress(7, (1,)),
    BatchProgress(7, (), error=UNKNOWN),
    BatchProgress(0, (1, 1), (Failure(1, INPUT),), last=False),
    RequestCancelled(99, CancelCause.DEADLINE),
    RequestCancelled(-1, CancelCause.CANCELLED),
    RepliesTook("?", 1, 1),
    InstanceUp("i", 0, "m", "d"),
    InstanceUp("i", 1, "m", "other", 9),
    InstanceDown("i", 2),
    InstanceDown("?", 1),
    InstanceDraining("i", 0),
    ModelRemoved("?"),
]


@pytest.fixture
def busy(play):
    """Requests 1 and 2 run in batch 1, request 3 waits."""
    play.fixed(max_rows=2)
    play.up()
    play.arrive(1, 2)
    play.arrive(3)
    return play


@pytest.mark.parametrize("event", NOTHING_KNOWN, ids=repr)
def test_an_event_about_something_unknown_changes_nothing(busy, event):
    before = busy.scheduler.snapshot()

    assert busy.feed(event) == []
    assert busy.scheduler.snapshot() == before
    validate(busy.scheduler)


@pytest.mark.parametrize(
    "event",
    [
        BatchProgress(1, (1, 1, 3, 99, 2)),
        BatchProgress(1, (1, 2), (Failure(1, INPUT), Failure(3, INPUT), Failure(99, INPUT))),
        BatchProgress(1, (1, 2), timings=Timings(9, 8, 7)),
        BatchProgress(1, (1, 2), timings=Timings(-1, -(2**63), 2**63)),
    ],
    ids=repr,
)
def test_a_report_counts_once_and_for_its_own_batch(busy, event):
    ended = busy.ended(busy.feed(event))

    assert set(ended) == {1, 2}
    assert 3 in busy.scheduler.live
    validate(busy.scheduler)


def test_an_event_that_comes_twice_counts_once(busy):
    twice = [BatchProgress(1, (1, 2)), BatchProgress(1, (1, 2))]
    assert set(busy.ended(busy.feed(*twice))) == {1, 2}
    cancel = RequestCancelled(3, CancelCause.CANCELLED)
    assert set(busy.ended(busy.feed(cancel, cancel))) == {3}
    down = InstanceDown("i", 1)
    busy.feed(down, down, BatchProgress(2, (3,)))
    validate(busy.scheduler)


def test_a_report_of_a_batch_whose_instance_is_gone_is_ignored(busy):
    assert set(busy.ended(busy.feed(InstanceDown("i", 1), BatchProgress(1, (1, 2))))) == {1, 2}
    busy.up(incarnation=2)
    assert busy.feed(BatchProgress(1, (3,))) == []
    assert 3 in busy.scheduler.live


def test_a_time_that_goes_back_counts_as_the_latest_one(busy):
    busy.feed(at=10)
    assert busy.scheduler.handle([BatchProgress(1, (1, 2))], 3 * MILLISECOND)
    assert busy.scheduler.now_ns == 10 * MILLISECOND
    validate(busy.scheduler)


def test_a_device_with_a_limit_of_none_runs_nothing_until_it_is_raised(busy):
    busy.feed(DeviceConfigured("d", 0))
    assert busy.batches(busy.done(1, 1, 2)) == []
    assert busy.batches(busy.feed(DeviceConfigured("d", 1))) == [[3]]


def test_a_request_that_arrives_twice_is_an_invalid_transition_and_changes_nothing(busy):
    before = busy.scheduler.snapshot()
    with pytest.raises(InvalidTransition, match="request 3 arrived, but is live"):
        busy.arrive(3)
    assert busy.scheduler.snapshot() == before
