"""The memory that the server and one child share: a sealed memfd, which both have mapped.

The server alone decides what lies where. A memfd and not /dev/shm, which has 64 MiB in a pod. Its
size is sealed: a child that could shrink it would have the server killed by SIGBUS. Pages take
memory from when they are first used until `trim` gives it back.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from batcher.tensors import Array

ALIGNMENT: Final = 64
"""Bytes: where a tensor begins. The line of a cache, and the most that vector instructions ask for."""

CHUNK: Final = 256 * 1024
"""Bytes whose memory is taken and given back at once. Half of it takes twice the system calls as an
arena fills up, twice of it holds as much more for a small batch."""

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class ArenaFullError(Exception):
    """There is no room, or the system has no memory."""


def aligned(nbytes: int) -> int:
    """So many bytes, rounded up to where the next tensor may begin."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Mapped:
    """The arena as memory of this process. It stays mapped as long as arrays of it exist."""

    def __init__(self, fd: int) -> None:
        self.nbytes = os.fstat(fd).st_size
        self.memory = mmap.mmap(fd, self.nbytes)
        self.address = np.frombuffer(self.memory, np.uint8).ctypes.data

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The array there. Raises for one that does not lie in the arena."""
        found: Array = np.ndarray(shape, dtype, self.memory, offset)
        return found

    def copy_out(self, offset: int, nbytes: int) -> bytes:
        """The bytes there."""
        return self.memory[offset : offset + nbytes]

    def copy_in(self, offset: int, contents: bytes) -> None:
        """Write bytes there."""
        self.memory[offset : offset + len(contents)] = contents


class Arena(Mapped):
    """The arena as the server has it: what is in use, and what is free.

    Raises `OSError` where the system has no file descriptor or no address space for it.
    """

    def __init__(self, nbytes: int) -> None:
        self.fd = os.memfd_create("batcher-isolated", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, nbytes)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            super().__init__(self.fd)
        except BaseException:
            os.close(self.fd)
            raise
        self._guard = threading.Lock()
        self._file = threading.Lock()
        """Held while `fd` is used: once it is closed, another file may have its number."""
        self._used: dict[int, int] = {}
        self._free = [(0, nbytes)]
        self._taken = bytearray(-(-nbytes // CHUNK))
        """For each chunk, whether it may have memory."""

    def close(self) -> None:
        """Close the file. The memory is free once no array of it and no child is left."""
        with self._file:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
                del self.memory

    @property
    def used(self) -> int:
        """Bytes in use."""
        with self._guard:
            return sum(self._used.values())

    def allocate(self, nbytes: int) -> int:
        """The offset of so many free bytes, the lowest: memory that is warm. Raises `ArenaFullError`."""
        wanted = max(aligned(nbytes), ALIGNMENT)
        with self._guard:
            for place, (offset, free) in enumerate(self._free):
                if free >= wanted:
                    if free == wanted:
                        del self._free[place]
                    else:
                        self._free[place] = offset + wanted, free - wanted
                    self._used[offset] = wanted
                    return offset
        raise ArenaFullError(
            f"{nbytes} bytes find no room in the memory that the child process shares: {self.used} of"
            f" {self.nbytes} are in use"
        )

    def free(self, offset: int) -> None:
        """Take back what `allocate` gave."""
        with self._guard:
            size = self._used.pop(offset)
            place = bisect_left(self._free, (offset, 0))
            if place < len(self._free) and self._free[place][0] == offset + size:
                size += self._free.pop(place)[1]
            if place and sum(self._free[place - 1]) == offset:
                offset, before = self._free.pop(place - 1)
                size += before
            insort(self._free, (offset, size))

    def take_memory(self, offset: int, nbytes: int) -> None:
        """Have the system's memory for these bytes now. Raises `ArenaFullError` where there is none.

        Where memory may not be overcommitted, the server would otherwise get SIGBUS when it writes
        there.
        """
        first, last = offset // CHUNK, -(-(offset + nbytes) // CHUNK)
        if not self._taken.count(0, first, last):
            return
        end = min(last * CHUNK, self.nbytes)
        try:
            with self._file:
                os.posix_fallocate(self.fd, first * CHUNK, end - first * CHUNK)
        except OSError as error:
            raise ArenaFullError(
                f"the system has no memory for {nbytes} bytes of shared memory: {error.strerror}"
            ) from None
        self._taken[first:last] = b"\1" * (last - first)

    def trim(self) -> None:
        """Give back the memory of whatever is free."""
        for offset, size in self._free:
            first, last = -(-offset // CHUNK), (offset + size) // CHUNK
            if offset + size == self.nbytes:
                last = len(self._taken)
            end = min(last * CHUNK, self.nbytes)
            # Chunks of outputs are written by the child, which marks none: all are given back.
            if last > first:
                self.memory.madvise(mmap.MADV_REMOVE, first * CHUNK, end - first * CHUNK)
                self._taken[first:last] = bytes(last - first)


class Lent:
    """Memory of an arena that goes back when no array of it is left: `back` is called then, on any thread."""

    def __init__(self, mapped: Mapped, offset: int, nbytes: int, back: Callable[[], None]) -> None:
        self._memory = mapped.memory  # mapped as long as this is
        self._back = back
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (nbytes,),
            "data": (mapped.address + offset, False),
        }

    def __del__(self) -> None:
        self._back()

    def bytes(self) -> Array:
        """All of it, as an array that others can be made of."""
        return np.asarray(self)
