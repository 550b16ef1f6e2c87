"""Expiry of waiting requests: which end when, and that the heap stays small."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.events import CancelCause

BY_CALLER = (Outcome.EXPIRED, Reason.CALLER_DEADLINE)
BY_TIMEOUT = (Outcome.EXPIRED, Reason.QUEUE_TIMEOUT)


@pytest.fixture
def busy(play):
    """A model whose one instance is busy with request 0: `busy(limits...)`."""

    def configure(**limits):
        play.fixed(max_rows=4, **limits)
        play.up()
        play.arrive(0)
        return play

    return configure


def test_a_waiting_request_expires_at_its_deadline_and_not_before(busy):
    play = busy()
    play.arrive(1, expires=10)

    assert play.wakeup == 10
    assert play.feed(at=9.999999) == []
    assert play.ended(play.feed(at=10)) == {1: BY_CALLER}
    assert play.wakeup is None


def test_the_queue_timeout_expires_it_too(busy):
    play = busy(timeout_ns=20 * MILLISECOND)
    play.arrive(1, at=3)

    assert play.wakeup == 23
    assert play.ended(play.feed(at=23)) == {1: BY_TIMEOUT}


@pytest.mark.parametrize(("deadline", "at", "ended"), [(15, 15, BY_CALLER), (25, 20, BY_TIMEOUT)])
def test_the_earlier_of_deadline_and_timeout_counts(busy, deadline, at, ended):
    play = busy(timeout_ns=20 * MILLISECOND)
    play.arrive(1, expires=deadline)

    assert play.wakeup == at
    assert play.ended(play.feed(at=at)) == {1: ended}


def test_an_expired_request_is_never_dispatched_even_if_an_instance_becomes_free_just_then(busy):
    play = busy()
    play.arrive(1, expires=10)
    play.arrive(2, expires=11)

    commands = play.done(1, 0, at=10)

    assert play.ended(commands) == {0: (Outcome.OK, Reason.NONE), 1: BY_CALLER}
    assert play.batches(commands) == [[2]]


def test_an_arrival_whose_deadline_has_passed_is_not_queued(play):
    play.none()
    play.up()

    commands = play.arrive(1, expires=5, at=5)

    assert play.ended(commands) == {1: BY_CALLER}
    assert play.batches(commands) == []


def test_a_running_request_does_not_expire(play):
    play.none()
    play.up()
    play.arrive(1, expires=10)

    assert play.wakeup is None
    assert play.feed(at=20) == []
    assert play.ended(play.done(1, 1)) == {1: (Outcome.OK, Reason.NONE)}


def test_a_callers_deadline_ends_a_running_request_when_the_caller_says_so(play):
    play.none()
    play.up()
    play.arrive(1, expires=10)

    assert play.ended(play.cancel(1, CancelCause.DEADLINE)) == {1: BY_CALLER}
    assert play.done(1, 1) == []


def test_the_expired_are_settled_in_order_of_expiry(busy):
    play = busy()
    play.feed(*[play.request(i, expires=20 - i) for i in range(1, 5)])

    assert list(play.ended(play.feed(at=30))) == [4, 3, 2, 1]


def test_the_first_of_a_batch_group_expires_without_the_rest(busy):
    play = busy()
    play.feed(play.request(1, expires=5), play.request(2), play.request(3))
    play.feed(at=5)

    assert play.batches(play.done(1, 0)) == [[2, 3]]


def test_the_heap_stays_bounded_while_callers_come_and_go(busy):
    play = busy(max_requests=10)
    sizes = []
    for request_id in range(1, 5_000):
        play.arrive(request_id, expires=1e6)
        play.cancel(request_id)
        sizes.append(len(play.scheduler.contents.expiry.heap))

    assert max(sizes) <= 3
    assert play.wakeup is None
    assert play.scheduler.contents.expiry.heap == []


def test_the_heap_stays_bounded_while_one_with_an_early_expiry_stays(busy):
    play = busy()
    play.arrive(1, expires=10)
    for request_id in range(2, 2_000):
        play.arrive(request_id, expires=1e6)
        play.cancel(request_id)
        assert len(play.scheduler.contents.expiry.heap) <= 5

    assert play.wakeup == 10


def test_an_id_that_is_used_again_has_its_own_expiry_only(busy):
    play = busy()
    play.arrive(9, expires=3)
    play.arrive(1, expires=5)
    play.cancel(1)
    play.arrive(1, expires=50)
    play.feed(at=3)

    assert play.wakeup == 50
    assert play.feed(at=5) == []
    assert play.ended(play.feed(at=50)) == {1: BY_CALLER}


@pytest.mark.parametrize("allowed", [True, False])
def test_a_caller_may_ask_for_less_where_that_is_allowed(busy, allowed):
    play = busy(timeout_ns=20 * MILLISECOND, allow_timeout_override=allowed)
    play.feed(replace(play.request(1), queue_until_ns=5 * MILLISECOND))

    assert play.wakeup == (5 if allowed else 20)
