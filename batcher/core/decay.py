"""A sum in which what was added long ago counts less and less."""

from __future__ import annotations

from math import exp


class DecayingSum:
    """After each `over_ns` nanoseconds, what was added counts for 1/e of what it did."""

    __slots__ = ("_over_ns", "since_ns", "value")

    def __init__(self, over_ns: float) -> None:
        self._over_ns = over_ns
        self.value = 0.0
        """What it was at `since_ns`, when something was added last."""
        self.since_ns = 0

    def at(self, now_ns: int) -> float:
        """What it is now."""
        return self.value * exp((self.since_ns - now_ns) / self._over_ns)

    def add(self, amount: float, now_ns: int) -> None:
        """Add something now."""
        self.value = self.at(now_ns) + amount
        self.since_ns = now_ns

    def capture(self) -> tuple[float, int]:
        """The state as a plain value, for `restore`."""
        return self.value, self.since_ns

    def restore(self, state: tuple[float, int]) -> None:
        """Go on where the one that was captured stood."""
        self.value, self.since_ns = state
