"""What an instance reports on a batch, whole, in pieces, late or wrong."""

from __future__ import annotations

import pytest

from batcher.core.commands import Outcome, Reason, Settle
from batcher.core.events import Failure, FailureCause
from batcher.core.requests.refusals import QUEUE_FULL_RETRY_NS, UNAVAILABLE_RETRY_NS

OK = (Outcome.OK, Reason.NONE)


@pytest.fixture
def running(play):
    """Requests 1, 2 and 3 run in batch 1; 4 waits."""
    play.fixed(max_rows=3)
    play.up()
    play.arrive(1, 2, 3, 4)
    return play


def test_all_done(running):
    commands = running.done(1, 1, 2, 3)

    assert commands[0] == Settle((1, 2, 3), Outcome.OK)
    assert running.batches(commands) == [[4]]


def test_in_pieces_the_instance_is_busy_until_the_last(running):
    assert running.done(1, 2, last=False) == [Settle((2,), Outcome.OK)]
    assert running.done(1, 1, last=False) == [Settle((1,), Outcome.OK)]

    commands = running.done(1, 3)

    assert running.ended(commands) == {3: OK}
    assert running.batches(commands) == [[4]]


@pytest.mark.parametrize(
    ("cause", "outcome", "reason", "retry_ns"),
    [
        (FailureCause.DEVICE, Outcome.FAILED, Reason.DEVICE_FAILURE, UNAVAILABLE_RETRY_NS),
        (FailureCause.INPUT, Outcome.FAILED, Reason.INPUT_FAILURE, None),
        (FailureCause.UNKNOWN, Outcome.FAILED, Reason.UNKNOWN_FAILURE, None),
        (
            FailureCause.OVERLOADED,
            Outcome.REJECTED,
            Reason.BACKEND_OVERLOADED,
            QUEUE_FULL_RETRY_NS,
        ),
        (
            FailureCause.UNAVAILABLE,
            Outcome.FAILED,
            Reason.BACKEND_UNAVAILABLE,
            UNAVAILABLE_RETRY_NS,
        ),
    ],
)
def test_a_failure_ends_its_own_request_with_its_cause(running, cause, outcome, reason, retry_ns):
    commands = running.done(1, 1, 3, failed=[Failure(2, cause)])

    assert commands[:2] == [
        Settle((1, 3), Outcome.OK),
        Settle((2,), outcome, reason, retry_ns),
    ]


def test_requests_missing_from_the_last_report_have_failed(running):
    assert running.ended(running.done(1, 2)) == {
        2: OK,
        1: (Outcome.FAILED, Reason.UNKNOWN_FAILURE),
        3: (Outcome.FAILED, Reason.UNKNOWN_FAILURE),
    }


def test_a_report_of_a_batch_that_has_ended_is_ignored(running):
    running.done(1, 1, 2, 3)

    assert running.done(1, 1, 2, 3, 4) == []
    assert running.done(77, 1) == []


def test_a_report_on_a_request_of_another_batch_is_ignored(running):
    commands = running.done(1, 1, 2, 3, 4, failed=[Failure(4, FailureCause.INPUT)])

    assert running.ended(commands) == {1: OK, 2: OK, 3: OK}
    assert running.ended(running.done(2, 4)) == {4: OK}


def test_a_request_that_is_named_twice_ends_once(running):
    commands = running.done(
        1, 1, 1, 2, failed=[Failure(2, FailureCause.INPUT), Failure(3, FailureCause.INPUT)] * 2
    )

    assert commands[:2] == [
        Settle((1, 2), Outcome.OK),
        Settle((3,), Outcome.FAILED, Reason.INPUT_FAILURE),
    ]
