"""Gives memory back to the system after many or large requests: glibc keeps what was freed."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

from batcher.buffers import Buffers

POLL_S = 1.0
"""The period at which `Buffers` is checked."""
TRIM_BYTES = 64 * 1024**2
"""Bytes that must have been released: `malloc_trim` walks over all free memory."""


class Trimmer:
    """Calls glibc's `malloc_trim` when much was released from `Buffers`.

    Without it, glibc keeps freed buffers below 32 MiB: 0.8 GiB after 1 GiB of requests of 4 MB.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._high = 0
        self.trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        """glibc's `malloc_trim`; None with another C library."""

    def due(self) -> bool:
        """Whether enough was released since it was last true."""
        used = self._buffers.used
        self._high = max(self._high, self._buffers.take_high_water_mark())
        if self.trim is None or self._high - used < TRIM_BYTES or used > self._high // 2:
            return False
        self._high = used
        return True

    async def run(self) -> None:
        """Check every `POLL_S` seconds, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            if self.due() and self.trim is not None:
                # Memory is freed a moment after it was released from `Buffers`.
                await asyncio.sleep(POLL_S)
                await asyncio.to_thread(self.trim, 0)
