"""Steps of sequences in the scheduler: held behind each other, and counted like all that waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Dispatch, Outcome, Reason, Settle
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    FailureCause,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
)
from batcher.core.scheduler import Scheduler
from batcher.journal.codec import Decoder, Encoder, schema, unpack
from batcher.testing.invariants import validate


def steps(play, *ids, sequence=7, **more):
    return [replace(play.request(i, **more), sequence=sequence) for i in ids]


def dispatched(commands):
    return [[part.id for part in c.parts] for c in commands if isinstance(c, Dispatch)]


def settled(commands):
    return [(c.ids, c.outcome, c.reason) for c in commands if isinstance(c, Settle)]


@pytest.fixture
def busy(play):
    """Steps 1, 2 and 3 of one sequence have arrived, and 1 runs."""
    play.fixed(max_rows=4)
    play.up("i", 1, model="m")
    commands = play.feed(*steps(play, 1, 2, 3))
    assert dispatched(commands) == [[1]]
    return play


def test_the_next_step_begins_in_the_decision_in_which_the_one_before_ends(busy):
    commands = busy.done(1, 1)
    assert dispatched(commands) == [[2]]
    assert dispatched(busy.done(2, 2)) == [[3]]
    busy.done(3, 3)
    assert busy.scheduler.contents.ledger.sequences.steps == {}


def test_steps_of_different_sequences_share_a_batch(busy):
    busy.feed(*steps(busy, 4, 5, sequence=8), busy.request(6))
    assert dispatched(busy.done(1, 1)) == [[4, 6, 2]]
    (batch,) = dispatched(busy.done(2, 4, 6, 2))
    assert sorted(batch) == [3, 5]


@pytest.mark.parametrize("cause", list(CancelCause))
def test_it_begins_when_the_one_that_runs_is_given_up(busy, cause):
    busy.up("j", 1, model="m")
    assert dispatched(busy.cancel(1, cause)) == [[2]]


def test_it_begins_when_the_one_that_runs_has_failed(busy):
    report = BatchProgress(1, (), error=FailureCause.DEVICE)
    commands = busy.feed(report)
    assert settled(commands) == [((1,), Outcome.FAILED, Reason.DEVICE_FAILURE)]
    assert dispatched(commands) == [[2]]


def test_it_begins_when_the_instance_of_the_one_that_runs_was_replaced(busy):
    commands = busy.feed(InstanceUp("i", 2, "m", "d"))
    assert settled(commands) == [((1,), Outcome.FAILED, Reason.INSTANCE_DOWN)]
    assert dispatched(commands) == [[2]]


def test_a_held_step_that_ends_is_skipped(busy):
    commands = busy.cancel(2)
    assert settled(commands) == [((2,), Outcome.CANCELLED, Reason.CALLER_CANCELLED)]
    assert dispatched(busy.done(1, 1)) == [[3]]


def test_a_held_step_expires_on_its_own(busy):
    busy.feed(*steps(busy, 4, expires=30))
    assert busy.scheduler.next_wakeup_ns() == 30 * MILLISECOND
    assert settled(busy.feed(at=30)) == [((4,), Outcome.EXPIRED, Reason.CALLER_DEADLINE)]


def test_all_end_when_the_model_is_removed(busy):
    commands = busy.feed(ModelRemoved("m"))
    assert sorted(i for ids, *_ in settled(commands) for i in ids) == [2, 3]
    busy.done(1, 1)
    assert not busy.scheduler.live


def test_held_steps_count_in_what_waits(busy):
    busy.feed(busy.request(9, rows=2), at=5)
    (observed,) = busy.scheduler.observe(8 * MILLISECOND).models
    assert (observed.waiting_requests, observed.held_requests) == (3, 2)
    assert observed.waiting_rows == 4
    assert observed.oldest_waiting_ns == 8 * MILLISECOND
    assert observed.executing_requests == 1


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_requests": 2}, Reason.QUEUE_REQUESTS),
        ({"max_rows": 2}, Reason.QUEUE_ROWS),
        ({"max_bytes": 2}, Reason.QUEUE_BYTES),
    ],
)
def test_held_steps_count_in_the_bounds(play, limits, reason):
    play.fixed(max_rows=4)
    play.up("i", 1, model="m")
    settings = play.scheduler.models["m"].settings
    bounded = replace(settings, queue=replace(settings.queue, **limits))
    play.feed(ModelConfigured("m", bounded))
    for each in steps(play, 1, 2, 3):
        assert settled(play.feed(replace(each, nbytes=1))) == []
    (refused,) = settled(play.feed(replace(play.request(4), nbytes=1)))
    assert refused == ((4,), Outcome.REJECTED, reason)
    # The last of them makes room for what is more urgent.
    (refused,) = settled(play.feed(replace(play.request(5), nbytes=1, priority=1)))
    assert refused == ((3,), Outcome.REJECTED, reason)


def test_a_scheduler_that_is_restored_from_bytes_releases_them_in_order(busy):
    state = busy.scheduler.snapshot()
    read = Decoder(schema()).state(unpack(Encoder().pack(state)))
    restored = Scheduler.restore(read)
    validate(restored)
    assert restored.snapshot() == state
    for batch in (1, 2, 3):
        done = BatchProgress(batch, (batch,))
        now_ns = busy.scheduler.now_ns
        assert restored.handle([done], now_ns) == busy.scheduler.handle([done], now_ns)
    assert not restored.live


def test_new_settings_hold_for_held_steps(busy):
    busy.fixed(max_rows=1, priority_levels=1)
    busy.feed(busy.request(4))
    assert dispatched(busy.done(1, 1)) == [[4]]
    assert dispatched(busy.done(2, 4)) == [[2]]
