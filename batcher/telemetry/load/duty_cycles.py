"""`DutyCycles`: the part of the last seconds that each device was busy."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final, NoReturn

from batcher.clock import SECOND, Clock
from batcher.telemetry.busy import DeviceUses

WINDOW_S: Final = 10
"""Seconds that a duty cycle is taken over, as other recent values."""


class DutyCycles:
    """Reads the busy time of each device once a second, and keeps the readings of the last `WINDOW_S`."""

    def __init__(self, uses: DeviceUses, clock: Clock) -> None:
        self._uses = uses
        self._clock = clock
        self._readings: deque[tuple[int, Mapping[str, int]]] = deque(maxlen=WINDOW_S + 1)

    async def run(self) -> NoReturn:
        """Read every second, until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(1)

    def sample(self) -> None:
        """Read now."""
        now_ns = self._clock()
        busy_ns = {device: use.busy.read(now_ns) for device, use in self._uses.items()}
        self._readings.append((now_ns, busy_ns))

    def of(self, device: str) -> float | None:
        """From 0 to 1, up to the last reading; None before the second reading of the device."""
        if not self._readings:
            return None
        last_ns, last = self._readings[-1]
        for at_ns, busy_ns in self._readings:
            # After a stall of the event loop readings are further apart: what is too old is no part of it.
            recent = last_ns - at_ns < (WINDOW_S + 1) * SECOND
            if recent and at_ns < last_ns and device in busy_ns and device in last:
                return min(1.0, (last[device] - busy_ns[device]) / (last_ns - at_ns))
        return None
