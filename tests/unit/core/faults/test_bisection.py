"""Batches that fail as a whole, and the search for the requests that make them fail."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Dispatch, Outcome, Reason, Settle
from batcher.core.events import (
    BatchProgress,
    FailureCause,
    InstanceUp,
    ModelRemoved,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive
from batcher.simulation.engine.driver import succeed
from batcher.testing.invariants import validate

OK = (Outcome.OK, Reason.NONE)
INPUT = (Outcome.FAILED, Reason.INPUT_FAILURE)
UNKNOWN = (Outcome.FAILED, Reason.UNKNOWN_FAILURE)
DEVICE = (Outcome.FAILED, Reason.DEVICE_FAILURE)


@pytest.mark.parametrize("fault", range(1, 9))
def test_a_failing_input_has_one_reason_at_every_place_of_its_batch(bursts, fault):
    world = bursts({fault}, cause=FailureCause.INPUT)
    assert world.burst(1, 8) == {n: INPUT if n == fault else OK for n in range(1, 9)}


def test_input_failure_is_the_reason_only_of_requests_that_failed_alone(bursts):
    world = bursts(set(range(1, 9)), cause=FailureCause.INPUT)
    ended = world.burst(1, 8)
    alone = {d.parts[0].id for d in world.dispatches if len(d.parts) == 1}
    assert alone
    assert ended == {n: INPUT if n in alone else UNKNOWN for n in range(1, 9)}


@given(st.integers(2, 64), st.data())
def test_one_failing_request_is_found_within_the_bound(bursts, count, data):
    at_fault = data.draw(st.integers(0, count - 1))
    world = bursts({at_fault})

    ends = world.burst(0, count)

    assert ends == {i: UNKNOWN if i == at_fault else OK for i in range(count)}
    assert world.extra < 2 * math.log2(count) + 1
    world.assert_bisections_are_bounded()


@given(st.integers(2, 64), st.data())
def test_a_few_failing_requests_are_all_found(bursts, count, data):
    failing = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=3))
    world = bursts(failing)

    ends = world.burst(0, count)

    assert all(ends[i] == UNKNOWN for i in failing)
    assert world.extra < (2 * math.log2(count) + 1) * len(failing)
    world.assert_bisections_are_bounded()
    innocents = {i: ends[i] for i in range(count) if i not in failing}
    assert innocents == dict.fromkeys(innocents, OK)


@given(st.integers(2, 64), st.data())
def test_executions_are_bounded_and_all_requests_end_whichever_fail(bursts, count, data):
    failing = data.draw(st.sets(st.integers(0, count - 1)))
    world = bursts(failing)

    ends = world.burst(0, count)

    assert set(ends) == set(range(count))
    assert all(ends[i] == UNKNOWN for i in failing)
    assert world.extra < max(1, (2 * math.log2(count) + 1) * len(failing))
    world.assert_bisections_are_bounded()


def test_after_a_failure_that_does_not_recur_all_succeed(together):
    assert together.batches(together.error(2)) == [[1, 2]]
    assert together.batches(together.done(3, 1, 2)) == [[3]]
    assert together.batches(together.done(4, 3)) == [[4]]
    assert together.ended(together.done(5, 4)) == {4: OK}


def test_suspects_run_among_themselves_and_cleared_requests_with_new_ones(failed):
    failed.arrive(5)
    assert failed.batches(failed.error(3)) == [[1]]  # 3 and 4 are cleared
    commands = failed.error(4)  # and 2 is, too
    assert failed.ended(commands) == {1: UNKNOWN}
    (together,) = (c for c in commands if isinstance(c, Dispatch))
    assert (sorted(p.id for p in together.parts), together.attempt) == ([2, 3, 4, 5], 1)


def test_a_request_that_has_been_cleared_before_is_deferred(together):
    together.scheduler.live[3].requeues = 1
    together.error(2)
    together.arrive(5)
    together.error(3)  # 4 is cleared, and 2 is, too
    (deferred,) = (c for c in together.error(4) if isinstance(c, Dispatch))
    assert ([p.id for p in deferred.parts], deferred.attempt) == ([3], 4)
    assert sorted(together.batches(together.done(5, 3))[0]) == [2, 4, 5]


def test_cleared_requests_are_served_late_rather_than_refused(play):
    play.model("m", Adaptive(limit_ns=SECOND), 8, target=20)
    profile = tuple((rows, 5 * MILLISECOND) for rows in (1, 2, 4, 8))
    play.feed(InstanceUp("i", 1, "m", "d", 1, profile))
    play.arrive(0)
    play.arrive(1, 2, 3, 4)
    play.done(1, 0, at=5)
    play.error(2, at=15)
    assert not play.ended(play.error(3, at=25))  # 3 and 4 can only be late now
    commands = play.error(4, at=30)  # and 2 is cleared, too
    assert play.ended(commands) == {1: UNKNOWN}
    served = []
    while play.scheduler.live:
        (batch,) = (c for c in commands if isinstance(c, Dispatch))
        served += (ids := [part.id for part in batch.parts])
        commands = play.done(batch.batch_id, *ids)
    assert sorted(served) == [2, 3, 4]


def test_what_has_failed_with_others_ends_at_its_limit(play):
    """Request 1 runs again first; 2 waits for it no longer than until its limit."""
    play.model("m", Adaptive(limit_ns=40 * MILLISECOND), 8, target=20)
    play.up()
    play.arrive(1, 2)
    play.error(1, at=10)
    assert play.wakeup == 40
    assert play.ended(play.feed(at=40)) == {2: (Outcome.REJECTED, Reason.PREDICTED_LATE)}
    assert play.ended(play.error(2, at=45)) == {1: UNKNOWN}


def test_a_batch_that_fails_after_the_limits_of_its_requests_does_not_run_again(play):
    play.model("m", Adaptive(limit_ns=40 * MILLISECOND), 8, target=20)
    play.up()
    play.arrive(1, 2)
    late = Outcome.REJECTED, Reason.PREDICTED_LATE
    assert play.ended(play.error(1, at=40)) == {1: late, 2: late}
    assert not play.scheduler.live


def test_queue_bounds_hold_for_new_requests_and_not_for_cleared_ones(play):
    play.fixed(max_rows=8, max_requests=4)
    play.up()
    play.arrive(0)
    play.arrive(1, 2, 3, 4)
    play.done(1, 0)
    play.error(2)
    play.arrive(5, 6, 7)
    play.error(3)  # 3 and 4 come back to three others
    assert play.scheduler.observe(0).models[0].waiting_requests == 6
    assert play.ended(play.arrive(8)) == {8: (Outcome.REJECTED, Reason.QUEUE_REQUESTS)}


def test_a_snapshot_during_a_bisection_is_complete(together):
    together.error(2)
    together.error(3)
    state = together.scheduler.snapshot()
    twin = Scheduler.restore(state)
    validate(twin)
    assert twin.snapshot() == state
    event = BatchProgress(4, (), error=FailureCause.UNKNOWN)
    assert twin.handle([event], 0) == together.feed(event)


@pytest.fixture
def together(play):
    """Requests 1 to 4 run in one batch, the second; the first has succeeded."""
    play.fixed(max_rows=8)
    play.up()
    play.arrive(0)
    play.arrive(1, 2, 3, 4)
    play.done(1, 0)
    return play


@pytest.fixture
def failed(play):
    """Requests 1 to 4 failed together; 1 and 2 run again, 3 and 4 wait."""
    play.fixed(max_rows=8)
    play.up()
    play.arrive(0)
    play.feed(*(play.request(i, expires=9 if i == 4 else None) for i in (1, 2, 3, 4)))
    play.done(1, 0)
    play.error(2)
    return play


def test_a_batch_of_one_request_is_not_run_again(play):
    play.fixed(max_rows=8)
    play.up()
    play.arrive(1, rows=8)
    assert play.ended(play.error(1, FailureCause.INPUT)) == {1: INPUT}


def test_a_device_failure_is_not_bisected(play):
    play.fixed(max_rows=2)
    play.up()
    play.arrive(0)
    play.arrive(1, 2)
    play.done(1, 0)
    assert play.error(2, FailureCause.DEVICE) == [
        Settle((1, 2), Outcome.FAILED, Reason.DEVICE_FAILURE, SECOND)
    ]


def test_a_device_failure_during_a_bisection_fails_what_ran(failed):
    commands = failed.error(3, FailureCause.DEVICE)
    assert failed.ended(commands) == {1: DEVICE, 2: DEVICE}
    assert failed.batches(commands) == [[3, 4]]


def test_what_waits_to_run_again_expires_and_can_be_cancelled(failed):
    assert failed.scheduler.observe(0).models[0].waiting_requests == 2
    assert failed.ended(failed.feed(at=9)) == {4: (Outcome.EXPIRED, Reason.CALLER_DEADLINE)}
    assert failed.ended(failed.cancel(3)) == {3: (Outcome.CANCELLED, Reason.CALLER_CANCELLED)}
    assert failed.ended(failed.done(3, 1, 2)) == {1: OK, 2: OK}
    assert failed.scheduler.models["m"].bisections.open == []


def test_a_request_past_its_deadline_is_not_run_again(failed):
    failed.done(3, 1, 2)
    failed.done(4, 3)
    assert failed.ended(failed.error(5, at=12)) == {4: (Outcome.EXPIRED, Reason.CALLER_DEADLINE)}


def test_an_instance_that_goes_down_fails_what_it_ran(failed):
    failed.up("j")
    down = (Outcome.FAILED, Reason.INSTANCE_DOWN)
    assert failed.ended(failed.down("i")) == {1: down, 2: down}
    assert failed.ended(failed.done(4, 3, 4)) == {3: OK, 4: OK}


def test_a_batch_fails_where_no_instance_could_run_it_again(failed):
    failed.draining()
    assert failed.ended(failed.error(3)) == {1: UNKNOWN, 2: UNKNOWN}


def test_a_model_that_is_removed_refuses_what_waits_to_run_again(failed):
    removed = (Outcome.REJECTED, Reason.MODEL_REMOVED)
    assert failed.ended(failed.feed(ModelRemoved("m"))) == {3: removed, 4: removed}
    assert failed.ended(failed.error(3)) == {1: UNKNOWN, 2: UNKNOWN}


def test_a_smaller_maximum_halves_what_waits_to_run_again(failed):
    failed.fixed(max_rows=1)
    assert failed.batches(failed.done(3, 1, 2)) == [[3]]
    assert failed.batches(failed.done(4, 3)) == [[4]]
    assert failed.ended(failed.done(5, 4)) == {4: OK}


def test_a_request_that_fits_no_batch_any_more_is_split(play):
    play.fixed(max_rows=32)
    play.up()
    play.arrive(0)
    play.feed(*(play.request(i, rows=8) for i in (1, 2, 3, 4)))
    play.done(1, 0)
    play.error(2)
    assert not play.ended(play.fixed(max_rows=4))
    validate(play.scheduler)
    commands, rows = play.done(3, 1, 2), {3: 0, 4: 0}
    while play.scheduler.live:
        ((batch,),) = (play.parts(commands),)
        for request_id, start, stop in batch:
            rows[request_id] += stop - start
        commands = play.done(
            play.scheduler.contents.next_batch_id - 1, *{part[0] for part in batch}
        )
    assert rows == {3: 8, 4: 8}


def test_a_batch_that_fails_after_the_largest_became_smaller_is_split(play):
    play.fixed(max_rows=32)
    play.up()
    play.arrive(0)
    play.feed(*(play.request(i, rows=8) for i in (1, 2)))
    play.done(1, 0)
    play.fixed(max_rows=4)
    assert not play.ended(play.error(2))
    validate(play.scheduler)
    assert set(play.scheduler.live) == {1, 2}


def test_a_failed_batch_teaches_nothing(failed):
    times = failed.scheduler.models["m"].times.of(())
    *before, _ = times.capture()
    failed.error(3, at=5000)
    *after, _ = times.capture()  # all but when a batch was begun
    assert after == before


def test_pieces_of_a_split_request_are_units_too(play):
    play.fixed(max_rows=4)
    play.up()
    play.arrive(1, rows=6)
    play.arrive(2)
    play.done(1, 1)  # batch 2: request 2, and rows 4 and 5 of request 1
    assert play.parts(play.error(2)) == [[(2, 0, 1)]]
    assert play.parts(play.done(3, 2)) == [[(1, 4, 6)]]
    assert play.ended(play.done(4, 1)) == {1: OK}


def test_suspects_do_not_wait_for_ever_behind_new_requests(stage, arrivals):
    stage.model(target=20, policy=Adaptive(limit_ns=SECOND))
    stage.up()
    stage.outcome = lambda dispatch, timings: (
        BatchProgress(dispatch.batch_id, (), error=FailureCause.UNKNOWN)
        if any(part.id == 0 for part in dispatch.parts)
        else succeed(dispatch, timings)
    )
    first = [(0, {}), (0, {}), (0, {}), (0, {})]
    batch_mates, _ = stage.play(first, arrivals(600, 3, 1))
    assert [end.outcome for end in batch_mates] == [Outcome.FAILED] + 3 * [Outcome.OK]
    assert max(end.took_ns for end in batch_mates) <= 200 * MILLISECOND
