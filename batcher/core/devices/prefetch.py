"""When an instance may get its next batch while it still runs one.

From the end of a batch to the beginning of the next there are two changes of thread, a decision and
the gathering of inputs. Where enough waits to fill the next batch whatever else arrives, nothing is
gained by deciding late: the instance gets its next batch a little before it is free. A backend at
the end of a network would idle for a round trip as well: it gets its next batch earlier by that. And so does
an instance whose batches are pipelined, by the time that it takes to copy one.
"""

from __future__ import annotations

from batcher.core.devices.instances import RunningBatch
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.service_time.handling import Handling

LEAD_GAPS = 2.0
"""An instance may get its next batch so many gaps before it is free."""

MAX_LEAD_SHARE = 0.2
"""But not earlier than this share of the time of the batch that runs. With all of it, 27 of 10,000 requests are
late while gaps grow and shrink; the bound keeps it below 10. The round trip to a backend and the time of a copy come on top."""


def schedule_prefetch(
    batch: RunningBatch, handling: Handling, times: ServiceTimes | None, now_ns: int
) -> None:
    """Set when a batch that starts now, or is prefetched, should end, and when the next may be prefetched.

    It may end sooner than expected, by as much as the margin says that it may end later. While
    its time is not predicted, nothing is prefetched behind it.
    """
    expected_ns = batch.expected_end_ns - batch.dispatched_ns
    copy_ns = 0.0
    if times is not None and times.copies:
        copy_ns = times.copies[batch.rows]
        _end_behind_its_copy(batch, times, now_ns)
    elif batch.prefetched and handling.gap_ns and expected_ns > 0:
        batch.expected_end_ns -= handling.saved_ns
    if not (handling.gap_ns or copy_ns) or expected_ns <= 0:
        return
    margin = 1.0 if times is None else times.margin
    lead_ns = LEAD_GAPS * handling.gap_ns + (margin - 1.0) * expected_ns
    lead_ns = min(lead_ns, MAX_LEAD_SHARE * expected_ns) + handling.round_trip_ns + copy_ns
    batch.prefetch_at_ns = int(batch.expected_end_ns - lead_ns)


def _end_behind_its_copy(batch: RunningBatch, times: ServiceTimes, now_ns: int) -> None:
    """Expect a batch to end when it is copied and computed, or as soon after the one before as it can."""
    if batch.prefetched:
        alone_ns = now_ns + times.alone[batch.rows]
        batch.expected_end_ns = max(alone_ns, batch.expected_end_ns)
    else:
        batch.expected_end_ns += times.ahead_ns(batch.rows)
