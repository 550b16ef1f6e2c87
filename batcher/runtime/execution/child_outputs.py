"""The outputs that a child process leaves in the arena: room for them, and arrays of them without a copy."""

from __future__ import annotations

from collections import deque
from functools import partial
from math import ceil
from typing import Any, Final

from batcher.executor import Array
from batcher.executors.isolated.arena import Arena, ArenaFullError, Lent
from batcher.executors.isolated.replies import LyingChildError
from batcher.executors.isolated.tensors import received

_FULL: Final = 0.5
"""The share of an arena that may be in use while outputs stay in it until they are sent: beyond it they
are copied, so that there is room for inputs. With 30 % less, copies begin at 30 % fewer bytes."""

_MOST_EXPECTED: Final = 1 / 32
"""The share of an arena that is kept for the outputs of a batch before it has any. For more, it is asked
when they are there: the question takes 0.1 ms, and to write 32 MiB takes 5 ms. One batch with large
outputs would else keep the room from the inputs of all later ones."""

Room = tuple[int, int]
"""Offset and bytes in the arena."""

NO_ROOM: Final[Room] = (-1, 0)


class ChildOutputs:
    """The room for the outputs of one child's batches. Call it on the loop, but for `read`."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._row_bytes = 0.0
        """Bytes of outputs that a row took at most so far, of those that did not fit a message."""
        self._returned: deque[int] = deque()
        """Where no array is left."""

    def expected(self, rows: int) -> Room:
        """Room for the outputs of a batch as they have been so far; none if they fit a message, or are large."""
        if not self._row_bytes:
            return NO_ROOM
        self.take_back()
        nbytes = ceil(rows * self._row_bytes)
        if nbytes > self._arena.nbytes * _MOST_EXPECTED:
            return NO_ROOM
        try:
            return self._arena.allocate(nbytes), nbytes
        except ArenaFullError:
            return NO_ROOM

    def room(self, nbytes: int, rows: int) -> Room:
        """Room for so many bytes, which a batch of so many rows has answered. Raises `ArenaFullError`."""
        self.take_back()
        offset = self._arena.allocate(nbytes)
        self._row_bytes = max(self._row_bytes, nbytes / rows)
        return offset, nbytes

    def read(self, tensors: list[Any], room: Room) -> dict[str, Array]:
        """The arrays of a result. Its room comes back when none of them is left.

        Raises `LyingChildError`. Any thread may call it.
        """
        offset, nbytes = room
        memory = None
        if nbytes:
            back = partial(self._returned.append, offset)
            memory = Lent(self._arena, offset, nbytes, back).bytes()
        within = (offset, offset + nbytes)
        try:
            arrays = dict([received(each, self._arena, within, memory) for each in tensors])
        except ValueError as error:
            raise LyingChildError(str(error)) from None
        if nbytes and self._arena.used > _FULL * self._arena.nbytes:
            return {name: array.copy() for name, array in arrays.items()}
        return arrays

    def free(self, room: Room) -> None:
        """Take back the room of a batch that has no result."""
        if room[1]:
            self._arena.free(room[0])

    def take_back(self) -> None:
        """Take back the memory of which no array is left."""
        while self._returned:
            self._arena.free(self._returned.popleft())
