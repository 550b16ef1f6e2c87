"""What a scrape sees: live depths and ages, at no cost to the state."""

from __future__ import annotations

from batcher.clock import MILLISECOND
from batcher.core.events import ModelRemoved
from batcher.core.observation import InstanceObservation, ModelObservation


def observe(play, at):
    before = play.scheduler.snapshot()
    seen = play.scheduler.observe(int(at * MILLISECOND))
    assert play.scheduler.snapshot() == before
    return seen


def test_an_empty_model(play):
    play.none(target=50)

    seen = observe(play, 3)

    assert seen.now_ns == 3 * MILLISECOND
    empty = ModelObservation("m", 0, 0, 0, 0, None, None, 50 * MILLISECOND, ceiling_rows=8)
    assert seen.models == (empty,)
    assert seen.instances == ()


def test_depths_and_ages_of_waiting_and_running_requests(play):
    play.fixed(max_rows=2)
    play.up()
    play.arrive(1, 2, at=1)
    play.arrive(3, rows=2, nbytes=7, at=4)
    play.arrive(4, rows=1, nbytes=5, key="x", at=6)

    (model,) = observe(play, 10).models

    assert (model.waiting_requests, model.waiting_rows, model.waiting_bytes) == (2, 3, 12)
    assert model.executing_requests == 2
    assert model.oldest_waiting_ns == 6 * MILLISECOND
    assert model.oldest_executing_ns == 9 * MILLISECOND


def test_ages_grow_while_nothing_happens(play):
    play.none()
    play.up()
    play.arrive(1, 2)

    ages = [observe(play, at).models[0].oldest_waiting_ns for at in (1, 2, 1_000)]

    assert ages == [MILLISECOND, 2 * MILLISECOND, 1_000 * MILLISECOND]


def test_a_cancelled_request_is_no_longer_counted(play):
    play.fixed(max_rows=2)
    play.up()
    play.arrive(1, 2, 3)
    play.cancel(1)
    play.cancel(2)
    play.cancel(3)

    (model,) = observe(play, 1).models

    assert (model.waiting_requests, model.executing_requests) == (0, 0)
    assert (model.oldest_waiting_ns, model.oldest_executing_ns) == (None, None)


def test_instances(play):
    play.none()
    play.up("a", 3, device="gpu0", max_in_flight=2)
    play.up("b", 1, device="gpu1")
    play.arrive(1, 2)
    play.draining("b")

    assert observe(play, 0).instances == (
        InstanceObservation("a", 3, "m", "gpu0", draining=False, in_flight=1),
        InstanceObservation("b", 1, "m", "gpu1", draining=True, in_flight=1),
    )


def test_batches_of_a_removed_model_are_not_shown_as_a_model(play):
    play.none()
    play.up()
    play.arrive(1)
    play.feed(ModelRemoved("m"))

    seen = observe(play, 1)

    assert seen.models == ()
    assert seen.instances[0].in_flight == 1


def test_a_device_whose_last_slot_a_warm_up_has_serves_as_ever_for_the_scale_signal(play):
    play.none(target=50)
    play.up(device="gpu")
    for at in range(0, 2_000, 100):
        play.arrive(at + 1, at=at)
        play.done(at // 100 + 1, at + 1, at=at + 10)
    before = observe(play, 2_000).models[0]
    play.limit("gpu", max_in_flight=0)
    assert observe(play, 2_000).models[0] == before
    assert before.capacity_rows_per_s
