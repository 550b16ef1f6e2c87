"""What becomes of requests whose instance went down while it executed them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Dispatch, Outcome, Reason, Settle
from batcher.core.events import InstanceUp
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive
from batcher.testing.invariants import validate


def settled(commands):
    return {i: (c.outcome, c.reason) for c in commands if isinstance(c, Settle) for i in c.ids}


def dispatched(commands):
    return [
        (c.batch_id, tuple(part.id for part in c.parts), c.attempt)
        for c in commands
        if isinstance(c, Dispatch)
    ]


LOST = Outcome.FAILED, Reason.INSTANCE_DOWN


def begin(play, *ids, **settings):
    """A batch of these requests runs."""
    play.fixed(**{"idempotent": True, **settings})
    play.up()
    return dispatched(play.arrive(*ids))


def test_without_idempotent_they_fail_with_a_time_to_retry(play):
    begin(play, 1, 2, idempotent=False)
    [settle] = play.down()
    assert (settle.ids, settle.outcome, settle.reason) == ((1, 2), *LOST)
    assert settle.retry_after_ns


def test_they_run_once_more_in_small_groups_before_what_came_later(play):
    begin(play, 1, 2, 3)
    assert play.arrive(4, at=1) == []
    assert play.down() == []
    assert dispatched(play.up(incarnation=2)) == [(2, (1,), 2)]
    assert dispatched(play.done(2, 1)) == [(3, (2,), 2)]
    assert dispatched(play.done(3, 2)) == [(4, (3,), 2)]
    assert dispatched(play.done(4, 3)) == [(5, (4,), 1)]
    validate(play.scheduler)


def test_the_one_that_brings_its_instance_down_again_takes_no_other_with_it(play):
    begin(play, 1, 2, 3)
    play.down()
    play.up(incarnation=2)
    play.done(2, 1)
    assert settled(play.down(incarnation=2)) == {2: LOST}
    assert dispatched(play.up(incarnation=3)) == [(4, (3,), 2)]
    assert settled(play.done(4, 3)) == {3: (Outcome.OK, Reason.NONE)}
    validate(play.scheduler)


def test_groups_are_of_the_square_root_of_their_number(play):
    begin(play, *range(1, 18), max_rows=32)
    play.down()
    took = []
    commands = play.up(incarnation=2)
    while found := dispatched(commands):
        [(batch_id, ids, _)] = found
        took.append(ids)
        commands = play.done(batch_id, *ids)
    assert took == [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17,)]


def test_a_group_whose_execution_fails_is_bisected(play):
    begin(play, 1, 2, 3, 4)
    play.down()
    play.up(incarnation=2)
    assert dispatched(play.error(2)) == [(3, (1,), 3)]
    assert dispatched(play.done(3, 1)) == [(4, (2,), 3)]


def test_another_instance_takes_them_at_once(play):
    begin(play, 1, 2)
    play.up("j")
    assert dispatched(play.down()) == [(2, (1,), 2)]


def test_each_runs_again_at_most_once_in_its_life(play):
    begin(play, 1)
    play.down()
    play.up(incarnation=2)
    assert settled(play.down(incarnation=2)) == {1: LOST}


def test_what_is_reported_before_runs_no_second_time(play):
    begin(play, 1, 2)
    assert settled(play.done(1, 1, last=False)) == {1: (Outcome.OK, Reason.NONE)}
    assert play.down() == []
    assert dispatched(play.up(incarnation=2)) == [(2, (2,), 2)]


def test_one_whose_execution_fails_then_has_failed(play):
    begin(play, 1, 2)
    play.down()
    play.up(incarnation=2)
    commands = play.error(2)
    assert settled(commands) == {1: (Outcome.FAILED, Reason.UNKNOWN_FAILURE)}
    assert dispatched(commands) == [(3, (2,), 3)]


def test_steps_of_sequences_fail(play):
    play.fixed(idempotent=True)
    play.up()
    play.feed(replace(play.request(1), sequence="s"), play.request(2))
    assert settled(play.down()) == {1: LOST}


def test_one_that_has_expired_ends_so(play):
    begin(play, 1, 2)
    play.up("j")
    play.arrive(3, expires=20)
    play.now = 30
    assert settled(play.down("j")) == {3: (Outcome.EXPIRED, Reason.CALLER_DEADLINE)}


def test_one_whose_limit_has_passed_has_failed_with_its_instance(play):
    play.model("m", Adaptive(limit_ns=100 * MILLISECOND), 1, target=50, idempotent=True)
    play.up()
    play.arrive(1)
    play.now = 100
    assert settled(play.down()) == {1: LOST}
    assert play.scheduler.models["m"].bisections.saved == 0


def test_a_split_request_counts_once_among_those_that_run_again(play):
    play.fixed(idempotent=True, max_rows=2)
    play.up(max_in_flight=2)
    assert len(dispatched(play.arrive(1, rows=4))) == 2
    play.down()
    assert play.scheduler.models["m"].bisections.saved == 1


def test_no_more_wait_to_run_again_than_may_wait_at_all(play):
    begin(play, 1, max_requests=2)
    play.up("j")
    play.arrive(2)
    play.up("k")
    play.arrive(3)
    assert play.down("i") == []
    assert play.down("j") == []
    assert settled(play.down("k")) == {3: LOST}
    validate(play.scheduler)


def test_one_that_waits_to_run_again_expires_and_may_be_cancelled(play):
    begin(play, 1)
    play.up("j")
    play.arrive(2, expires=50)
    play.down("i")
    play.down("j")
    assert settled(play.cancel(1)) == {1: (Outcome.CANCELLED, Reason.CALLER_CANCELLED)}
    assert settled(play.feed(at=60)) == {2: (Outcome.EXPIRED, Reason.CALLER_DEADLINE)}
    validate(play.scheduler)


def test_a_split_request_keeps_what_is_done(play):
    play.fixed(idempotent=True, max_rows=2)
    play.up()
    [(batch, *_)] = dispatched(play.arrive(1, rows=4))
    [(batch, *_)] = dispatched(play.done(batch, 1))
    play.down()
    commands = play.up(incarnation=2)
    [dispatch] = commands
    assert [(part.start, part.stop) for part in dispatch.parts] == [(2, 4)]
    assert settled(play.done(dispatch.batch_id, 1)) == {1: (Outcome.OK, Reason.NONE)}
    validate(play.scheduler)


def test_one_that_fits_no_batch_any_more_is_split(play):
    play.fixed(idempotent=True, max_rows=4)
    play.up()
    play.arrive(1, rows=3)
    play.fixed(idempotent=True, max_rows=2)
    assert play.down() == []
    [dispatch] = play.up(incarnation=2)
    assert [(part.start, part.stop) for part in dispatch.parts] == [(0, 2)]
    validate(play.scheduler)


def test_a_removed_model_fails_them(play):
    begin(play, 1)
    play.remove()
    assert settled(play.down()) == {1: LOST}


def test_once_no_instance_will_come_what_waits_is_refused(play):
    begin(play, 1, 2)
    play.arrive(3)
    assert play.failed() == []
    play.down()
    commands = play.failed()
    assert settled(commands) == dict.fromkeys((1, 2, 3), (Outcome.REJECTED, Reason.NO_INSTANCE))
    assert all(settle.retry_after_ns for settle in commands)
    assert play.failed("?") == []


def test_a_restored_scheduler_goes_on_with_them(play):
    begin(play, 1, 2, 3)
    play.down()
    play.up(incarnation=2)
    play.down(incarnation=2)
    again = Scheduler.restore(play.scheduler.snapshot())
    assert again.snapshot() == play.scheduler.snapshot()
    play.scheduler = again
    assert dispatched(play.up(incarnation=3)) == [(3, (2,), 2)]
    validate(again)


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_batch_that_may_have_begun_behind_another_counts_as_begun(play, overlaps):
    play.fixed(idempotent=True, max_rows=4)
    profile = tuple((rows, 10 * MILLISECOND) for rows in (1, 4))
    copies = (((), tuple((rows, MILLISECOND) for rows in (1, 4))),)
    instance = InstanceUp("i", 1, "m", "d", 1, profile, (), True, copies, overlaps)
    play.feed(instance)
    assert dispatched(play.arrive(1, 2, 3, 4)) == [(1, (1, 2, 3, 4), 1)]
    play.arrive(5, 6, 7, 8, at=1)
    assert dispatched(play.feed(at=10.5)) == [(2, (5, 6, 7, 8), 1)]
    assert play.scheduler.fleet.instances["i"].next == 2
    assert play.down() == []
    took, commands = [], play.up(incarnation=2)
    while found := dispatched(commands):
        [(batch_id, ids, _)] = found
        took.append(ids)
        commands = play.done(batch_id, *ids)
    assert took[:2] == [(1, 2), (3, 4)]
    # One of them may have brought the instance down: it takes no more than its group with it.
    assert took[2:] == ([(5, 6), (7, 8)] if overlaps else [(5, 6, 7, 8)])
    validate(play.scheduler)
