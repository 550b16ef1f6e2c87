"""Lets the warm-up of an instance take turns with batches that other instances on its device answer with.

A warm-up batch gets a slot of the device as any batch does: the scheduler starts nothing there meanwhile, so
that neither of the two is measured while the other is in its way. Between two of them the device is left to
others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from batcher.core.events import DeviceConfigured
from batcher.runtime.runner import Runner

SHARE: Final = 0.05
"""The part of a device that a warm-up takes while other instances there answer requests. Each batch of it
keeps one that answers waiting for its own time, so the part of requests that notice is about this. With
0.1 a warm-up is over in half of the time, and p99 of a device at 70 % load rises by a tenth more."""

HELD_S: Final = 0.1
"""Seconds for which a warm-up batch keeps its slot. The first one of a size may compile for minutes, without
the device; what waits for the device then waits no longer than this."""

LONGEST_PAUSE_S: Final = 2.0
"""Seconds between two warm-up batches, at most: one that compiled for minutes is not followed by an hour."""


class DeviceTurns:
    """Who may use which device. Call every method on the event loop's thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._limits: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    def limit(self, device: str, most: int | None) -> None:
        """At most so many batches run on the device at once; None means no limit."""
        if most is None:
            self._limits.pop(device, None)
        else:
            self._limits[device] = most
        self._tell(device)

    @asynccontextmanager
    async def turn(self, device: str) -> AsyncIterator[None]:
        """Have a slot of the device while a warm-up batch runs; then leave it to others for a while.

        Without a limit of the device, or while nothing else is up there, this waits for nothing.
        """
        loop = asyncio.get_running_loop()
        async with self._turns.setdefault(device, asyncio.Lock()):
            if device not in self._limits or not self._up(device):
                yield
                return
            self._reserve(device, 1)
            release: asyncio.TimerHandle | None = None
            try:
                release = loop.call_later(HELD_S, self._reserve, device, 0)
                while self._reserved.get(device) and self._running(device) >= self._limits[device]:
                    await self._runner.batch_ended()
                began_s = loop.time()
                yield
                took_s = loop.time() - began_s
            finally:
                if release is not None:
                    release.cancel()
                self._reserve(device, 0)
            await asyncio.sleep(min(LONGEST_PAUSE_S, took_s * (1 / SHARE - 1)))

    def _reserve(self, device: str, slots: int) -> None:
        if self._reserved.get(device, 0) != slots:
            self._reserved[device] = slots
            self._tell(device)

    def _tell(self, device: str) -> None:
        most = self._limits.get(device)
        if most is not None:
            most = max(0, most - self._reserved.get(device, 0))
        self._runner.feed(DeviceConfigured(device, most))

    def _up(self, device: str) -> bool:
        return any(i.device == device for i in self._runner.observe().instances)

    def _running(self, device: str) -> int:
        """Batches that run on the device."""
        return sum(i.in_flight for i in self._runner.observe().instances if i.device == device)
