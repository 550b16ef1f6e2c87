"""Where a batch's outputs go in the child: the part of the arena that the server has given for them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from batcher.executors.isolated.arena import Mapped, aligned
from batcher.executors.isolated.tensors import Items, placed
from batcher.tensors import Array


class OutputRoom:
    """Makes arrays there for the executor (`Batch.output_array`), and copies what lies elsewhere.

    Nothing of it may be used after the batch's answer was sent: the server gives it to others.
    """

    __slots__ = ("_at", "_mapped", "_nbytes", "_offset")

    def __init__(self, mapped: Mapped, offset: int, nbytes: int) -> None:
        self._mapped = mapped
        self._offset = offset
        self._nbytes = nbytes
        self._at = offset
        """What lies from here on is free."""

    def array(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An array with any contents; in ordinary memory where it does not fit."""
        kind = np.dtype(dtype)
        axes = (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = prod(axes) * kind.itemsize
        if kind.hasobject or nbytes <= 0 or nbytes > self._offset + self._nbytes - self._at:
            return np.empty(axes, kind)
        array = self._mapped.array(self._at, axes, kind)
        self._at = min(self._at + aligned(nbytes), self._offset + self._nbytes)
        return array

    def place(self, items: Items, nbytes: int, more: Callable[[], int]) -> list[list[Any]]:
        """The tensors of a message, of so many bytes together (`prepared`).

        `more` asks the server for so many, and returns where they are; what it has given before is lost then.
        """
        offset, elsewhere = self._at, 0
        for _, array, packed in items:
            if packed is not None or self._mapped.offset_of(array, *self._used) < 0:
                elsewhere += aligned(array.nbytes if packed is None else len(packed))
        if offset + elsewhere > self._offset + self._nbytes:
            items = [
                (name, array.copy() if self._holds(array) else array, packed)
                for name, array, packed in items
            ]
            offset = self._offset if nbytes <= self._nbytes else more()
            self._at = self._offset
        return placed(items, self._mapped, offset, self._used)

    @property
    def _used(self) -> tuple[int, int]:
        """From where to where arrays were made."""
        return self._offset, self._at

    def _holds(self, array: Array) -> bool:
        if self._at <= self._offset or array.dtype.hasobject:
            return False
        whole = self._mapped.array(self._offset, (self._at - self._offset,), np.dtype(np.uint8))
        return np.may_share_memory(array, whole)
