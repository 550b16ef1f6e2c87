"""Detects failure storms: failures so frequent that bisecting only costs time.

During a storm batches fail as a whole. The first batch that fails after it is bisected again, to see
whether the storm is over; a batch that succeeds after that time ends it, one that succeeds sooner does
not.
"""

from __future__ import annotations

from batcher.core.decay import DecayingSum

STORM_BATCHES = 3
"""So many bisections abandoned in a row are a storm."""

STORM_SHARE = 0.5
"""Bisecting that takes more than this share of the model's instances is a storm."""

STORM_WINDOW_NS = 2_000_000_000.0
"""Nanoseconds over which that share is averaged."""

STORM_NS = 1_000_000_000
"""Nanoseconds for which batches fail as a whole, before one is bisected again."""


class StormDetector:
    """One model's failure storm, if there is one."""

    __slots__ = ("_abandoned", "_spent_ns", "unreported", "until_ns")

    def __init__(self) -> None:
        self.until_ns: int | None = None
        """When the next batch may be bisected; None while there is no storm."""
        self.unreported = False
        """Whether a storm began that was not reported yet."""
        self._abandoned = 0
        self._spent_ns = DecayingSum(STORM_WINDOW_NS)

    def active(self, now_ns: int) -> bool:
        """Whether batches fail as a whole now."""
        return self.until_ns is not None and now_ns < self.until_ns

    def begin(self, now_ns: int) -> None:
        """A storm begins, or goes on."""
        self.unreported = self.unreported or self.until_ns is None
        self.until_ns = now_ns + STORM_NS

    def on_abandoned(self, now_ns: int) -> None:
        """Note a batch whose bisection was abandoned."""
        self._abandoned += 1
        if self._abandoned >= STORM_BATCHES:
            self.begin(now_ns)

    def on_success(self) -> None:
        """Note that suspects were executed: bisecting is of use."""
        self._abandoned = 0

    def on_retry(self, expected_ns: float, now_ns: int) -> None:
        """Note that suspects run again, for so many nanoseconds of all instances."""
        self._spent_ns.add(expected_ns, now_ns)
        if self._spent_ns.value > STORM_SHARE * STORM_WINDOW_NS:
            self.begin(now_ns)

    def end(self, now_ns: int) -> bool:
        """Note that a batch succeeded; returns whether that ends a storm."""
        if self.until_ns is None or now_ns < self.until_ns:
            return False
        self.until_ns = None
        self._abandoned = 0
        return True

    def capture(self) -> tuple[int | None, int, tuple[float, int]]:
        """The state as a plain value, for `restore`."""
        return self.until_ns, self._abandoned, self._spent_ns.capture()

    def restore(self, state: tuple[int | None, int, tuple[float, int]]) -> None:
        """Continue from what `capture` returned."""
        self.until_ns, self._abandoned, spent_ns = state
        self._spent_ns.restore(spent_ns)
