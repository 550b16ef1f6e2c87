"""A policy that breaks its contract: its model runs without batching, and nobody hangs."""

from __future__ import annotations

import pytest

from batcher.core.commands import Outcome, PolicyFailed, Reason, Settle
from batcher.core.events import ModelConfigured
from batcher.core.policies import Take, Wait
from batcher.core.scheduler import Scheduler
from batcher.core.settings import ModelSettings, NoBatching


class Answers:
    """A policy that gives the same answer to every lane; an exception is raised."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = 0

    def decide(self, group, now_ns):
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


NONSENSE = {
    "raises": RuntimeError("boom"),
    "asserts": AssertionError(),
    "too many requests": Take(4),
    "too many rows": Take(3),
    "none at all": Take(0),
    "negative": Take(-1),
    "no number of requests": Take(None),
    "no whole number of requests": Take(1.5),
    "no moment": Wait(None),
    "no whole moment": Wait(1e9),
    "neither take nor wait": "later",
    "silence": None,
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_the_model_falls_back_to_none_and_everyone_is_served(play_with, answer):
    policy = Answers(answer)
    play = play_with(policy)
    play.none(max_rows=4)
    play.up()

    commands = play.arrive(1, 2, 3, rows=2)

    assert [type(c) for c in commands[:1]] == [PolicyFailed]
    assert commands[0].model == "m"
    assert play.batches(commands) == [[1]]
    assert play.scheduler.fleet.batches[1].rows == 2
    assert play.batches(play.done(1, 1)) == [[2]]
    assert play.batches(play.done(2, 2)) == [[3]]
    assert play.ended(play.done(3, 3)) == {3: (Outcome.OK, Reason.NONE)}
    assert policy.asked == 1


def test_the_error_says_what_happened(play_with):
    play = play_with(Answers(RuntimeError("boom")))
    play.none()
    play.up()

    (failure,) = play.policy_failures(play.arrive(1))

    assert failure.error == "RuntimeError: boom"


def test_only_the_failing_model_falls_back(make_scheduler, play_with):
    play = play_with(Answers(RuntimeError()))
    play.none("bad")
    play.scheduler.contents.make_policy = lambda settings: Answers(Take(2))
    play.none("good")
    play.up("i", model="bad")
    play.up("j", model="good")
    play.arrive(1, 2, model="bad")

    commands = play.arrive(3, 4, model="good")

    assert play.policy_failures(commands) == []
    assert play.batches(commands) == [[3, 4]]


def test_it_is_reported_once_however_many_lanes_wait(play_with):
    play = play_with(Answers(RuntimeError()))
    play.none()
    play.up(max_in_flight=2)

    commands = play.feed(play.request(1, key="a"), play.request(2, key="b"))

    assert len(play.policy_failures(commands)) == 1
    assert play.batches(commands) == [[1], [2]]


def test_new_settings_give_the_policy_another_chance(play_with):
    policy = Answers(RuntimeError())
    play = play_with(policy)
    play.none()
    play.up()
    play.arrive(1)
    play.done(1, 1)
    policy.answer = Take(2)

    play.none()

    assert play.batches(play.arrive(2, 3)) == [[2, 3]]


def test_a_policy_that_cannot_be_made_counts_as_failed(make_scheduler, play_with):
    def broken(settings):
        raise ValueError("no such window")

    scheduler = make_scheduler(broken)
    settings = ModelSettings(8, NoBatching())

    commands = scheduler.handle([ModelConfigured("m", settings)], 0)

    assert commands == [PolicyFailed("m", "ValueError: no such window")]
    play = play_with(None)
    play.scheduler = scheduler
    play.up()
    assert play.batches(play.arrive(1, 2)) == [[1]]
    assert Scheduler.restore(scheduler.snapshot(), broken).snapshot() == scheduler.snapshot()


def test_a_wait_that_is_over_is_asked_again_a_millisecond_on(play_with):
    play = play_with(Answers(Wait(5)))
    play.none()
    play.up()

    commands = play.arrive(1, at=10)

    assert commands == []
    assert play.wakeup == 11


def test_a_request_of_a_failed_policy_can_still_be_cancelled(play_with):
    play = play_with(Answers(RuntimeError()))
    play.none()
    play.up()
    play.arrive(1, 2)

    assert play.cancel(2) == [Settle((2,), Outcome.CANCELLED, Reason.CALLER_CANCELLED)]
