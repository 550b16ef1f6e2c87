"""How busy devices are: for how long at least one batch was running, and how full batches were lately."""

from __future__ import annotations

from collections import Counter
from typing import Final

from batcher.clock import SECOND
from batcher.core.decay import DecayingSum

FILL_NS: Final = 10 * SECOND
"""Time constant of how full the batches of a device are: as short as shows a change before long, and long enough
for some batches of a slow model."""

FILL_FORGOTTEN_NS: Final = 6 * FILL_NS
"""So long after the last batch, how full it was says nothing of now."""


class BusyClock:
    """Adds up the time during which the number of running executions is above zero.

    Overlapping executions count once, and one that is still running counts up to the moment of
    `read`. Times are monotonic, in nanoseconds; a time before an earlier one counts as equal to it,
    so that a reading never goes down.
    """

    __slots__ = ("_busy_ns", "_running", "_seen_ns")

    def __init__(self) -> None:
        self._busy_ns = 0
        self._running = 0
        self._seen_ns = 0

    def started(self, now_ns: int) -> None:
        """One more execution runs from now on; every call is followed by one of `ended`."""
        self.read(now_ns)
        self._running += 1

    def ended(self, now_ns: int) -> None:
        """One execution that was started has ended."""
        self.read(now_ns)
        self._running -= 1

    def read(self, now_ns: int) -> int:
        """Nanoseconds busy up to now."""
        if now_ns > self._seen_ns:
            if self._running:
                self._busy_ns += now_ns - self._seen_ns
            self._seen_ns = now_ns
        return self._busy_ns


class DeviceUse:
    """How busy one device is with the batches of all models, and how full these are.

    `read` is the union of all their intervals. Every method is called on the event loop's thread.
    """

    __slots__ = ("_ended_ns", "_room", "_rows", "busy")

    def __init__(self) -> None:
        self.busy = BusyClock()
        self._rows = DecayingSum(FILL_NS)
        self._room = DecayingSum(FILL_NS)
        self._ended_ns: int | None = None

    def batch_ended(self, rows: int, room: int, now_ns: int) -> None:
        """A batch of so many rows has ended, which could have had `room` of them."""
        self._ended_ns = now_ns
        self._rows.add(rows, now_ns)
        self._room.add(room, now_ns)

    def fill(self, now_ns: int) -> float | None:
        """Rows of recent batches over what they could have held; None without any in the last minute."""
        ended_ns = self._ended_ns
        if ended_ns is None or now_ns - ended_ns > FILL_FORGOTTEN_NS:
            return None
        return self._rows.value / self._room.value


class DeviceUses(dict[str, DeviceUse]):
    """The use of each device that a model runs on. A device that no model is on any more is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self._models: Counter[str] = Counter()

    def joins(self, device: str) -> None:
        """One more model runs on the device."""
        self._models[device] += 1
        self.setdefault(device, DeviceUse())

    def leaves(self, device: str) -> None:
        """A model that ran on the device does not any more."""
        self._models[device] -= 1
        if not self._models[device]:
            del self[device], self._models[device]
