"""How long at least one batch was running: the union of overlapping intervals."""

from __future__ import annotations


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
