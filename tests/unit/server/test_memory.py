"""When the allocator is asked to give memory back."""

import pytest

from batcher.buffers import Buffers
from batcher.server.memory import TRIM_BYTES, Trimmer


@pytest.fixture
def buffers():
    return Buffers(100 * TRIM_BYTES)


def test_when_much_was_released(buffers):
    trimmer = Trimmer(buffers)
    buffers.charge(10 * TRIM_BYTES)
    assert not trimmer.due()
    buffers.release(6 * TRIM_BYTES)
    assert trimmer.due()
    assert not trimmer.due()
    buffers.release(2 * TRIM_BYTES)
    assert trimmer.due()


def test_not_for_little(buffers):
    trimmer = Trimmer(buffers)
    buffers.charge(TRIM_BYTES - 1)
    buffers.release(TRIM_BYTES - 1)
    assert not trimmer.due()


def test_nor_where_the_c_library_has_no_such_call(buffers):
    trimmer = Trimmer(buffers)
    trimmer.trim = None
    buffers.charge(10 * TRIM_BYTES)
    buffers.release(10 * TRIM_BYTES)
    assert not trimmer.due()
