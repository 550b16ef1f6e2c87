"""A memory ceiling beside batch sizes, batches that fail or are lost, and settings that change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher.core.commands import BatchCeiling, Dispatch, Outcome, Reason, Settle
from batcher.core.events import (
    BatchProgress,
    FailureCause,
    InstanceDown,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.testing.invariants import validate

MEMORY = FailureCause.MEMORY
SETTINGS = ModelSettings(8, FixedWindow(), idempotent=True)
DONE = (Outcome.OK, Reason.NONE)
NO_MEMORY = (Outcome.FAILED, Reason.DEVICE_MEMORY)


class World:
    """A model on two instances that run what they are told to."""

    def __init__(self, settings=SETTINGS):
        self.scheduler = Scheduler()
        self.running, self.ends, self.ceilings = {}, {}, []
        self.executed = 0
        self.tell(
            ModelConfigured("m", settings),
            InstanceUp("i", 1, "m", "d"),
            InstanceUp("j", 1, "m", "d"),
        )

    def tell(self, *events):
        """Returns the rows of the batches that begin by that."""
        for event in events:
            if isinstance(event, BatchProgress):
                del self.running[event.batch_id]
        commands = self.scheduler.handle(events, self.scheduler.now_ns + 1)
        validate(self.scheduler)
        begun = [each for each in commands if isinstance(each, Dispatch)]
        self.running |= {each.batch_id: each for each in begun}
        self.ceilings += [each for each in commands if isinstance(each, BatchCeiling)]
        for each in commands:
            if isinstance(each, Settle):
                self.ends |= dict.fromkeys(each.ids, (each.outcome, each.reason))
        self.executed += len(begun)
        return [rows_of(each) for each in begun]

    def send(self, ids, rows):
        return self.tell(*[RequestArrived(i, "m", rows, 0, (), "", 0) for i in ids])

    def fails(self, instance, cause):
        [batch_id] = [i for i, each in self.running.items() if each.instance == instance]
        return self.tell(BatchProgress(batch_id, (), error=cause))

    def goes_down(self, instance):
        self.running = {i: b for i, b in self.running.items() if b.instance != instance}
        return self.tell(InstanceDown(instance, 1))

    def finish(self, most=8):
        """Everything runs to its end where there is memory for so many rows; returns the sizes."""
        sizes = [rows_of(each) for each in self.running.values()]
        while self.running:
            batch_id, batch = next(iter(self.running.items()))
            fits = rows_of(batch) <= most
            ids = tuple(part.id for part in batch.parts) if fits else ()
            sizes += self.tell(BatchProgress(batch_id, ids, error=None if fits else MEMORY))
            assert self.executed < 1000, "it runs for ever"
        return sizes


def rows_of(dispatch):
    return sum(part.stop - part.start for part in dispatch.parts)


@pytest.fixture
def shrunk():
    """Instance `j` runs requests 3 and 4, of 4 rows each, while memory is left for batches of 2 rows."""
    world = World()
    assert world.send([1, 2, 3, 4], 4) == [8, 8]
    assert world.fails("i", MEMORY) == [4]
    assert world.fails("i", MEMORY) == [2]
    return world


def test_requests_of_a_lost_batch_are_cut_to_what_there_is_memory_for(shrunk):
    begun = shrunk.goes_down("j")
    assert max([*begun, *shrunk.finish(2)]) == 2
    assert shrunk.ends == dict.fromkeys([1, 2, 3, 4], DONE)


def test_requests_of_a_failed_batch_are_cut_to_what_there_is_memory_for(shrunk):
    begun = shrunk.fails("j", FailureCause.UNKNOWN)
    sizes = [*begun, *shrunk.finish(2)]
    assert max(sizes) == 2
    assert shrunk.ends == dict.fromkeys([1, 2, 3, 4], DONE)


def test_sizes_beyond_the_largest_batch_allow_no_larger_ones_under_a_ceiling():
    world = World(replace(SETTINGS, max_batch_size=4, batch_sizes=(8,)))
    world.send([1, 2], 4)
    world.fails("i", MEMORY)
    assert world.ceilings == [BatchCeiling("m", 8, 4)]
    assert world.scheduler.models["m"].most_rows(()) == 4
    world.send([*range(3, 9)], 3)
    assert max(world.finish()) <= 4


@pytest.mark.parametrize("sizes", [(8,), (4, 8), (3, 5)])
def test_where_the_smallest_size_has_no_memory_all_ends_soon(sizes):
    world = World(replace(SETTINGS, batch_sizes=sizes))
    world.send([*range(1, 21)], 2)
    world.finish(0)
    assert world.ends == dict.fromkeys(range(1, 21), NO_MEMORY)
    assert len(world.ceilings) == 1
    assert world.executed <= 20 * 2


def test_a_batch_of_no_smaller_size_still_has_a_ceiling():
    world = World(replace(SETTINGS, batch_sizes=(8,)))
    world.send([1], 3)
    world.fails("i", MEMORY)
    assert world.ends == {1: NO_MEMORY}
    assert world.ceilings == [BatchCeiling("m", 8, 8)]


@pytest.mark.parametrize(
    "changes",
    [
        {"max_batch_size": 4},
        {"max_batch_size": 1},
        {"batch_sizes": (1, 2)},
        {"batch_sizes": (4, 8)},
        {"batch_sizes": (2,), "max_batch_size": 3},
    ],
)
@pytest.mark.parametrize("memory", [0, 1, 4])
def test_sizes_that_change_under_a_ceiling_lose_no_request(changes, memory):
    world = World(replace(SETTINGS, batch_sizes=(2, 4, 8)))
    world.send([*range(1, 9)], 2)
    world.fails("i", MEMORY)
    world.tell(ModelConfigured("m", replace(SETTINGS, **changes)))
    most = world.scheduler.models["m"].settings.max_batch_size
    on_their_way = len(world.running)
    sizes = world.finish(memory)
    assert max(sizes[on_their_way:], default=0) <= most
    assert world.ends.keys() == set(range(1, 9))
    assert set(world.ends.values()) <= {DONE, NO_MEMORY}
    if memory == 4:
        assert set(world.ends.values()) == {DONE}
