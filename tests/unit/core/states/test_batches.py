"""Every row of the table of batches: the state, the cause, the next state, the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import FailureCause, ModelRemoved
from batcher.core.settings import Adaptive
from batcher.testing.states import batch_state
from batcher.testing.transitions import read_transitions, recorded_transitions

PAGE = Path(__file__).parents[4] / "docs" / "scheduler-states.md"
ROWS = read_transitions(PAGE)
EXPIRES = 100


# Each scenario sets up, yields the batch's id, and then has the cause happen.


def batch_begins(early):
    def scenario(world, _):
        if early:
            world.play.fixed(max_rows=1)
            world.up(prefetches=True)
            world.learn_the_gap()
            world.play.arrive(0)
            world.play.arrive(1)
            yield world.last_batch() + 1
            world.until_prefetched()
        else:
            world.waiting()
            yield world.last_batch() + 1
            world.end_of_0()

    return scenario


def next_begins(cancelled_before):
    def scenario(world, _):
        world.prefetched(others=(2,), max_rows=2)
        if cancelled_before:
            world.play.cancel(2)
        yield world.last_batch()
        world.end_of_0()

    return scenario


def batch_of_four(world, before):
    """The id of a batch of requests 5, 6, 1 and 7 in the state `before`."""
    if before == "prefetched":
        world.prefetched(others=(5, 6, 7), max_rows=4)
    else:
        world.running(others=(5, 6, 7), max_rows=4)
    batch_id = world.scheduler.live[1].batch_id
    if before == "partly done":
        world.play.done(batch_id, 5, last=False)
    return batch_id


def in_batch(act):
    """A scenario for any state of a batch: enter it, then act on the batch."""

    def scenario(world, before):
        batch_id = batch_of_four(world, before)
        yield batch_id
        act(world, batch_id)

    return scenario


def elsewhere(enter, act, batch_id=1):
    """Request 1 has rows in a batch that runs, and ends because of its others."""

    def scenario(world, _):
        enter(world)
        yield batch_id
        act(world)

    return scenario


def rest_waits_until_its_limit(world, _):
    world.adaptive(Adaptive(limit_ns=EXPIRES * MILLISECOND), target=50, max_rows=2)
    world.up(warm=False)
    world.play.arrive(1, rows=6)
    yield 1
    world.play.feed(at=EXPIRES)


def rest_given_up(world, _):
    world.adaptive(target=50, max_rows=2)
    world.up("i")
    world.up("j")
    world.play.arrive(0, rows=2, at=0, due=1000)
    world.play.arrive(1, rows=4, expires=45)
    yield 2
    world.play.done(1, 0, at=40)


def device_fails(world, batch_id):
    world.play.error(batch_id, FailureCause.DEVICE)


BATCHES = {
    ("new", "dispatch", "running"): batch_begins(early=False),
    ("new", "dispatch", "prefetched"): batch_begins(early=True),
    ("prefetched", "BatchProgress", "running"): next_begins(cancelled_before=False),
    ("prefetched", "BatchProgress", "partly done"): next_begins(cancelled_before=True),
    ("BatchProgress", "partly done"): in_batch(
        lambda world, batch_id: world.play.done(batch_id, 6, last=False)
    ),
    ("RequestCancelled", "partly done"): in_batch(lambda world, _: world.play.cancel(1)),
    ("expiry", "partly done"): elsewhere(
        lambda world: world.partly_run(expires=EXPIRES),
        lambda world: world.play.feed(at=EXPIRES),
    ),
    ("limit", "partly done"): rest_waits_until_its_limit,
    ("give up", "partly done"): rest_given_up,
    ("ModelConfigured", "partly done"): elsewhere(
        lambda world: world.suspect_in_two_batches(), lambda world: world.play.fixed(max_rows=1), 2
    ),
    ("ModelRemoved", "partly done"): elsewhere(
        lambda world: world.partly_run(), lambda world: world.play.feed(ModelRemoved("m"))
    ),
    ("InstanceDown", "partly done"): elsewhere(
        lambda world: world.in_two_batches(), lambda world: world.play.down("i"), 2
    ),
    ("InstanceUp", "partly done"): elsewhere(
        lambda world: world.in_two_batches(), lambda world: world.up("i", 2, warm=False), 2
    ),
    ("BatchProgress", "done"): in_batch(
        lambda world, batch_id: world.play.done(batch_id, 5, 6, 1, 7)
    ),
    ("BatchProgress", "bisected"): in_batch(lambda world, batch_id: world.play.error(batch_id)),
    ("BatchProgress", "failed"): in_batch(device_fails),
    ("InstanceDown", "lost"): in_batch(lambda world, _: world.play.down()),
    ("InstanceUp", "lost"): in_batch(lambda world, _: world.up("i", 2, warm=False)),
}
"""By state, cause and next state, or by the last two."""


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.kind == "batch"],
    ids=lambda row: f"{row.before}-{row.cause}-{row.after}",
)
def test_a_batch_goes_from_state_to_state_as_the_table_says(world, row):
    scenario = BATCHES.get((row.before, row.cause, row.after)) or BATCHES[row.cause, row.after]
    with recorded_transitions() as recorder:
        steps = scenario(world, row.before)
        batch_id = next(steps)
        batch = world.scheduler.fleet.batches.get(batch_id)
        state = "new" if batch is None else batch_state(batch, world.scheduler.fleet)
        assert state == row.before
        so_far = len(recorder.seen)
        next(steps, None)
    assert row in [seen for each, seen in recorder.seen[so_far:] if each == ("batch", batch_id, 0)]
    assert {seen for _, seen in recorder.seen} <= set(ROWS)


def test_the_table_has_a_row_for_each_scenario():
    rows = {(row.before, row.cause, row.after) for row in ROWS if row.kind == "batch"}
    assert set(BATCHES) <= rows | {(cause, after) for _, cause, after in rows}
