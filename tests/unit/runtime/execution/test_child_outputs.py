"""How much of the shared memory is kept for the outputs of batches that a child has not computed yet."""

import pytest

from batcher.executors.isolated.arena import Arena
from batcher.runtime.execution.child_outputs import NO_ROOM, ChildOutputs

MIB = 1024 * 1024


@pytest.fixture
def arena():
    arena = Arena(64 * MIB)
    yield arena
    arena.close()


def test_room_is_kept_for_outputs_as_they_have_been(arena):
    outputs = ChildOutputs(arena)
    assert outputs.expected(8) == NO_ROOM
    outputs.free(outputs.room(MIB, 4))
    assert outputs.expected(4)[1] == MIB


def test_one_batch_with_large_outputs_takes_no_room_from_the_inputs_of_later_ones(arena):
    outputs = ChildOutputs(arena)
    outputs.free(outputs.room(24 * MIB, 1))
    assert [outputs.expected(1), outputs.expected(2)] == [NO_ROOM, NO_ROOM]
    assert arena.used == 0
