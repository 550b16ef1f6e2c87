"""A caller that leaves ends its own request, and nothing else."""

from __future__ import annotations

import pytest

from batcher.core.commands import Outcome, Reason, Settle
from batcher.core.events import BatchProgress, CancelCause, Failure, FailureCause, RequestCancelled

OK = (Outcome.OK, Reason.NONE)


@pytest.fixture
def running(play):
    """Requests 1 and 2 run in batch 1; 3 and 4 wait."""
    play.fixed(max_rows=2)
    play.up()
    play.arrive(1, 2, 3, 4)
    return play


@pytest.mark.parametrize(
    ("cause", "outcome", "reason"),
    [
        (CancelCause.CANCELLED, Outcome.CANCELLED, Reason.CALLER_CANCELLED),
        (CancelCause.DEADLINE, Outcome.EXPIRED, Reason.CALLER_DEADLINE),
    ],
)
@pytest.mark.parametrize("request_id", [1, 3], ids=["running", "waiting"])
def test_it_is_settled_at_once_and_once(running, request_id, cause, outcome, reason):
    assert running.cancel(request_id, cause) == [Settle((request_id,), outcome, reason)]
    assert running.cancel(request_id, cause) == []


def test_a_waiting_request_leaves_the_queue(running):
    running.cancel(3)

    assert running.batches(running.done(1, 1, 2)) == [[4]]


def test_a_batch_goes_on_without_it_and_the_others_are_answered(running):
    running.cancel(1)

    commands = running.done(1, 1, 2)

    assert running.ended(commands) == {2: OK}
    assert running.batches(commands) == [[3, 4]]


def test_its_failure_is_dropped_too(running):
    running.cancel(1)

    assert running.ended(running.done(1, 2, failed=[Failure(1, FailureCause.INPUT)])) == {2: OK}


def test_a_batch_of_cancelled_requests_still_occupies_its_instance(running):
    running.cancel(1)
    running.cancel(2)
    assert running.batches(running.feed(at=100)) == []

    assert running.batches(running.done(1, 1, 2)) == [[3, 4]]


def test_it_may_be_cancelled_in_the_step_of_its_arrival(play):
    play.none()
    play.up()

    commands = play.feed(play.request(1), RequestCancelled(1, CancelCause.CANCELLED))

    assert play.ended(commands) == {1: (Outcome.CANCELLED, Reason.CALLER_CANCELLED)}
    assert play.batches(commands) == []


def test_an_answer_in_the_same_step_but_before_it_wins(running):
    commands = running.feed(BatchProgress(1, (1, 2)), RequestCancelled(1, CancelCause.CANCELLED))

    assert running.ended(commands) == {1: OK, 2: OK}


def test_unknown_ids_are_ignored(play):
    assert play.cancel(99) == []
