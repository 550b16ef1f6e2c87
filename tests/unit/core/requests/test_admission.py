"""Which requests may enter a queue: every bound, at its edge, and the refusal that follows."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason, Settle
from batcher.core.events import InstanceUp, ModelConfigured
from batcher.core.requests.refusals import QUEUE_FULL_RETRY_NS, UNAVAILABLE_RETRY_NS
from batcher.core.settings import Adaptive, ModelSettings, NoBatching, QueueLimits


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


def test_max_batches_per_request(busy):
    play = busy(max_batches_per_request=2)

    assert play.arrive(1, rows=8) == []
    assert play.arrive(2, rows=9) == refused(2, Reason.TOO_MANY_ROWS, None)


def test_more_rows_than_may_wait_at_all_can_never_be_served(busy):
    play = busy(max_rows=5)

    assert play.arrive(1, rows=6) == refused(1, Reason.TOO_MANY_ROWS, None)
    assert play.arrive(2, rows=5) == []


def test_more_bytes_than_may_wait_at_all_can_never_be_served(busy):
    play = busy(max_bytes=100)

    assert play.arrive(1, nbytes=101) == refused(1, Reason.TOO_MANY_BYTES, None)
    assert play.arrive(2, nbytes=100) == []


def test_running_requests_do_not_count(busy):
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


def test_a_cancellation_frees_room(busy):
    play = busy(max_requests=1)
    play.arrive(1)
    play.cancel(1)

    assert play.arrive(2) == []


def test_an_expiry_frees_room_even_when_the_timer_is_late(busy):
    play = busy(max_requests=1)
    play.arrive(1, expires=10)

    assert play.arrive(2, at=11) == [Settle((1,), Outcome.EXPIRED, Reason.CALLER_DEADLINE)]


def test_a_request_that_has_expired_on_arrival_takes_no_room(busy):
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


class TestADeadlineThatOneBatchAloneCannotMeet:
    """One row takes 6 ms, two 7, eight 13 ms; the target is 50 ms."""

    TOO_SHORT = (Outcome.EXPIRED, Reason.DEADLINE_TOO_SHORT)
    LATE = (Outcome.REJECTED, Reason.PREDICTED_LATE)

    @pytest.fixture
    def measured(self, play):
        """Request 0 runs until 13 ms."""
        play.model("m", Adaptive(), 8, target=50)
        profile = tuple((rows, (5 + rows) * MILLISECOND) for rows in range(1, 9))
        play.feed(InstanceUp("i", 1, "m", "d", profile=profile))
        play.arrive(0, rows=8)
        return play

    def end(self, play, request_id, **what):
        """How a request ended at once, and when it may come again; None where it did not."""
        commands = play.arrive(request_id, **what)
        return [(c.outcome, c.reason, c.retry_after_ns) for c in commands if type(c) is Settle]

    def test_expires_at_once_whatever_else_runs(self, measured):
        play = measured
        assert self.end(play, 1, at=2, expires=7) == [(*self.TOO_SHORT, None)]
        play.done(1, 0, at=13)
        assert self.end(play, 2, at=20, expires=25) == [(*self.TOO_SHORT, None)]
        assert self.end(play, 3, at=20, expires=26) == []

    def test_a_prediction_alone_is_no_measurement(self, measured):
        """Two rows are predicted to take 7 ms; a batch has taken 6 ms, and no other instance is busy."""
        play = measured
        play.done(1, 0, at=13)
        assert self.end(play, 1, at=20, rows=2, expires=25) == [(*self.TOO_SHORT, None)]
        assert self.end(play, 2, at=20, rows=2, expires=26) == []

    def test_a_deadline_that_only_running_batches_prevent_is_worth_a_retry(self, measured):
        [(*how, retry_ns)] = self.end(measured, 1, at=2, expires=15)
        assert tuple(how) == self.LATE
        assert retry_ns is not None


@pytest.mark.parametrize(
    ("priority", "level"), [(0, 2), (1, 1), (3, 3), (4, 3), (2**63, 3), (-1, 2), (-(2**63), 2)]
)
def test_a_priority_that_is_no_level_is_the_nearest_or_the_default(busy, priority, level):
    play = busy(priority_levels=3, default_priority=2)
    assert play.scheduler.models["m"].level(priority) == level
