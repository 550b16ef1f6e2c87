"""A policy that breaks its contract: its model goes on with greedy batches, and no request hangs."""

from __future__ import annotations

import math

import pytest

from batcher.core.commands import Outcome, PolicyFailed, Reason, Settle
from batcher.core.events import DeviceConfigured, ModelConfigured
from batcher.core.policies import BatchPolicy, Choose, Take, Wait
from batcher.core.scheduler import Scheduler
from batcher.core.settings import ModelSettings, NoBatching
from batcher.errors import MAX_DESCRIPTION


class Answers(BatchPolicy):
    """A policy that gives the same answer for every group; an exception is raised."""

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
    "no moment beside what is chosen": Choose((), (), "later"),
    "no requests to choose": Choose(None),
    "takes nothing and does not say when to ask again": Choose(()),
    "neither take nor wait": "later",
    "silence": None,
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_the_model_falls_back_to_the_largest_batches_and_every_request_is_served(play_with, answer):
    policy = Answers(answer)
    play = play_with(policy)
    play.none(max_rows=4)
    play.up()

    commands = play.arrive(1, 2, 3, rows=2)

    assert [type(c) for c in commands[:1]] == [PolicyFailed]
    assert commands[0].model == "m"
    assert play.batches(commands) == [[1, 2]]
    assert play.scheduler.fleet.batches[1].rows == 4
    assert play.batches(play.done(1, 1, 2)) == [[3]]
    assert play.ended(play.done(2, 3)) == {3: (Outcome.OK, Reason.NONE)}
    assert policy.asked == 1


class Fails(BatchPolicy):
    """A policy that waits for a second, and raises in one member of the interface."""

    deadline_aware = True
    learns_arrivals = True

    def __init__(self, member):
        self.raising = member

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "__dict__").get("raising"):
            raise RuntimeError(name)
        return super().__getattribute__(name)

    def decide(self, group, given):
        return Wait(given.now_ns + 1_000_000_000)


def test_a_failure_when_a_request_arrives_is_one_of_the_policy(play_with):
    play = play_with(Fails("on_arrival"))
    play.none()
    play.up()

    commands = play.arrive(1, 2)

    assert play.policy_failures(commands) == [PolicyFailed("m", "RuntimeError: on_arrival")]
    assert play.batches(commands) == [[1, 2]]


def test_a_failure_when_a_request_arrives_is_reported_while_all_instances_are_busy(play_with):
    policy = Fails(None)
    play = play_with(policy)
    play.none()
    play.up()
    play.arrive(1)
    assert play.batches(play.feed(at=1000)) == []
    policy.decide = lambda group, given: Take(1)
    assert play.batches(play.arrive(2)) == [[1]]
    policy.raising = "on_arrival"

    assert [c.error for c in play.policy_failures(play.arrive(3))] == ["RuntimeError: on_arrival"]
    assert play.policy_failures(play.arrive(4)) == []
    assert play.batches(play.done(1, 1)) == [[2, 3, 4]]


def test_a_failure_when_a_batch_ends_is_one_of_the_policy(play_with):
    policy = Fails("on_batch_done")
    policy.decide = lambda group, given: Take(1)
    play = play_with(policy)
    play.none()
    play.up()
    play.arrive(1, 2, 3)

    commands = play.done(1, 1)

    assert [c.error for c in play.policy_failures(commands)] == ["RuntimeError: on_batch_done"]
    assert play.batches(commands) == [[2, 3]]


def test_a_failure_to_take_over_is_one_of_the_policy(play_with):
    play = play_with(Fails("take_over"))

    commands = play.none()

    assert [c.error for c in play.policy_failures(commands)] == ["RuntimeError: take_over"]


def test_a_failure_of_an_expected_rate_is_one_of_its_own_policy(make_scheduler, play_with):
    waits = Fails("expected_rate")
    play = play_with(waits)
    play.none("bad", target=50)
    play.scheduler.contents.make_policy = lambda settings: Answers(Take(1))
    play.none("good", target=50)
    play.feed(DeviceConfigured("d", 1))
    play.up("i", model="bad")
    play.up("j", model="good")
    assert play.batches(play.arrive(1, 2, model="bad")) == []

    commands = play.arrive(3, model="good")

    assert play.policy_failures(commands) == [PolicyFailed("bad", "RuntimeError: expected_rate")]
    assert play.batches(commands) == [[3]]
    assert play.batches(play.done(1, 3)) == [[1, 2]]


@pytest.mark.parametrize("rate", [None, "many", math.nan, math.inf, -1.0])
def test_an_expected_rate_that_is_no_rate_is_a_failure(play_with, rate):
    waits = Fails(None)
    waits.expected_rate = lambda now_ns: rate
    play = play_with(waits)
    play.none("bad", target=50)
    play.scheduler.contents.make_policy = lambda settings: Answers(Take(1))
    play.none("good", target=50)
    play.feed(DeviceConfigured("d", 1))
    play.up("i", model="bad")
    play.up("j", model="good")
    play.arrive(1, 2, model="bad")

    commands = play.arrive(3, model="good")

    assert [failure.model for failure in play.policy_failures(commands)] == ["bad"]
    assert play.batches(commands) == [[3]]
    assert play.batches(play.done(1, 3)) == [[1, 2]]


@pytest.mark.parametrize(
    "name",
    ["deadline_aware", "learns_arrivals", "fills_batches", "fill_sizes", "serves_late"],
)
def test_a_property_that_cannot_be_read_is_a_failure(play_with, name):
    play = play_with(Fails(name))

    failures = play.policy_failures(play.none())
    play.up()

    assert failures == [PolicyFailed("m", f"RuntimeError: {name}")]
    assert play.batches(play.arrive(1, 2)) == [[1, 2]]


@pytest.mark.parametrize("sizes", [None, 8, ("many",), (1.5,)])
def test_sizes_that_are_no_numbers_are_a_failure(play_with, sizes):
    policy = Answers(Take(1))
    policy.fill_sizes = sizes
    play = play_with(policy)

    assert [failure.model for failure in play.policy_failures(play.none())] == ["m"]


def test_an_error_that_cannot_be_printed_is_a_failure_like_others(play_with):
    class Unprintable(Exception):
        def __str__(self):
            raise ValueError

    play = play_with(Answers(Unprintable()))
    play.none()
    play.up()

    commands = play.arrive(1)

    assert play.policy_failures(commands) == [PolicyFailed("m", "Unprintable")]
    assert play.batches(commands) == [[1]]


def test_a_long_error_is_one_short_line(play_with):
    play = play_with(Answers(RuntimeError("many\nlines " * 1000)))
    play.none()
    play.up()

    (failure,) = play.policy_failures(play.arrive(1))

    assert failure.error.startswith("RuntimeError: many lines many lines")
    assert len(failure.error) == len("RuntimeError: ") + MAX_DESCRIPTION


def test_a_factory_that_returns_no_policy_counts_as_failed(make_scheduler):
    scheduler = make_scheduler(lambda settings: "greedy")

    (failure,) = scheduler.handle([ModelConfigured("m", ModelSettings(8, NoBatching()))], 0)

    assert failure.error == (
        "TypeError: the policy factory returned 'greedy', which is no BatchPolicy"
    )


def test_a_snapshot_knows_that_the_policy_failed(play_with):
    broken = Answers(RuntimeError())
    play = play_with(broken)
    play.none(max_rows=4)
    play.up()
    play.arrive(*range(1, 7))
    state = play.scheduler.snapshot()

    restored = Scheduler.restore(state, lambda settings: broken)

    assert restored.snapshot() == state
    play.scheduler = restored
    assert play.batches(play.done(1, 1, 2, 3, 4)) == [[5, 6]]
    assert broken.asked == 1


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


def test_it_is_reported_once_however_many_groups_wait(play_with):
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
    assert play.batches(play.arrive(1, 2)) == [[1, 2]]
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
