"""Every row of the table of requests: the state, the cause, the next state, the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    Failure,
    FailureCause,
    ModelConfigured,
    ModelRemoved,
)
from batcher.core.faults.bisection import STORM_FAILURES
from batcher.core.lifecycle import request_state
from batcher.core.settings import Adaptive
from batcher.testing.transitions import read_transitions, recorded_transitions

PAGE = Path(__file__).parents[4] / "docs" / "scheduler-states.md"
ROWS = read_transitions(PAGE)
REFUSE = Adaptive(limit_ns=25 * MILLISECOND)
EXPIRES, LIMIT = 100, 100
LIMITED = Adaptive(limit_ns=LIMIT * MILLISECOND, late_share=0.0)


class Broken:
    """A policy that raises."""

    def __getattr__(self, name):
        raise RuntimeError("no luck")


# Scenarios: each sets up, yields once, and then has the cause happen.


def from_state(act, **enter):
    """A scenario for any state: enter it, then act."""

    def scenario(world, before):
        world.enter(before, **enter)
        yield
        act(world)

    return scenario


def cancelled(cause):
    return from_state(lambda world: world.play.cancel(1, cause))


def after_first_ends(**enter):
    """The running request 0 ends, so that the instance is free."""
    return from_state(lambda world: world.end_of_0(), **enter)


def arrives(act, **model):
    def scenario(world, _):
        world.play.fixed(**model)
        world.up(warm=False)
        yield
        act(world)

    return scenario


def arrives_late(world, _):
    world.adaptive()
    world.up()
    world.play.arrive(0, at=0)
    yield
    world.play.arrive(1, at=1)


def arrives_unknown(world, _):
    yield
    world.play.arrive(1)


def makes_room(world, before):
    if before == "waiting":
        world.waiting(max_requests=1)
    elif before == "held":
        world.held(max_requests=2)
        world.play.arrive(3)
    else:
        world.late(max_requests=1)
    yield
    world.play.feed(replace(world.play.request(2, due=1000), priority=1))


def arrives_second(world, _):
    world.play.fixed(max_rows=4)
    world.up(warm=False)
    world.play.feed(replace(world.play.request(0), sequence="s"))
    yield
    world.play.feed(replace(world.play.request(1), sequence="s"))


def released(world, before):
    world.enter(before)
    yield
    world.end_of_0()


def released_late(world, _):
    """Request 1 is late from its arrival on: what runs leaves no time for it."""
    world.late()
    world.play.feed(replace(world.play.request(2, due=1000), sequence=7), at=2)
    world.play.cancel(1, CancelCause.CANCELLED)
    world.play.feed(replace(world.play.request(1, due=15), sequence=7), at=3)
    yield
    world.play.cancel(2, CancelCause.CANCELLED)


def waits_until_its_limit(world, before):
    """Nothing has been measured, but where request 1 is late."""
    if before == "held":
        world.held(policy=LIMITED)
    elif before == "late":
        world.late(policy=LIMITED)
    else:
        world.adaptive(LIMITED, target=50, max_rows=1 if before == "waiting" else 2)
        world.up(warm=False)
        if before == "waiting":
            world.play.arrive(0)
            world.play.arrive(1)
        elif before == "partly run":
            world.play.arrive(1, rows=6)
        else:
            world.play.arrive(2, 1)
            world.play.error(1)
    yield
    world.play.feed(at=LIMIT + 1)


def out_of_reach(world, _):
    """More is offered than can be served, and late requests have no share of their own."""
    world.late(policy=LIMITED, max_rows=1)
    world.play.arrive(2, at=2, due=1000)
    yield
    world.scheduler.models["m"].late.backlog = 1000.0
    world.end_of_0(at=12)


def given_up(world, before):
    """Request 0 runs for twice as long as expected."""
    match before:
        case "waiting":
            world.adaptive(REFUSE, target=25)
            world.up()
            world.play.arrive(0, at=0)
            world.play.arrive(1, at=1)
        case "late":
            world.late(expires=25)
        case _:
            world.adaptive(target=50, max_rows=2)
            world.up()
            world.play.arrive(1, rows=4, expires=45)
    yield
    if before == "partly run":
        world.play.done(1, 1, at=40)
    else:
        world.end_of_0(at=20)


def given_up_but_served(world, _):
    world.adaptive(target=25)
    world.up()
    world.play.arrive(0, at=0)
    world.play.arrive(1, at=1)
    yield
    world.end_of_0(at=20)


def policy_raises(world, _):
    world.late(others=(5,), max_rows=1)
    yield
    world.scheduler.models["m"].policy = Broken()
    world.end_of_0(at=12)


def dispatched_in_pieces(world, before):
    if before == "waiting":
        world.waiting(rows=6, max_rows=2)
    else:
        world.enter(before, rows=6, max_rows=2)
    yield
    world.end_of_0(at=world.play.now)


def dispatched_early(world, before):
    if before == "waiting":
        world.play.fixed(max_rows=1)
        world.up(prefetches=True)
        world.learn_the_gap()
        world.play.arrive(0)
        world.play.arrive(1)
    else:
        world.late(max_rows=1, prefetches=True)
    yield
    world.until_prefetched()


def last_piece(world, _):
    world.partly_run(rows=3)
    yield
    world.play.done(1, 1)


def last_piece_beside_a_suspect(world, _):
    """Request 3 is urgent, and the last rows of 1 fill its batch."""
    world.adaptive(target=50, max_rows=4)
    world.up()
    first = world.play.request(0, rows=2, due=900), world.play.request(1, rows=5, due=1000)
    world.play.feed(*first, at=0)
    world.play.error(1)
    world.play.arrive(3, at=5, due=22)
    yield
    world.play.done(2, 0, at=10)


def group_runs_again(world, _):
    world.suspect()
    yield
    world.play.done(2, 2)


def report(done=(), failed=(), error=None, *, at=None, batch=None):
    """The last report of the batch that request 1 is in."""

    def act(world):
        request = world.scheduler.live[1]
        batch_id = request.batch_id if batch is None else batch
        failures = tuple(Failure(i, FailureCause.INPUT) for i in failed)
        world.play.feed(BatchProgress(batch_id, done, failures, error=error), at=at)

    return act


def request_failed(world, before):
    if before == "suspect":
        # Of four, 5 and 6 run again, and fail as all has lately: a failure storm. 1 was cleared before.
        world.play.fixed(max_rows=4)
        world.up(warm=False)
        world.play.arrive(5, 6, 1, 7)
        world.play.error(1)
        world.scheduler.models["m"].bisections.failures_in_a_row = STORM_FAILURES - 1
        world.scheduler.live[1].requeues = 1
        yield
        world.play.error(2)
        return
    world.enter(before)
    yield
    report(failed=(1,), batch=1 if before == "partly run" else None)(world)


def comes_back(how):
    """To the queue: cleared, or too large for a batch of the size that is set meanwhile."""

    def scenario(world, before):
        if before == "suspect":
            # Of four; the half that runs again fails, and so request 1 is cleared.
            world.enter_batch(how, {}, others=(5, 6), after=(7,))
            world.play.error(world.last_batch())
            yield
            world.play.error(world.last_batch())
            return
        rest = {"prefetches": True} if before == "prefetched" else {}
        world.enter_batch(how, rest, others=(2,), rows=2)
        configure = world.play.fixed if how == "waiting" else world.adaptive
        configure(max_rows=1)
        yield
        report(error=FailureCause.UNKNOWN)(world)

    return scenario


def expired_in_batch(world, before):
    world.enter(before, expires=60)
    yield
    report(error=FailureCause.UNKNOWN, at=60)(world)


def bisected(world, before):
    world.enter(before, others=(2,), max_rows=2)
    yield
    report(error=FailureCause.UNKNOWN)(world)


def instance_goes(how):
    def scenario(world, before):
        if before == "suspect":
            world.suspect_in_two_batches()
        else:
            world.enter(before)
        yield
        name = "j" if before == "suspect" else "i"
        if how == "down":
            world.play.down(name)
        else:
            world.up(name, 2, warm=False)

    return scenario


def may_run_again(cause, at=None, enter=None, **rest):
    """The model is idempotent, so that what was on the instance may run once more."""

    def scenario(world, before):
        if enter is None:
            world.enter(before, **rest)
        else:
            enter(world, before)
        settings = world.scheduler.models["m"].settings
        world.play.feed(ModelConfigured("m", replace(settings, idempotent=True)))
        yield
        world.play.now = world.play.now if at is None else at
        _ = world.play.down() if cause == "InstanceDown" else world.up("i", 2, warm=False)

    return scenario


def late_in_batch(world, before):
    """Alone it has more rows than a batch now, so that it goes back to the queue."""
    rest = {"prefetches": True} if before == "prefetched" else {}
    world.enter_batch("late", rest, others=(2,), rows=2)
    world.adaptive(max_rows=1)


def large_in_batch(world, before):
    world.enter(before, max_rows=4, others=(2,), rows=2)
    world.play.fixed(max_rows=1)


def in_batch_with_a_limit(world, before):
    world.adaptive(LIMITED, target=50, max_rows=2)
    world.up(prefetches=before == "prefetched")
    if before == "prefetched":
        world.learn_the_gap()
        world.play.arrive(0, rows=2)
        world.play.arrive(2, 1)
        world.until_prefetched()
    else:
        world.play.arrive(2, 1)


def another_policy(world, before):
    world.enter(before)
    yield
    world.play.fixed()


def limit_passed_in_batch(world, before):
    in_batch_with_a_limit(world, before)
    yield
    report(error=FailureCause.UNKNOWN, at=world.play.now + LIMIT)(world)


def backend_overloaded(world, before):
    if before == "suspect":
        world.suspect_in_two_batches()
    else:
        world.enter(before)
    yield
    batches = world.scheduler.fleet.batches.values()
    running = next(each.batch_id for each in batches if 1 in each.unreported)
    report(error=FailureCause.OVERLOADED, batch=running)(world)


def outgrows(world, _):
    world.suspect(rows=2, max_rows=4)
    yield
    world.play.fixed(max_rows=1)


def late_one_outgrows(world, _):
    world.enter_batch("late", {}, others=(2,), rows=2)
    world.play.error(world.last_batch())
    yield
    world.adaptive(max_rows=1)


def piece_outgrows(world, before):
    if before == "suspect":
        world.suspect_in_two_batches()
    else:
        world.partly_run_and_suspect()
    yield
    world.play.fixed(max_rows=1)


def remove(world):
    world.play.feed(ModelRemoved("m"))


def instances_fail(world, before):
    if before == "held":
        world.waiting()
        world.play.cancel(1)
        for request_id in (7, 1):
            world.play.feed(replace(world.play.request(request_id), sequence="s"))
    else:
        world.enter(before)
    settings = world.scheduler.models["m"].settings
    for name, instance in list(world.scheduler.fleet.instances.items()):
        # What runs there runs once more, so that what is partly run is not failed.
        world.play.feed(ModelConfigured("m", replace(settings, idempotent=True)))
        world.play.down(name, instance.up.incarnation)
    yield
    world.play.failed()


REQUESTS = {
    ("RequestArrived", "waiting"): arrives(lambda world: world.play.arrive(1)),
    ("RequestArrived", "late"): arrives_late,
    ("RequestArrived", "held"): arrives_second,
    ("release", "waiting"): released,
    ("release", "late"): released_late,
    ("RequestArrived", "refused"): arrives_unknown,
    ("RequestArrived", "expired"): arrives(lambda world: world.play.arrive(1, expires=0)),
    ("RequestCancelled", "cancelled"): cancelled(CancelCause.CANCELLED),
    ("RequestCancelled", "expired"): cancelled(CancelCause.DEADLINE),
    ("expiry", "expired"): from_state(lambda world: world.play.feed(at=EXPIRES), expires=EXPIRES),
    ("limit", "refused"): waits_until_its_limit,
    ("reach", "refused"): out_of_reach,
    ("give up", "late"): given_up_but_served,
    ("give up", "refused"): given_up,
    ("policy failure", "waiting"): policy_raises,
    ("dispatch", "running"): after_first_ends(),
    ("dispatch", "prefetched"): dispatched_early,
    ("dispatch", "partly run"): dispatched_in_pieces,
    ("BatchProgress", "running"): after_first_ends(),
    ("BatchProgress", "answered"): from_state(report(done=(1,))),
    ("BatchProgress", "failed"): request_failed,
    ("BatchProgress", "expired"): expired_in_batch,
    ("BatchProgress", "suspect"): bisected,
    ("BatchProgress", "waiting"): comes_back("waiting"),
    ("BatchProgress", "late"): comes_back("late"),
    ("BatchProgress", "refused"): limit_passed_in_batch,
    ("InstanceDown", "failed"): instance_goes("down"),
    ("InstanceUp", "failed"): instance_goes("up"),
    ("ModelConfigured", "waiting"): another_policy,
    ("ModelConfigured", "failed"): piece_outgrows,
    ("ModelRemoved", "refused"): from_state(remove),
    ("InstancesFailed", "refused"): instances_fail,
}
"""By cause and next state; where these do not say all, `BY_STATE` goes before."""

for each in ("InstanceDown", "InstanceUp"):
    REQUESTS[each, "suspect"] = may_run_again(each)
    REQUESTS[each, "waiting"] = may_run_again(each, enter=large_in_batch)
    REQUESTS[each, "late"] = may_run_again(each, enter=late_in_batch)
    REQUESTS[each, "expired"] = may_run_again(each, 60, expires=60)

BY_STATE = {
    ("held", "RequestArrived", "refused"): makes_room,
    ("waiting", "RequestArrived", "refused"): makes_room,
    ("late", "RequestArrived", "refused"): makes_room,
    ("partly run", "dispatch", "running"): last_piece,
    ("partly run", "dispatch", "suspect"): last_piece_beside_a_suspect,
    ("suspect", "dispatch", "running"): group_runs_again,
    ("suspect", "ModelConfigured", "waiting"): outgrows,
    ("suspect", "ModelConfigured", "late"): late_one_outgrows,
    ("partly run", "BatchProgress", "refused"): backend_overloaded,
    ("suspect", "BatchProgress", "refused"): backend_overloaded,
}


def request_scenario(row):
    return BY_STATE.get((row.before, row.cause, row.after)) or REQUESTS[row.cause, row.after]


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.kind == "request"],
    ids=lambda row: f"{row.before}-{row.cause}-{row.after}",
)
def test_a_request_goes_from_state_to_state_as_the_table_says(world, row):
    with recorded_transitions() as recorder:
        steps = request_scenario(row)(world, row.before)
        next(steps)
        request = world.scheduler.live.get(1)
        state = "new" if request is None else request_state(request, world.scheduler.fleet)
        assert state == row.before
        so_far = len(recorder.seen)
        next(steps, None)
    assert row in [seen for each, seen in recorder.seen[so_far:] if each == ("request", 1, 0)]
    assert {seen for _, seen in recorder.seen} <= set(ROWS)


def test_the_table_has_a_row_for_each_scenario():
    rows = {(row.before, row.cause, row.after) for row in ROWS if row.kind == "request"}
    assert set(BY_STATE) <= rows
    assert set(REQUESTS) <= {(cause, after) for _, cause, after in rows}
