"""Which requests may share a batch, and which batch group of which model goes first."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Dispatch
from batcher.core.events import (
    BatchProgress,
    DeviceConfigured,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
)
from batcher.core.policies import BatchPolicy, Take
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings


def shared(play, *models, **settings):
    """Models with an instance each on one device, which is busy with request 0 in batch 1."""
    play.limit(max_in_flight=1)
    for model in models:
        play.fixed(model, **settings)
        play.up(f"{model}/0", model=model)
    play.arrive(0, model=models[0])


def finish_all(play, *, first):
    """Finish one batch after another; returns the requests in order of dispatch."""
    order = []
    commands = play.done(1, first)
    while play.batches(commands):
        (dispatch,) = (c for c in commands if isinstance(c, Dispatch))
        ids = tuple(part.id for part in dispatch.parts)
        order.append(list(ids))
        commands = play.feed(BatchProgress(dispatch.batch_id, ids))
    return order


def test_only_requests_of_equal_keys_and_shapes_share_a_batch(play):
    shared(play, "m")
    play.feed(
        play.request(1, key="a", shapes=((4,),)),
        play.request(2, key="b", shapes=((4,),)),
        play.request(3, key="a", shapes=((5,),)),
        play.request(4, key="a", shapes=((4,),)),
    )

    assert finish_all(play, first=0) == [[1, 4], [2], [3]]


def test_the_dispatch_names_the_shapes_its_requests_share(play):
    play.none()
    play.up()

    (dispatch,) = play.arrive(1, shapes=((4, 2), (7,)))

    assert dispatch.bucket == ((4, 2), (7,))


def test_parts_are_whole_requests_in_order(play):
    play.fixed()
    play.up()

    (dispatch,) = play.feed(play.request(1, rows=2), play.request(2, rows=3))

    assert [(p.id, p.start, p.stop) for p in dispatch.parts] == [(1, 0, 2), (2, 0, 3)]
    assert dispatch.attempt == 1


def test_the_group_that_is_due_first_goes_first(play):
    shared(play, "m")
    play.feed(
        play.request(1, key="a", due=30),
        play.request(2, key="b", due=10),
        play.request(3, key="c", due=20),
    )

    assert finish_all(play, first=0) == [[2], [3], [1]]


def test_without_due_times_the_oldest_group_goes_first(play):
    shared(play, "m")
    play.feed(play.request(1, key="a", at=2), play.request(2, key="b", at=1), at=2)

    assert finish_all(play, first=0) == [[2], [1]]


def test_requests_with_a_due_time_go_before_those_without(play):
    shared(play, "m")
    play.feed(play.request(1, key="a", at=0), play.request(2, key="b", at=5, due=1e9), at=5)

    assert finish_all(play, first=0) == [[2], [1]]


def test_the_target_of_the_model_gives_a_due_time(play):
    play.limit(max_in_flight=1)
    play.fixed("slow", target=100)
    play.fixed("quick", target=10)
    play.up("i", model="slow")
    play.up("j", model="quick")
    play.arrive(0, model="slow")
    play.feed(play.request(1, model="slow", at=1), play.request(2, model="quick", at=9), at=9)
    play.feed(play.request(3, model="slow", due=12, key="own"))

    assert finish_all(play, first=0) == [[3], [2], [1]]


def test_of_equal_groups_the_oldest_goes_first(play):
    shared(play, "m")
    play.feed(*[play.request(i, key=str(9 - i), due=10) for i in range(1, 5)])

    assert finish_all(play, first=0) == [[1], [2], [3], [4]]


def test_a_model_whose_instances_are_busy_does_not_block_another(play):
    play.none("a", target=1)
    play.none("b", target=100)
    play.up("i", model="a")
    play.up("j", model="b")

    assert play.batches(play.arrive(1, 2, model="a")) == [[1]]
    assert play.batches(play.arrive(3, model="b")) == [[3]]


def test_a_group_with_an_open_window_does_not_block_one_that_is_ready(play):
    play.fixed(delay=10, max_rows=2, target=50)
    play.up()

    commands = play.feed(
        play.request(1, key="a", at=0),
        play.request(2, key="b", at=1),
        play.request(3, key="b"),
        at=1,
    )

    assert play.batches(commands) == [[2, 3]]


def test_one_decision_may_fill_several_instances(play):
    play.fixed(max_rows=2)
    play.up("i")
    play.up("j")

    assert play.batches(play.arrive(1, 2, 3, 4, 5)) == [[1, 2], [3, 4]]


def test_batch_ids_are_not_reused(play):
    play.none()
    play.up(max_in_flight=2)
    ids = [c.batch_id for c in play.arrive(1, 2)]
    play.done(1, 1)
    ids += [c.batch_id for c in play.arrive(3)]
    play.down()
    play.up(incarnation=2)
    ids += [c.batch_id for c in play.arrive(4)]

    assert ids == [1, 2, 3, 4]


@pytest.mark.parametrize(("devices", "exclusive"), [("dd", False), ("de", True)])
def test_a_policy_is_told_whether_its_device_is_exclusive(devices, exclusive):
    told = []

    class Policy(BatchPolicy):
        def decide(self, group, given):
            told.append(given.exclusive_device)
            return Take(1)

    scheduler = Scheduler(lambda settings: Policy())
    events = [DeviceConfigured(device, 1) for device in devices]
    for model, device in zip("ab", devices, strict=True):
        events.append(ModelConfigured(model, ModelSettings(8, FixedWindow())))
        events.append(InstanceUp(f"{model}/0", 1, model, device))
    scheduler.handle([*events, RequestArrived(1, "a", 1, 0, (), "", 0)], MILLISECOND)
    assert told == [exclusive]
