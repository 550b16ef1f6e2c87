"""Instances: which one is used, incarnations, draining, loss, and device limits."""

from __future__ import annotations

from batcher.core.commands import Dispatch, Outcome, Reason, Settle
from batcher.core.requests.refusals import UNAVAILABLE_RETRY_NS

LOST = (Outcome.FAILED, Reason.INSTANCE_DOWN)


def used(commands):
    return [c.instance for c in commands if isinstance(c, Dispatch)]


# Which one


def test_the_least_recently_used_idle_instance_is_used_next(play):
    play.none()
    for name in "abc":
        play.up(name)

    assert used(play.arrive(1, 2, 3)) == ["a", "b", "c"]
    play.done(2, 2)
    play.done(1, 1)
    assert used(play.arrive(4, 5)) == ["a", "b"]


def test_the_least_busy_instance_is_used_first(play):
    play.none()
    play.up("a", max_in_flight=3)
    play.arrive(1, 2)
    play.up("b", max_in_flight=3)

    assert used(play.arrive(3, 4, 5, 6)) == ["b", "b", "a", "b"]


def test_an_instance_runs_at_most_max_in_flight_batches(play):
    play.none()
    play.up(max_in_flight=2)

    assert play.batches(play.arrive(1, 2, 3)) == [[1], [2]]
    assert play.batches(play.done(2, 2)) == [[3]]


def test_a_new_instance_runs_what_waits(play):
    play.none()
    play.up("a")
    play.arrive(1, 2)

    assert play.batches(play.up("b")) == [[2]]


# Draining


def test_a_draining_instance_finishes_its_batch_and_gets_no_more(play):
    play.none()
    play.up("a")
    play.up("b")
    play.arrive(1, 2)
    play.draining("a")

    assert play.ended(play.done(1, 1)) == {1: (Outcome.OK, Reason.NONE)}
    assert play.batches(play.arrive(3)) == []
    assert used(play.done(2, 2)) == ["b"]


def test_draining_names_an_incarnation(play):
    play.none()
    play.up(incarnation=2)
    play.draining(incarnation=1)
    play.draining("unknown")

    assert play.batches(play.arrive(1)) == [[1]]


# Loss and incarnations


def test_the_loss_of_an_instance_fails_what_it_ran(play):
    play.fixed()
    play.up()
    play.arrive(1, 2)
    play.arrive(3)

    assert play.down() == [
        Settle((1, 2), Outcome.FAILED, Reason.INSTANCE_DOWN, UNAVAILABLE_RETRY_NS)
    ]


def test_waiting_requests_run_on_the_next_incarnation(play):
    play.none()
    play.up()
    play.arrive(1, 2)
    play.down()

    assert play.batches(play.up(incarnation=2)) == [[2]]


def test_the_batch_of_a_lost_instance_is_not_run_elsewhere(play):
    play.none()
    play.up("a")
    play.up("b")
    play.arrive(1)

    assert play.ended(play.down("a")) == {1: LOST}
    assert play.batches(play.feed()) == []


def test_reports_of_a_lost_incarnation_are_ignored(play):
    play.none()
    play.up()
    play.arrive(1)
    play.down()
    play.up(incarnation=2)
    play.arrive(2)

    assert play.done(1, 1, 2) == []
    assert play.ended(play.done(2, 2)) == {2: (Outcome.OK, Reason.NONE)}


def test_a_new_incarnation_replaces_the_old_one(play):
    play.none()
    play.up()
    play.arrive(1, 2)

    commands = play.up(incarnation=2)

    assert play.ended(commands) == {1: LOST}
    assert play.batches(commands) == [[2]]


def test_an_older_or_equal_incarnation_changes_nothing(play):
    play.none()
    play.up(incarnation=2)
    play.arrive(1)

    assert play.up(incarnation=2, max_in_flight=9) == []
    assert play.up(incarnation=1, max_in_flight=9) == []
    assert play.batches(play.arrive(2)) == []


def test_the_loss_of_another_incarnation_changes_nothing(play):
    play.none()
    play.up(incarnation=2)
    play.arrive(1)

    assert play.down(incarnation=1) == []
    assert play.down(incarnation=3) == []
    assert play.down("unknown") == []
    assert play.ended(play.done(1, 1)) == {1: (Outcome.OK, Reason.NONE)}


def test_a_cancelled_request_does_not_fail_with_its_instance(play):
    play.fixed()
    play.up()
    play.arrive(1, 2)
    play.cancel(1)

    assert play.ended(play.down()) == {2: LOST}


# Devices


def test_models_that_share_a_device_share_its_limit(play):
    play.limit(max_in_flight=1)
    play.none("a")
    play.none("b")
    play.up("i", model="a")
    play.up("j", model="b")
    play.arrive(1, model="a", at=0)

    assert play.arrive(2, model="b", at=1) == []
    assert used(play.done(1, 1)) == ["j"]


def test_a_device_without_a_limit_runs_all(play):
    play.none()
    play.up("a")
    play.up("b")

    assert used(play.arrive(1, 2)) == ["a", "b"]


def test_a_limit_does_not_block_another_device(play):
    play.limit("d", max_in_flight=1)
    play.none()
    play.up("a", device="d")
    play.up("b", device="d")
    play.up("c", device="e")

    assert used(play.arrive(1, 2, 3)) == ["a", "c"]


def test_a_limit_that_rises_is_used_at_once(play):
    play.limit(max_in_flight=1)
    play.none()
    play.up(max_in_flight=9)
    play.arrive(1, 2, 3, 4)

    assert play.batches(play.limit(max_in_flight=2)) == [[2]]
    assert play.batches(play.limit(max_in_flight=None)) == [[3], [4]]


def test_a_limit_that_falls_interrupts_nothing(play):
    play.none()
    play.up(max_in_flight=3)
    play.arrive(1, 2, 3)
    play.limit(max_in_flight=1)

    assert play.batches(play.arrive(4)) == []
    play.done(1, 1)
    assert play.batches(play.done(2, 2)) == []
    assert play.batches(play.done(3, 3)) == [[4]]


def test_a_lost_instance_releases_its_slot_on_the_device(play):
    play.limit(max_in_flight=1)
    play.none()
    play.up("a")
    play.up("b")
    play.arrive(1, 2)

    assert used(play.down("a")) == ["b"]
