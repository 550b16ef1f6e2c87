"""Lets the warm-up of an instance take turns with batches that other instances on its device answer with.

A warm-up batch gets a slot of the device as any batch does: the scheduler starts nothing there meanwhile, so
that neither of the two is measured while the other is in its way. Between two of them the device is left to
others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from batcher.clock import SECOND
from batcher.core.events import DeviceConfigured
from batcher.runtime.runner import Runner

SHARE: Final = 0.02
"""The part of a device that a warm-up takes while other instances there answer requests. Of a device with
5 ms + 0.5 ms a row, up to 32 rows, at 70 % load and 50 ms target, p99 while a warm-up is under way is, in
virtual time, 28.1 ms without one, 30.8 with 0.01, 34.2 with 0.02, 38.5 with 0.05, and 269 with 0.3. A load
takes as many times longer than its warm-up batches as this is smaller."""

PATIENCE_S: Final = 1.0
"""Seconds for which a warm-up batch waits until the device is idle by itself: then what waits has time to
spare. After that nothing else is started there until its turn has come. (Without it p99 is 37.2 ms instead
of 34.2, as above.) `bench/sim reloads` has the whole."""

HELD_S: Final = 0.1
"""Seconds for which a warm-up batch keeps its slot. The first one of a size may compile for minutes, without
the device; what waits for the device then waits no longer than this."""

LONGEST_PAUSE_S: Final = 2.0
"""Seconds between two warm-up batches, at most: one that compiled for minutes is not followed by an hour."""

UNUSED_S: Final = 1.0
"""Seconds without a batch of the instances that are up, after which a device counts as unused: warm-up batches
follow each other then, as when several models are loaded at the start. What comes meanwhile waits for one of
them. A shorter time saves less than that; a longer one makes loads longer after the last request."""


_NO_LIMIT: Final = 1 << 31


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
    async def turn(self, device: str) -> AsyncIterator[bool]:
        """Have a slot of the device while a warm-up batch runs; then leave it to others for a while.

        Yields whether others use the device. Where they do not (`UNUSED_S`), nothing is waited for after it.
        Without a limit of the device, or while nothing else is up there, nothing is waited for at all.
        """
        loop = asyncio.get_running_loop()
        async with self._turns.setdefault(device, asyncio.Lock()):
            if device not in self._limits or not self._up(device):
                yield False
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._free(device)
            self._reserve(device, 1)
            release = loop.call_later(HELD_S, self._reserve, device, 0)
            try:
                await self._free(device)
                began_s = loop.time()
                used = self._used(device)
                yield used
                took_s = loop.time() - began_s
            finally:
                release.cancel()
                self._reserve(device, 0)
            if used:
                await asyncio.sleep(min(LONGEST_PAUSE_S, took_s * (1 / SHARE - 1)))

    async def _free(self, device: str) -> None:
        """Wait until a slot of the device is free, or it may be had no longer."""
        reserved = self._reserved.get(device)
        while (
            self._running(device) >= self._limits.get(device, _NO_LIMIT)
            and self._reserved.get(device) == reserved
        ):
            await self._runner.batch_ended()

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

    def _used(self, device: str) -> bool:
        """Whether an instance on the device executes a batch, or has begun one lately."""
        there = [i for i in self._runner.observe().instances if i.device == device]
        if any(i.in_flight for i in there):
            return True
        return self._runner.idle_ns(i.instance for i in there) < UNUSED_S * SECOND

    def _running(self, device: str) -> int:
        """Batches that run on the device."""
        return sum(i.in_flight for i in self._runner.observe().instances if i.device == device)
