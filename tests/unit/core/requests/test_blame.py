"""What a refusal for a prediction is blamed on."""

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Blame, MissedTime, Outcome, Reason, RefusalCause, Settle
from batcher.core.events import InstanceUp, RequestArrived
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.blame import blame_of
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import Adaptive

TAKES = 10
"""Milliseconds of a batch of one row, and 2 more with the margin."""


def ms(count):
    return int(count * MILLISECOND)


@pytest.fixture
def times():
    found = ServiceTimes(8)
    found.seed([(1, ms(TAKES)), (8, ms(TAKES + 7))])
    found.p95 = [1.2 * time for time in found.curve]
    return found


def request(*, arrived=0, due=None, deadline=None, expires=None, rows=1):
    def at(time):
        return None if time is None else ms(time)

    event = RequestArrived(1, "m", rows, 0, (), "", ms(arrived), at(due), at(deadline))
    return LiveRequest(event, at(due), at(expires))


@pytest.mark.parametrize(
    ("soonest", "until", "cause", "late_by"),
    [
        (45, 50, RefusalCause.QUEUE_AHEAD, 5),
        (0, 8, RefusalCause.SERVICE_TIME, 2),
        (39, 50, RefusalCause.MARGIN, 1),
        (20, 50, RefusalCause.QUEUE_AHEAD, 0),
    ],
)
def test_the_cause_is_the_least_that_would_have_to_be_otherwise(
    times, soonest, until, cause, late_by
):
    found = blame_of(request(due=until), times, ms(soonest), ms(until))
    assert found == Blame(cause, MissedTime.TARGET, ms(late_by))


@pytest.mark.parametrize(
    ("given", "until", "missed"),
    [
        ({"due": 50}, 50, MissedTime.TARGET),
        ({"due": 50}, 500, MissedTime.LIMIT),
        ({}, 500, MissedTime.LIMIT),
        ({"due": 50, "deadline": 30}, 30, MissedTime.DEADLINE),
        ({"due": 50, "deadline": 80}, 80, MissedTime.DEADLINE),
        ({"due": 50, "expires": 70}, 70, MissedTime.QUEUE_TIMEOUT),
        ({"due": 50, "deadline": 70, "expires": 70}, 70, MissedTime.DEADLINE),
    ],
)
def test_the_time_that_would_be_missed_is_named(times, given, until, missed):
    assert blame_of(request(**given), times, ms(until), ms(until)).missed is missed


def test_a_deadline_shorter_than_a_batch_is_to_blame_whatever_waits(times):
    short = request(deadline=8)
    for soonest in (0, 1000):
        found = blame_of(short, times, ms(soonest), ms(8))
        assert (found.cause, found.missed) == (RefusalCause.DEADLINE, MissedTime.DEADLINE)


def test_what_has_waited_for_too_long_is_the_queue_s_fault(times):
    """When it arrived, there was time enough."""
    found = blame_of(request(arrived=0, due=50), times, ms(44), ms(50))
    assert found == Blame(RefusalCause.QUEUE_AHEAD, MissedTime.TARGET, ms(4))


def test_the_later_batches_of_a_split_request_count(times):
    found = blame_of(request(due=50, rows=30), times, 0, ms(50), after_ns=ms(40))
    assert found.cause is RefusalCause.SERVICE_TIME
    assert found.late_by_ns == ms(7)


def test_a_refusal_says_what_it_was_blamed_on(play):
    play.model("m", Adaptive(limit_ns=ms(30)), 1, target=30)
    play.feed(InstanceUp("i", 1, "m", "d", 1, ((1, ms(TAKES)),)))
    commands = play.arrive(1, 2, 3, 4)
    commands += play.feed(play.request(5, expires=5))
    commands += play.feed(play.request(6, expires=15))
    blames = {c.ids: (c.outcome, c.reason, c.blame) for c in commands if isinstance(c, Settle)}
    assert blames == {
        (5,): (
            Outcome.EXPIRED,
            Reason.DEADLINE_TOO_SHORT,
            Blame(RefusalCause.DEADLINE, MissedTime.DEADLINE, ms(5)),
        ),
        (6,): (
            Outcome.REJECTED,
            Reason.PREDICTED_LATE,
            Blame(RefusalCause.QUEUE_AHEAD, MissedTime.DEADLINE, ms(5)),
        ),
    }
