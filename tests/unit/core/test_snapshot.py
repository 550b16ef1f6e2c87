"""A restored scheduler does what the one that was captured would do."""

from __future__ import annotations

from batcher.core.scheduler import Scheduler
from batcher.testing.invariants import validate


def test_an_empty_scheduler(scheduler):
    assert Scheduler.restore(scheduler.snapshot()).snapshot() == scheduler.snapshot()


def test_everything_that_decides_is_in_the_snapshot(play):
    play.limit(max_in_flight=3)
    play.fixed("a", delay=10, preferred=(2,), max_rows=4, target=50)
    play.none("b")
    play.up("i", 2, model="a")
    play.up("j", 1, model="b", max_in_flight=2)
    play.up("k", 1, model="b")
    play.arrive(1, 2, model="b", expires=90)
    play.arrive(3, 4, 5, model="a", expires=80, at=1)
    play.feed(play.request(6, model="a", key="x", due=30), at=2)
    play.cancel(1)
    play.draining("k")

    restored = Scheduler.restore(play.scheduler.snapshot())
    validate(restored)

    assert restored.snapshot() == play.scheduler.snapshot()
    assert restored.next_wakeup_ns() == play.scheduler.next_wakeup_ns()
    assert restored.observe(0) == play.scheduler.observe(0)
    play.draining("j")
    restored = Scheduler.restore(play.scheduler.snapshot())
    refused = play.feed(play.request(7, model="b"))
    assert refused
    assert restored.handle([play.request(7, model="b")], play.scheduler.now_ns) == refused


def test_the_snapshot_is_a_value(play):
    play.fixed(delay=10)
    play.up()
    play.arrive(1)
    before = play.scheduler.snapshot()
    kept = repr(before)
    play.cancel(1)
    play.down()

    assert repr(before) == kept
    assert play.scheduler.snapshot() != before
    assert hash(before) == hash(Scheduler.restore(before).snapshot())


def test_instances_are_used_in_the_same_turn(play):
    play.none()
    for name in "abc":
        play.up(name)
    play.arrive(1, 2)
    play.done(2, 2)
    play.done(1, 1)

    restored = Scheduler.restore(play.scheduler.snapshot())
    events = [play.request(i) for i in (3, 4, 5)]

    assert restored.handle(events, 0) == play.feed(*events)
    validate(restored)
