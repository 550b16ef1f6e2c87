"""System shared memory: regions in `/dev/shm`, and what processes that crashed left there.

A region is a file that its owner holds locked, so that a later process can tell a region whose owner
has died from one in use, whatever PID namespace the owner is in.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is on Linux

PREFIX: Final = "batcher-region-"
"""What the names of all regions begin with, in `FOLDER` and at the neighbor."""

ALIGNMENT: Final = 64
"""Bytes: tensors begin at multiples of a cache line."""


class Region:
    """Memory that the neighbor can map by its key. Raises `OSError` where there is no room for it."""

    def __init__(self, nbytes: int) -> None:
        self.name = PREFIX + secrets.token_hex(12)
        """Its name at the neighbor; its file has the same."""
        self.nbytes = nbytes
        self._path = FOLDER / self.name
        # Under another name until it is locked, or another process would take it for left behind.
        unlocked = FOLDER / f".{self.name}"
        self._fd = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unlocked.rename(self._path)
            # Reserved now: a write to memory that is not there would end the process.
            os.posix_fallocate(self._fd, 0, nbytes)
            self._map = mmap.mmap(self._fd, nbytes)
        except BaseException:
            unlocked.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            raise
        self.view = memoryview(self._map)

    @property
    def key(self) -> str:
        """Its name in the words of `shm_open`."""
        return f"/{self.name}"

    def close(self) -> None:
        """Remove its name and unmap it. What the neighbor has mapped stays there until it unmaps it."""
        self._path.unlink(missing_ok=True)
        # An array that is still in use keeps the memory, and frees it with itself.
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()
        os.close(self._fd)


def remove_left_behind() -> int:
    """Remove the regions whose owners have died; returns how many."""
    removed = 0
    for path in FOLDER.glob(f"{PREFIX}*"):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or gone already
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed += 1
        except OSError:
            continue  # in use
        finally:
            os.close(fd)
    return removed


def is_there(key: str) -> bool:
    """Whether the region with that key exists."""
    return (FOLDER / key.removeprefix("/")).exists()


def aligned(nbytes: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
