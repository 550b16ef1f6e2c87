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
    ModelRemoved,
)
from batcher.core.faults.bisection import STORM_FAILURES
from batcher.core.lifecycle import request_state
from batcher.core.settings import Adaptive
from batcher.testing.transitions import read_transitions, recorded_transitions

PAGE = Path(__file__).parents[4] / "docs" / "scheduler-states.md"
ROWS = read_transitions(PAGE)
REFUSE = Adaptive(limit_ns=25 * MILLISECOND)


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


def arrives_best_effort(world, _):
    world.adaptive()
    world.up()
    world.play.arrive(0, at=0)
    yield
    world.play.arrive(1, at=1)


def arrives_unknown(world, _):
    yield
    world.play.arrive(1)


def makes_room(world, before):
    match before:
        case "waiting":
            world.waiting(max_requests=1)
        case "best-effort":
            world.best_effort(max_requests=1)
        case _:
            world.promoted(max_groups=1)
    yield
    if before == "promoted":
        world.play.arrive(2, key="other", due=1000)
    else:
        world.play.feed(replace(world.play.request(2, due=1000), priority=1))


def too_many_promoted(world, _):
    world.best_effort(others=(5,), promote_after=5)
    yield
    world.play.feed(at=6)


def given_up(world, before):
    """Request 0 runs for twice as long as expected."""
    match before:
        case "waiting":
            world.adaptive(REFUSE, target=25)
            world.up()
            world.play.arrive(0, at=0)
            world.play.arrive(1, at=1)
        case "best-effort" | "promoted":
            world.enter(before, expires=25)
            # A target that no batch can meet: all is served that its deadline leaves time for.
            world.adaptive(target=5)
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
    world.best_effort(others=(5,), max_rows=1)
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
    elif before == "best-effort":
        world.best_effort(max_rows=1, prefetches=True)
    else:
        world.promoted(max_rows=1, prefetches=True)
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
        rest = {"waiting": {}, "best-effort": {}, "promoted": {"promote_after": 1000, "at": 1001}}
        if before == "suspect":
            # Of four; the half that runs again fails, and so request 1 is cleared.
            enter_batch(world, how, rest[how], others=(5, 6), after=(7,))
            world.play.error(world.last_batch())
            yield
            world.play.error(world.last_batch())
            return
        rest = rest[how] | {"prefetches": True} if before == "prefetched" else rest[how]
        enter_batch(world, how, rest, others=(2,), rows=2)
        configure = world.play.fixed if how == "waiting" else world.adaptive
        configure(max_rows=1)
        yield
        report(error=FailureCause.UNKNOWN)(world)

    return scenario


def enter_batch(world, how, rest, **requests):
    """Request 1 and others are in a batch of four rows, as it was in the state `how` before."""
    if how == "waiting":
        state = "prefetched" if rest.get("prefetches") else "running"
        world.enter(state, max_rows=4, **requests)
        return
    world.enter(how, max_rows=4, **requests, **rest)
    if rest.get("prefetches"):
        world.until_prefetched()
    else:
        world.end_of_0()


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


def another_policy(world, before):
    world.enter(before)
    if before == "promoted":
        world.play.fixed()
    yield
    if before == "promoted":
        world.adaptive()
    else:
        world.play.fixed()


def outgrows(world, _):
    world.suspect(rows=2, max_rows=4)
    yield
    world.play.fixed(max_rows=1)


def piece_outgrows(world, before):
    if before == "suspect":
        world.suspect_in_two_batches()
    else:
        world.partly_run_and_suspect()
    yield
    world.play.fixed(max_rows=1)


def remove(world):
    world.play.feed(ModelRemoved("m"))


EXPIRES = 100

REQUESTS = {
    ("RequestArrived", "waiting"): arrives(lambda world: world.play.arrive(1)),
    ("RequestArrived", "best-effort"): arrives_best_effort,
    ("RequestArrived", "refused"): arrives_unknown,
    ("RequestArrived", "expired"): arrives(lambda world: world.play.arrive(1, expires=0)),
    ("RequestCancelled", "cancelled"): cancelled(CancelCause.CANCELLED),
    ("RequestCancelled", "expired"): cancelled(CancelCause.DEADLINE),
    ("expiry", "expired"): from_state(lambda world: world.play.feed(at=EXPIRES), expires=EXPIRES),
    ("promotion", "promoted"): from_state(lambda world: world.play.feed(at=6), promote_after=5),
    ("promotion", "refused"): too_many_promoted,
    ("give up", "best-effort"): given_up_but_served,
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
    ("BatchProgress", "best-effort"): comes_back("best-effort"),
    ("BatchProgress", "promoted"): comes_back("promoted"),
    ("InstanceDown", "failed"): instance_goes("down"),
    ("InstanceUp", "failed"): instance_goes("up"),
    ("ModelConfigured", "waiting"): another_policy,
    ("ModelConfigured", "failed"): piece_outgrows,
    ("ModelRemoved", "refused"): from_state(remove),
}
"""By cause and next state; where these do not say all, `BY_STATE` goes before."""

BY_STATE = {
    ("waiting", "RequestArrived", "refused"): makes_room,
    ("best-effort", "RequestArrived", "refused"): makes_room,
    ("promoted", "RequestArrived", "refused"): makes_room,
    ("partly run", "dispatch", "running"): last_piece,
    ("partly run", "dispatch", "suspect"): last_piece_beside_a_suspect,
    ("suspect", "dispatch", "running"): group_runs_again,
    ("suspect", "ModelConfigured", "waiting"): outgrows,
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
