"""Models that appear, change and go while requests wait and run."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason, Settle
from batcher.core.events import BatchProgress, InstanceUp, ModelRemoved, Timings
from batcher.core.requests.refusals import UNAVAILABLE_RETRY_NS
from batcher.core.settings import Adaptive

OK = (Outcome.OK, Reason.NONE)


@pytest.fixture
def running(play):
    """Requests 1 to 4 run in batch 1; 5, 6 and 7 wait."""
    play.fixed(max_rows=4)
    play.up()
    play.arrive(1, 2, 3, 4, 5, 6, 7)
    return play


def test_new_settings_hold_for_waiting_requests(running):
    running.fixed(max_rows=2)

    assert running.batches(running.done(1, 1, 2, 3, 4)) == [[5, 6]]


def test_a_new_policy_is_asked_at_once(play):
    play.fixed(delay=10)
    play.up()
    play.arrive(1, 2)

    assert play.batches(play.none()) == [[1]]


def test_smaller_limits_leave_running_batches_alone(running):
    running.fixed(max_rows=1)

    assert running.ended(running.done(1, 1, 2, 3, 4)) == dict.fromkeys([1, 2, 3, 4], OK)


def test_smaller_queue_bounds_refuse_new_requests_only(running):
    running.fixed(max_rows=4, max_requests=1)

    assert running.ended(running.arrive(8)) == {8: (Outcome.REJECTED, Reason.QUEUE_REQUESTS)}
    assert running.batches(running.done(1, 1, 2, 3, 4)) == [[5, 6, 7]]


def test_a_removed_model_refuses_its_queue_and_finishes_its_batches(running):
    assert running.feed(ModelRemoved("m")) == [
        Settle((5, 6, 7), Outcome.REJECTED, Reason.MODEL_REMOVED, UNAVAILABLE_RETRY_NS)
    ]
    assert running.ended(running.done(1, 1, 2, 3, 4)) == dict.fromkeys([1, 2, 3, 4], OK)


def test_a_removed_model_is_unknown(running):
    running.feed(ModelRemoved("m"))

    assert running.ended(running.arrive(8)) == {8: (Outcome.REJECTED, Reason.UNKNOWN_MODEL)}


def test_its_requests_no_longer_expire(running):
    running.arrive(8, expires=10)
    running.feed(ModelRemoved("m"))

    assert running.wakeup is None
    assert running.feed(at=20) == []


def test_a_request_of_a_removed_model_may_still_be_cancelled(running):
    running.feed(ModelRemoved("m"))

    assert running.ended(running.cancel(1)) == {1: (Outcome.CANCELLED, Reason.CALLER_CANCELLED)}


def test_a_model_may_come_back_while_its_old_batches_run(running):
    running.feed(ModelRemoved("m"))
    running.none()
    running.arrive(8)

    commands = running.done(1, 1, 2, 3, 4)

    assert running.ended(commands) == dict.fromkeys([1, 2, 3, 4], OK)
    assert running.batches(commands) == [[8]]


def test_removing_an_unknown_model_changes_nothing(play):
    assert play.feed(ModelRemoved("?")) == []


def test_an_instance_may_be_up_before_its_model(play):
    play.up()
    play.none()

    assert play.batches(play.arrive(1)) == [[1]]


def test_an_own_time_longer_than_the_batch_was_away_counts_as_that(play):
    play.model("m", Adaptive(), 8, target=50)
    play.feed(InstanceUp("i", 1, "m", "d", profile=((1, 10 * MILLISECOND),)))
    for n in range(1, 6):
        at = 20 * n
        play.arrive(n, at=at)
        wrong = Timings(at * MILLISECOND, at * MILLISECOND, (at + 5_000) * MILLISECOND)
        play.feed(BatchProgress(n, (n,), timings=wrong), at=at + 10)

    assert play.scheduler.models["m"].times[()].curve[1] == pytest.approx(10 * MILLISECOND)
