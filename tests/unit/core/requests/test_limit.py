"""Requests that wait until no answer is of use any more."""

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Blame, Dispatch, MissedTime, Outcome, Reason, RefusalCause, Settle
from batcher.core.events import InstanceUp
from batcher.core.settings import Adaptive


@pytest.fixture
def busy(play):
    """A limit of 30 ms, nothing measured, and request 0 running."""
    play.model("m", Adaptive(limit_ns=30 * MILLISECOND), 1, target=20)
    play.up()
    play.arrive(0)
    return play


def test_what_waits_until_its_limit_is_refused_there(busy):
    busy.arrive(1, at=4)
    assert busy.feed(at=30) == []
    assert busy.scheduler.next_wakeup_ns() == 34 * MILLISECOND
    (settled,) = busy.feed(at=34)
    assert (settled.ids, settled.outcome, settled.reason) == (
        (1,),
        Outcome.REJECTED,
        Reason.PREDICTED_LATE,
    )
    assert settled.retry_after_ns


def test_a_deadline_before_the_limit_is_the_caller_s(busy):
    busy.arrive(1, expires=25)
    assert busy.feed(at=25) == [Settle((1,), Outcome.EXPIRED, Reason.CALLER_DEADLINE)]


def test_a_limit_before_the_deadline_is_the_model_s(busy):
    busy.arrive(1, expires=45)
    (settled,) = busy.feed(at=30)
    assert settled.reason is Reason.PREDICTED_LATE


def test_where_times_are_known_it_says_what_would_be_missed(play):
    play.model("m", Adaptive(limit_ns=30 * MILLISECOND), 1, target=30)
    play.feed(InstanceUp("i", 1, "m", "d", 1, ((1, 14 * MILLISECOND),)))
    play.arrive(0, 1)
    (settled,) = play.feed(at=30)
    # Batch 1 is not done yet: it is taken to need as long again as it is overdue.
    blame = Blame(RefusalCause.QUEUE_AHEAD, MissedTime.TARGET, (16 + 14) * MILLISECOND)
    assert (settled.ids, settled.blame) == ((1,), blame)


def test_what_runs_at_its_limit_is_answered(busy):
    assert busy.done(1, 0, at=31) == [Settle((0,), Outcome.OK)]


def test_where_no_batch_is_inside_the_target_all_sizes_count(play):
    """Three rows in one batch and one before it: all before the limit, though each is late."""
    play.model("m", Adaptive(limit_ns=1000 * MILLISECOND), 32, target=100)
    play.feed(InstanceUp("i", 1, "m", "d", 1, ((1, 300 * MILLISECOND),)))
    commands = [*play.arrive(0), *play.arrive(1, 2, 3, at=1)]
    assert not [command for command in commands if isinstance(command, Settle)]
    assert play.scheduler.models["m"].times.best_rate() > 6 / (1000 * MILLISECOND)


def test_what_would_outwait_the_queue_s_timeout_is_refused_before(play):
    """Ten requests of 10 ms each, one at a time: those that would begin after 55 ms."""
    limits = {"timeout_ns": 55 * MILLISECOND}
    play.model("m", Adaptive(limit_ns=1000 * MILLISECOND), 1, target=20, **limits)
    play.feed(InstanceUp("i", 1, "m", "d", 1, ((1, 10 * MILLISECOND),)))
    commands = play.arrive(*range(10))
    for step in range(1, 5):
        running = [each for each in commands if isinstance(each, Dispatch)][-1]
        commands += play.done(running.batch_id, running.parts[0].id, at=10 * step)
    refused = {
        i: command.blame.missed
        for command in commands
        if isinstance(command, Settle) and command.outcome is Outcome.REJECTED
        for i in command.ids
    }
    assert refused
    assert set(refused.values()) == {MissedTime.QUEUE_TIMEOUT}
