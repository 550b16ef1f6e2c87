"""Requests that wait until no answer is of use any more."""

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason, Settle
from batcher.core.settings import Adaptive


@pytest.fixture
def busy(play):
    """A limit of 30 ms, nothing measured, and request 0 running."""
    play.model("m", Adaptive(limit_ns=30 * MILLISECOND), 1, target=20)
    play.up()
    play.arrive(0)
    return play


def test_what_waits_until_its_limit_ends_there(busy):
    busy.arrive(1, at=4)
    assert busy.feed(at=30) == []
    assert busy.scheduler.next_wakeup_ns() == 34 * MILLISECOND
    assert busy.feed(at=34) == [Settle((1,), Outcome.EXPIRED, Reason.LIMIT)]


def test_a_deadline_before_the_limit_is_the_caller_s(busy):
    busy.arrive(1, expires=25)
    assert busy.feed(at=25) == [Settle((1,), Outcome.EXPIRED, Reason.CALLER_DEADLINE)]


def test_a_limit_before_the_deadline_is_the_model_s(busy):
    busy.arrive(1, expires=45)
    assert busy.feed(at=30) == [Settle((1,), Outcome.EXPIRED, Reason.LIMIT)]


def test_what_runs_at_its_limit_is_answered(busy):
    assert busy.done(1, 0, at=31) == [Settle((0,), Outcome.OK)]
