"""A sum in which what was added long ago counts less and less."""

from __future__ import annotations

from math import exp

from batcher.core.captured import Captured


class DecayingSum(Captured):
    """After each `over_ns` nanoseconds, what was added counts for 1/e of what it did."""

    __slots__ = ("_over_ns", "since_ns", "value")
    STATE = ("value", "since_ns")

    def __init__(self, over_ns: float) -> None:
        self._over_ns = over_ns
        self.value = 0.0
        """The sum at `since_ns`, when an amount was added last."""
        self.since_ns = 0

    def at(self, now_ns: int) -> float:
        """The sum at `now_ns`."""
        return self.value * exp((self.since_ns - now_ns) / self._over_ns)

    def add(self, amount: float, now_ns: int) -> None:
        """Add an amount at `now_ns`."""
        self.value = self.at(now_ns) + amount
        self.since_ns = now_ns
