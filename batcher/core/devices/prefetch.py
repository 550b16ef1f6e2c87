"""What a device waits for between two batches, and what is saved of that.

From the end of a batch to the beginning of the next there are two changes of thread, a decision and
the gathering of inputs. Where a backlog waits that fills the next batch whoever else comes, nothing
is won by deciding only then: the instance gets its next batch in hand a little before it is free.
"""

from __future__ import annotations

from batcher.core.devices.fleet import RunningBatch
from batcher.core.events import Timings

LEAD_GAPS = 2.0
"""How long before an instance is free it may get its next batch, in gaps."""

MOST_LEAD = 0.2
"""And at most in parts of what its batch takes."""

FOLLOWED_SAMPLES = 16
"""The averages follow a new sample with one part in so many."""

LEAP, LEAP_NS = 4.0, 1_000_000.0
"""What is longer than so many gaps and so much is a stall, and counts as this."""


class Prefetch:
    """Averages over one model's batches, in nanoseconds.

    `gap_ns` is what a batch that was given to an idle instance takes beyond its execution, `saved_ns`
    how much less of that there is for one that the instance had in hand. Where all are in hand, a gap
    that has grown shows only in what is left of it: it is at least that.
    """

    __slots__ = ("_alone_ns", "_alones", "_held_ns", "_helds", "gap_ns", "saved_ns")

    def __init__(self) -> None:
        self.gap_ns = 0.0
        self.saved_ns = 0.0
        self._alone_ns = self._held_ns = 0.0
        self._alones = self._helds = 0

    def foresee(self, batch: RunningBatch, margin: float) -> None:
        """Say when a batch ends that is about to start, and when it may get a successor in hand.

        It may end sooner than expected, by as much as the `margin` says that it may end later.
        While nothing is known of what it takes, it has no successor before it ends.
        """
        expected_ns = batch.expected_end_ns - batch.dispatched_ns
        if not self.gap_ns or expected_ns <= 0:
            return
        if batch.prefetched:
            batch.expected_end_ns -= self.saved_ns
        lead_ns = LEAD_GAPS * self.gap_ns + (margin - 1.0) * expected_ns
        batch.prefetch_at_ns = int(batch.expected_end_ns - min(lead_ns, MOST_LEAD * expected_ns))

    def observe(self, took_ns: int, timings: Timings, *, prefetched: bool) -> int:
        """Learn from a batch; returns what it would have taken on an instance that was idle.

        `took_ns` counts from when the instance could begin: when it was given the batch or, where
        it had that `prefetched`, when the one before was reported.
        """
        executed_ns = timings.execute_end_ns - timings.execute_start_ns
        if executed_ns <= 0:
            return took_ns
        beyond_ns = max(0.0, took_ns - executed_ns)
        sample_ns = min(beyond_ns, LEAP * self.gap_ns + LEAP_NS)
        if prefetched:
            self._helds = min(self._helds + 1, FOLLOWED_SAMPLES)
            self._held_ns += (sample_ns - self._held_ns) / self._helds
        else:
            self._alones = min(self._alones + 1, FOLLOWED_SAMPLES)
            self._alone_ns += (sample_ns - self._alone_ns) / self._alones
        self._sum_up()
        if not prefetched:
            return took_ns
        # Where two are reported at once, the second seems to have taken no time.
        return executed_ns + round(max(self.gap_ns, beyond_ns + self.saved_ns))

    def _sum_up(self) -> None:
        self.gap_ns = max(self._alone_ns, self._held_ns)
        self.saved_ns = self.gap_ns - self._held_ns if self._helds else 0.0

    def capture(self) -> tuple[float, float, int, int]:
        """The whole state as a plain value, for `restore`."""
        return self._alone_ns, self._held_ns, self._alones, self._helds

    def restore(self, state: tuple[float, float, int, int]) -> None:
        """Go on where the captured one stood."""
        self._alone_ns, self._held_ns, self._alones, self._helds = state
        self._sum_up()
