"""Memory that an executor allocates for its inputs: batches are gathered into it, one after another."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np

from batcher.errors import describe
from batcher.executor import Allocates, Array, ExecutionError

log = logging.getLogger(__name__)

MOST_BYTES: Final = 1 << 30
"""Bytes of arrays that one instance keeps: two full batches of 64 images of 3 x 800 x 800 in FP32.
A batch that does not fit beside those in use is gathered into ordinary memory; with 30 % less that
begins at images of 670 x 670."""

MOST_ARRAYS: Final = 256
"""Arrays that one instance keeps: for two batches at once, of 8 inputs and the 16 buckets that a warm-up
measures. With 30 % fewer, such a model allocates again now and then."""

Allocate: TypeAlias = Callable[[str, tuple[int, ...], "np.dtype[Any]"], object]
"""The `allocate` of an executor (`batcher.executor.Allocates`)."""

_Key: TypeAlias = tuple[str, tuple[int, ...], "np.dtype[Any]"]
"""An input, the shape of a row of it, and its dtype."""


@dataclass(slots=True)
class _Kept:
    """The arrays of one input and row shape."""

    arrays: list[Array] = field(default_factory=list)
    idle: list[Array] = field(default_factory=list)
    """Those of `arrays` that no batch uses."""


class BatchBuffers:
    """The arrays that one batch is gathered into. `give_back` them once, when no call reads them."""

    __slots__ = ("_buffers", "_taken")

    def __init__(self, buffers: InputBuffers) -> None:
        self._buffers = buffers
        self._taken: list[tuple[_Key, Array]] = []

    def rows(
        self, name: str, rows: int, row_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Array | None:
        """The first `rows` rows of an array that no other batch uses; None if there is no such array.

        Call it on the instance's thread. Raises `ExecutionError` for an `allocate` that does not do what
        it should.
        """
        key = (name, row_shape, dtype)
        array = self._buffers.take(key, rows)
        if array is None:
            return None
        self._taken.append((key, array))
        return array[:rows]

    def hold(self, array: Array) -> bool:
        """Whether the array may be, or may have elements that are, in the memory of these arrays."""
        return bool(self._taken) and (
            array.dtype.hasobject
            or any(np.may_share_memory(array, taken) for _, taken in self._taken)
        )

    def give_back(self) -> None:
        """Let other batches be gathered into these arrays. On any thread; again, it does nothing."""
        taken, self._taken = self._taken, []
        self._buffers.give_back(taken)


class InputBuffers:
    """The arrays of one instance, by input and row shape: each has the most rows of a batch.

    What has not been used for longest is dropped where a new row shape needs the room, if that shape
    is asked for twice: axes of many lengths do not allocate for each batch.
    """

    def __init__(
        self,
        allocate: Allocate,
        most_rows: int,
        most_bytes: int = MOST_BYTES,
        most_arrays: int = MOST_ARRAYS,
    ) -> None:
        self._allocate = allocate
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self._most_arrays = most_arrays
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()  # the last used at the end
        self._nbytes = 0
        self._count = 0
        self._asked: OrderedDict[_Key, None] = OrderedDict()  # in vain, the last at the end
        self._lock = threading.Lock()
        """Arrays are taken on the instance's thread, and given back on the one that collects."""

    def lend(self) -> BatchBuffers:
        """Nothing yet; the arrays for one batch are taken through it."""
        return BatchBuffers(self)

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays that are kept."""
        return self._nbytes

    def take(self, key: _Key, rows: int) -> Array | None:
        """An array for one batch; see `BatchBuffers.rows`, which keeps it."""
        name, row_shape, dtype = key
        if dtype.hasobject:
            return None
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                while kept.idle:
                    array = kept.idle.pop()
                    if len(array) >= rows:
                        return array
                    self._drop(kept, array)  # batches have become larger since
            shape = (max(rows, self._most_rows), *row_shape)
            nbytes = prod(shape) * dtype.itemsize
            if not nbytes or not self._make_room(key, nbytes):
                return None
        allocated = self._allocated(name, shape, dtype)
        if allocated is not None:
            with self._lock:
                self._kept.setdefault(key, _Kept()).arrays.append(allocated)
                self._nbytes += allocated.nbytes
                self._count += 1
        return allocated

    def give_back(self, taken: list[tuple[_Key, Array]]) -> None:
        """Let these arrays be taken again."""
        with self._lock:
            for key, array in taken:
                kept = self._kept.get(key)
                if kept is not None:
                    kept.idle.append(array)

    def clear(self) -> None:
        """Drop all arrays: before the executor is closed."""
        with self._lock:
            self._kept.clear()
            self._asked.clear()
            self._nbytes = self._count = 0

    def _make_room(self, key: _Key, nbytes: int) -> bool:
        """Whether an array of so many bytes may be allocated; drops idle ones for it."""
        if self._fits(nbytes):
            return True
        if key not in self._kept and key not in self._asked:
            self._asked[key] = None
            if len(self._asked) > self._most_arrays:
                self._asked.popitem(last=False)
            return False
        idle = sum(array.nbytes for kept in self._kept.values() for array in kept.idle)
        if self._nbytes - idle + nbytes > self._most_bytes:
            return False
        for kept in list(self._kept.values()):
            while kept.idle and not self._fits(nbytes):
                self._drop(kept, kept.idle.pop())
        self._asked.pop(key, None)
        for each in [each for each, kept in self._kept.items() if not kept.arrays]:
            del self._kept[each]
        return self._fits(nbytes)

    def _fits(self, nbytes: int) -> bool:
        return self._nbytes + nbytes <= self._most_bytes and self._count < self._most_arrays

    def _drop(self, kept: _Kept, array: Array) -> None:
        kept.arrays = [each for each in kept.arrays if each is not array]
        self._nbytes -= array.nbytes
        self._count -= 1

    def _allocated(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
        """What `allocate` returns, checked; None if it has no memory, and it is not asked for more again."""
        call = f"the executor's allocate({name!r}, {list(shape)}, {dtype})"
        try:
            array = self._allocate(name, shape, dtype)
        except Exception as error:
            if isinstance(error, MemoryError) or getattr(error, "cause", None) == "memory":
                self._most_bytes = self._nbytes
                log.warning(
                    "%s has no memory (%s): its arrays may take %d bytes from now on, and other batches are"
                    " gathered into ordinary memory",
                    call,
                    describe(error),
                    self._nbytes,
                )
                return None
            raise ExecutionError(f"{call} raised {describe(error)}", cause="device") from error
        fault = self._fault(array, shape, dtype)
        if fault is not None:
            raise ExecutionError(f"{call} returned a wrong array: {fault}", cause="device")
        assert isinstance(array, np.ndarray)  # noqa: S101 - it has no fault
        return array.view(np.ndarray)

    def _fault(self, array: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
        if not isinstance(array, np.ndarray):
            return f"it is of type {type(array).__name__}, not a numpy array"
        if array.shape != shape:
            return f"its shape is {list(array.shape)}"
        if array.dtype != dtype:
            return f"its dtype is {array.dtype}"
        flags = array.flags
        if not (flags.c_contiguous and flags.aligned and flags.writeable):
            return "it is not C-contiguous, aligned and writable"
        for (other, _, _), kept in self._kept.items():
            if any(np.may_share_memory(array, each) for each in kept.arrays):
                return f"it shares memory with another array that is kept, of input {other!r}"
        return None


def input_buffers(executor: object, most_rows: int) -> InputBuffers | None:
    """The buffers of a loaded executor, for batches of at most `most_rows` rows.

    None if it allocates nothing (`Allocates`), or its model has no batch axis (`most_rows` is 0).
    """
    return (
        InputBuffers(executor.allocate, most_rows)
        if most_rows and isinstance(executor, Allocates)
        else None
    )
