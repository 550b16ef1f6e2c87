"""Outputs in the room that a batch has: written there by the executor, or copied."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.executors.isolated.arena import Arena
from batcher.executors.isolated.room import OutputRoom
from batcher.executors.isolated.tensors import prepared, received

SIZE = 1 << 22
OFFSET = 4096
WAYS = (
    "there",
    "elsewhere",
    "every second",
    "transposed",
    "half",
    "unused",
    "text",
    "empty",
    "again",
)


@pytest.fixture(scope="module")
def arena():
    made = Arena(SIZE)
    yield made
    made.close()


def no_more():
    raise AssertionError("there was room enough")


def sent(room, arrays, more=no_more):
    items, nbytes = prepared(arrays)
    return msgpack.unpackb(msgpack.packb(room.place(items, nbytes, more)))


def test_what_was_written_there_is_not_copied(arena):
    room = OutputRoom(arena, OFFSET, 1 << 20)
    first, second = room.array((2, 30_000), np.float32), room.array(100_000, "i1")
    arrays = {"B": second, "A": first}
    first[:], second[:] = 1, 2
    offsets = [tensor[3] for tensor in sent(room, arrays)]
    assert offsets == [OFFSET + 240_000, OFFSET]


def test_what_does_not_fit_is_ordinary_memory(arena):
    room = OutputRoom(arena, OFFSET, 1000)
    fits, does_not = room.array(900, np.uint8), room.array(200, np.uint8)
    assert arena.offset_of(fits, OFFSET, OFFSET + 1000) == OFFSET
    assert arena.offset_of(does_not, 0, SIZE) == -1
    assert room.array((2,), object).tolist() == [None, None]
    assert OutputRoom(arena, -1, 0).array((3, 4), "f4").shape == (3, 4)


def test_what_an_executor_keeps_of_another_batch_is_copied(arena):
    old = OutputRoom(arena, OFFSET, 200_000).array(150_000, np.uint8)
    old[:] = 7
    room = OutputRoom(arena, 1 << 20, 200_000)
    (tensor,) = sent(room, {"A": old})
    assert tensor[3] == 1 << 20
    assert (received(tensor, arena, (1 << 20, SIZE))[1] == 7).all()


def view(way, array, others):
    views = {
        "every second": lambda: array[::2],
        "transposed": lambda: array[: len(array) // 2 * 2].reshape(2, -1).T,
        "half": lambda: array[len(array) // 2 :],
        "text": lambda: array[:50].astype(str).astype(object),
        "empty": lambda: array[:0],
        "again": lambda: others.get("0", array),
    }
    return views.get(way, lambda: array)()


@given(
    nbytes=st.integers(0, 400_000),
    outputs=st.lists(
        st.tuples(st.sampled_from(WAYS), st.integers(1, 50_000)), min_size=1, max_size=6
    ),
)
def test_outputs_arrive_as_they_were_wherever_they_lie(arena, nbytes, outputs):
    room = OutputRoom(arena, OFFSET, nbytes)
    arrays, expected = {}, {}
    for number, (way, length) in enumerate(outputs):
        array = np.empty(length, "<u4") if way == "elsewhere" else room.array(length, "<u4")
        array[:] = np.arange(length) + number
        array = view(way, array, arrays)
        if way != "unused":
            arrays[str(number)], expected[str(number)] = array, array.tolist()
    items, needed = prepared(arrays)
    where = [OFFSET, OFFSET + nbytes]

    def more():
        assert needed > nbytes
        # Others get what was given before.
        arena.array(OFFSET, (nbytes,), np.dtype(np.uint8))[:] = 255
        where[:] = OFFSET + 64, OFFSET + 64 + needed
        return where[0]

    if not needed:
        return
    tensors = msgpack.unpackb(msgpack.packb(room.place(items, needed, more)))
    found = dict(received(tensor, arena, tuple(where)) for tensor in tensors)
    assert {name: array.tolist() for name, array in found.items()} == expected
