"""The memory that a server and a child share."""

from __future__ import annotations

import gc
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.executors.isolated.arena import CHUNK, Arena, ArenaFullError, Lent, Mapped, aligned


@pytest.fixture
def arena():
    made = Arena(16 * CHUNK)
    yield made
    made.close()


def test_a_child_cannot_change_the_size_of_the_arena(arena):
    for size in (0, CHUNK, 32 * CHUNK):
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(arena.fd, size)


def test_both_sides_see_the_same_memory(arena):
    other = Mapped(arena.fd)
    offset = arena.allocate(40)
    arena.array(offset, (2, 5), np.dtype(np.float32))[...] = 7
    assert other.array(offset, (2, 5), np.dtype(np.float32)).tolist() == [[7.0] * 5] * 2
    other.copy_in(offset, b"abc")
    assert arena.copy_out(offset, 3) == b"abc"


def test_an_array_beyond_the_end_cannot_be_made(arena):
    with pytest.raises(TypeError, match="too small"):
        arena.array(15 * CHUNK, (2 * CHUNK,), np.dtype(np.uint8))


@given(st.lists(st.one_of(st.integers(0, 3 * CHUNK), st.none()), max_size=40), st.randoms())
def test_no_two_users_have_the_same_bytes(steps, random):
    arena = Arena(16 * CHUNK)
    used = {}
    for size in steps:
        if size is None and used:
            offset = random.choice(sorted(used))
            arena.free(offset)
            del used[offset]
        elif size is not None:
            try:
                offset = arena.allocate(size)
            except ArenaFullError:
                continue
            used[offset] = max(64, aligned(size))
        places = sorted(used.items())
        assert all(a + n <= b for (a, n), (b, _) in pairwise(places))
        assert all(a >= 0 and a + n <= arena.nbytes for a, n in places)
        assert arena.used == sum(used.values())
    for offset in used:
        arena.free(offset)
    assert arena.allocate(arena.nbytes) == 0  # nothing is lost, and the free parts are joined
    arena.close()


def test_a_full_arena_says_what_is_in_use(arena):
    arena.allocate(10 * CHUNK)
    message = f"{7 * CHUNK} bytes find no room.*{10 * CHUNK} of {16 * CHUNK} are in use"
    with pytest.raises(ArenaFullError, match=message):
        arena.allocate(7 * CHUNK)


def test_free_memory_goes_back_to_the_system(arena):
    kept = arena.allocate(CHUNK)
    freed = arena.allocate(8 * CHUNK)
    for offset, size in ((kept, CHUNK), (freed, 8 * CHUNK)):
        arena.take_memory(offset, size)
        arena.array(offset, (size,), np.dtype(np.uint8))[...] = 9
    held = os.fstat(arena.fd).st_blocks * 512
    arena.free(freed)
    arena.trim()
    assert os.fstat(arena.fd).st_blocks * 512 <= held - 8 * CHUNK
    assert arena.copy_out(kept, 4) == b"\t" * 4
    assert arena.copy_out(freed, 4) == bytes(4)


def test_no_memory_of_the_system_is_an_error_that_says_so(arena, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArenaFullError, match=r"the system has no memory for 100 bytes.*No space"):
        arena.take_memory(arena.allocate(100), 100)


def test_lent_memory_comes_back_when_no_array_is_left_even_after_the_end():
    arena, back = Arena(16 * CHUNK), []
    offset = arena.allocate(CHUNK)
    memory = Lent(arena, offset, CHUNK, lambda: back.append(offset)).bytes()
    array = np.ndarray((4, 2), np.float32, memory.data, 64)
    array[...] = 3
    rows = array[1:2]
    arena.close()
    del memory, array, arena
    gc.collect()
    assert not back
    assert rows.tolist() == [[3.0, 3.0]]
    del rows
    gc.collect()
    assert back == [offset]


def test_an_arena_that_is_closed_takes_no_memory():
    arena = Arena(16 * CHUNK)
    offset = arena.allocate(100)
    arena.close()
    arena.close()
    with pytest.raises(ArenaFullError, match="Bad file descriptor"):
        arena.take_memory(offset, 100)
