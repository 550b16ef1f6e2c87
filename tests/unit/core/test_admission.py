"""Who may enter a queue: every bound, at its edge, with what the caller is told."""

from __future__ import annotations

import pytest

from batcher.core.admission import QUEUE_FULL_RETRY_NS, UNAVAILABLE_RETRY_NS
from batcher.core.commands import Outcome, Reason, Settle
from batcher.core.events import ModelConfigured
from batcher.core.settings import ModelSettings, NoBatching, QueueLimits


def refused(request_id, reason, retry_ns):
    return [Settle((request_id,), Outcome.REJECTED, reason, retry_ns)]


@pytest.fixture
def busy(play):
    """A model whose one instance is busy with request 0: `busy(limits...)`."""

    def configure(**limits):
        play.feed(ModelConfigured("m", ModelSettings(4, NoBatching(), QueueLimits(**limits))))
        play.up()
        play.arrive(0)
        return play

    return configure


def test_max_requests(busy):
    play = busy(max_requests=2)

    assert play.arrive(1, 2) == []
    assert play.arrive(3) == refused(3, Reason.QUEUE_REQUESTS, QUEUE_FULL_RETRY_NS)


def test_max_rows(busy):
    play = busy(max_rows=5)

    assert play.arrive(1, 2, rows=2) == []
    assert play.arrive(3, rows=2) == refused(3, Reason.QUEUE_ROWS, QUEUE_FULL_RETRY_NS)
    assert play.arrive(4, rows=1) == []


def test_max_bytes(busy):
    play = busy(max_bytes=100)

    assert play.arrive(1, nbytes=60) == []
    assert play.arrive(2, nbytes=41) == refused(2, Reason.QUEUE_BYTES, QUEUE_FULL_RETRY_NS)
    assert play.arrive(3, nbytes=40) == []


def test_max_request_batches(busy):
    play = busy(max_request_batches=2)

    assert play.arrive(1, rows=8) == []
    assert play.arrive(2, rows=9) == refused(2, Reason.TOO_MANY_ROWS, None)


def test_what_runs_does_not_count(busy):
    play = busy(max_requests=1)

    assert play.arrive(1) == []
    assert play.arrive(2) == refused(2, Reason.QUEUE_REQUESTS, QUEUE_FULL_RETRY_NS)
    play.done(1, 0)
    assert play.arrive(3) == []


def test_a_burst_is_admitted_up_to_the_bound_before_anything_is_dispatched(play):
    play.fixed(max_rows=4, max_requests=3)
    play.up()

    commands = play.arrive(1, 2, 3, 4)

    assert play.ended(commands) == {4: (Outcome.REJECTED, Reason.QUEUE_REQUESTS)}
    assert play.batches(commands) == [[1, 2, 3]]


def test_room_comes_back_with_a_cancel(busy):
    play = busy(max_requests=1)
    play.arrive(1)
    play.cancel(1)

    assert play.arrive(2) == []


def test_room_comes_back_with_an_expiry_even_when_the_timer_is_late(busy):
    play = busy(max_requests=1)
    play.arrive(1, expires=10)

    assert play.arrive(2, at=11) == [Settle((1,), Outcome.EXPIRED, Reason.CALLER_DEADLINE)]


def test_a_request_that_comes_too_late_takes_no_room(busy):
    play = busy(max_requests=1)

    commands = play.feed(play.request(1, expires=5), play.request(2), at=5)

    assert commands == [Settle((1,), Outcome.EXPIRED, Reason.CALLER_DEADLINE)]


def test_unknown_model(play):
    assert play.arrive(1, model="?") == refused(1, Reason.UNKNOWN_MODEL, None)


def test_no_instance(play):
    play.none()

    assert play.arrive(1) == refused(1, Reason.NO_INSTANCE, UNAVAILABLE_RETRY_NS)


def test_an_instance_of_another_model_does_not_help(play):
    play.none()
    play.none("other")
    play.up(model="other")

    assert play.arrive(1) == refused(1, Reason.NO_INSTANCE, UNAVAILABLE_RETRY_NS)


def test_only_draining_instances(play):
    play.none()
    play.up()
    play.draining()

    assert play.arrive(1) == refused(1, Reason.NO_INSTANCE, UNAVAILABLE_RETRY_NS)


def test_a_refused_request_leaves_nothing_behind(play):
    play.arrive(1)

    assert play.scheduler.live == {}
    assert play.wakeup is None
    assert play.cancel(1) == []
