"""Puts the inputs of a batch where a child process finds them: in the message, or in the arena."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from batcher.executor import Array
from batcher.executors.isolated.arena import Arena
from batcher.executors.isolated.messages import INLINE
from batcher.executors.isolated.tensors import CODES, packed_elements


class ChildInputs:
    """The inputs of one batch; has the methods of `BatchBuffers`, so that they are gathered right into the arena.

    Raises `ArenaFullError` where there is no room. `free` gives back what was taken, once the child has
    answered.
    """

    __slots__ = ("_arena", "_left", "_offsets", "_placed")

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._left = INLINE
        self._placed: dict[str, int] = {}
        self._offsets: list[int] = []

    def rows(
        self, name: str, rows: int, row_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Array | None:
        """An array of that shape in the arena; None if it is small enough for the message."""
        shape = (rows, *row_shape)
        nbytes = prod(shape) * dtype.itemsize
        if dtype.hasobject or nbytes <= self._left:
            return None
        offset = self._take(nbytes)
        self._placed[name] = offset
        return self._arena.array(offset, shape, dtype)

    def tensors(self, inputs: Mapping[str, Array]) -> list[list[Any]]:
        """The tensors of a message, when all is gathered. Raises `TypeError` for wrong BYTES."""
        return [self._tensor(name, array) for name, array in inputs.items()]

    def free(self) -> None:
        """Give the memory back."""
        offsets, self._offsets = self._offsets, []
        for offset in offsets:
            self._arena.free(offset)

    def _tensor(self, name: str, array: Array) -> list[Any]:
        code, shape = CODES[array.dtype], array.shape
        offset = self._placed.get(name)
        if offset is not None:
            return [name, code, shape, offset, array.nbytes]
        packed = packed_elements(name, array) if array.dtype.hasobject else None
        nbytes = array.nbytes if packed is None else len(packed)
        if nbytes <= self._left:
            self._left -= nbytes
            return [name, code, shape, -1, array.tobytes() if packed is None else packed]
        offset = self._take(nbytes)
        if packed is None:
            np.copyto(self._arena.array(offset, shape, array.dtype), array)
        else:
            self._arena.copy_in(offset, packed)
        return [name, code, shape, offset, nbytes]

    def _take(self, nbytes: int) -> int:
        offset = self._arena.allocate(nbytes)
        self._offsets.append(offset)
        self._arena.take_memory(offset, nbytes)
        return offset
