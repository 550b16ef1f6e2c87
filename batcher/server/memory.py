"""Memory that was used for callers goes back to the system once it is not."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

from batcher.buffers import Buffers

LOOK_S = 1.0
"""How often it is looked at."""
TRIM_BYTES = 64 * 1024**2
"""What has to be released before the allocator is asked, which walks over what is free."""


class Trimmer:
    """Watches `Buffers`, and asks glibc to give back what fell free.

    It keeps buffers below 32 MiB for itself otherwise: after 1 GiB of requests of 4 MB, 0.8 GiB.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._high = 0
        self.trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        """What glibc has; None for another library."""

    def due(self) -> bool:
        """Whether enough was released since the last time."""
        used = self._buffers.used
        self._high = max(self._high, self._buffers.take_high())
        if self.trim is None or self._high - used < TRIM_BYTES or used > self._high // 2:
            return False
        self._high = used
        return True

    async def run(self) -> None:
        """Look every so often, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.due() and self.trim is not None:
                # What was released is freed a moment later.
                await asyncio.sleep(LOOK_S)
                await asyncio.to_thread(self.trim, 0)
