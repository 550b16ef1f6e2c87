"""The gap between two batches of an instance, and how much of it prefetching saves.

From the end of a batch to the beginning of the next there are two changes of thread, a decision and
the gathering of inputs. Where enough waits to fill the next batch whatever else arrives, nothing is
gained by deciding late: the instance gets its next batch a little before it is free.
"""

from __future__ import annotations

from batcher.core.devices.instances import RunningBatch
from batcher.core.events import Timings

LEAD_GAPS = 2.0
"""An instance may get its next batch so many gaps before it is free."""

MAX_LEAD_SHARE = 0.2
"""But not earlier than this share of the time of the batch that runs."""

GAP_SAMPLES = 16
"""The averages are those of the first 16 samples; from then on a new one moves them by 1/16."""

GAP_CAP, GAP_CAP_NS = 4.0, 1_000_000.0
"""A sample is a stall, and counts only so much, beyond this many gaps plus these nanoseconds."""


class Prefetch:
    """Averages over one model's batches, in nanoseconds.

    `gap_ns` is the time of a batch beyond its execution, on an instance that was idle; `saved_ns` is
    how much less that is for a prefetched batch. Where all batches are prefetched, a longer gap shows
    only in what is left of it, so it is at least that.
    """

    __slots__ = (
        "_idle_gap_ns",
        "_idle_samples",
        "_prefetched_gap_ns",
        "_prefetched_samples",
        "gap_ns",
        "saved_ns",
    )

    def __init__(self) -> None:
        self.gap_ns = 0.0
        self.saved_ns = 0.0
        self._idle_gap_ns = self._prefetched_gap_ns = 0.0
        self._idle_samples = self._prefetched_samples = 0

    def schedule(self, batch: RunningBatch, margin: float) -> None:
        """Set when a batch that is about to start should end, and when the next may be prefetched.

        It may end sooner than expected, by as much as the `margin` says that it may end later. While
        its time is not predicted, nothing is prefetched behind it.
        """
        expected_ns = batch.expected_end_ns - batch.dispatched_ns
        if not self.gap_ns or expected_ns <= 0:
            return
        if batch.prefetched:
            batch.expected_end_ns -= self.saved_ns
        lead_ns = LEAD_GAPS * self.gap_ns + (margin - 1.0) * expected_ns
        batch.prefetch_at_ns = int(
            batch.expected_end_ns - min(lead_ns, MAX_LEAD_SHARE * expected_ns)
        )

    def observe(self, took_ns: int, timings: Timings, *, prefetched: bool) -> int:
        """Learn from a batch; returns how long it would have taken on an idle instance.

        `took_ns` counts from when the instance could begin: when it was given the batch or, for a
        `prefetched` one, when the batch before it was reported.
        """
        executed_ns = timings.execute_end_ns - timings.execute_start_ns
        if executed_ns <= 0:
            return took_ns
        beyond_ns = max(0.0, took_ns - executed_ns)
        sample_ns = min(beyond_ns, GAP_CAP * self.gap_ns + GAP_CAP_NS)
        if prefetched:
            self._prefetched_samples = min(self._prefetched_samples + 1, GAP_SAMPLES)
            self._prefetched_gap_ns += (
                sample_ns - self._prefetched_gap_ns
            ) / self._prefetched_samples
        else:
            self._idle_samples = min(self._idle_samples + 1, GAP_SAMPLES)
            self._idle_gap_ns += (sample_ns - self._idle_gap_ns) / self._idle_samples
        self._combine()
        if not prefetched:
            return took_ns
        # Where two batches are reported at once, the second seems to have taken no time.
        return executed_ns + round(max(self.gap_ns, beyond_ns + self.saved_ns))

    def _combine(self) -> None:
        self.gap_ns = max(self._idle_gap_ns, self._prefetched_gap_ns)
        self.saved_ns = self.gap_ns - self._prefetched_gap_ns if self._prefetched_samples else 0.0

    def capture(self) -> tuple[float, float, int, int]:
        """The state as a plain value, for `restore`."""
        return (
            self._idle_gap_ns,
            self._prefetched_gap_ns,
            self._idle_samples,
            self._prefetched_samples,
        )

    def restore(self, state: tuple[float, float, int, int]) -> None:
        """Continue from what `capture` returned."""
        self._idle_gap_ns, self._prefetched_gap_ns, self._idle_samples, self._prefetched_samples = (
            state
        )
        self._combine()
