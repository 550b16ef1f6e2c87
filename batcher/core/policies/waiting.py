"""How long an idle instance waits for more requests, where all that waits fits one batch.

There are two reasons to wait. Another request is likely to come so soon that serving both together
keeps the device busy for less time than serving them apart. Or the batch is smaller than it must be to
keep the device below its utilization target. For callers that send nothing while they wait there is no
second reason, which `ArrivalStats.steady_rate` tells.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.policies.arrivals import GAPS, ArrivalStats
from batcher.core.policies.batch_rates import BatchRates
from batcher.core.policies.interface import PolicyInput
from batcher.core.queueing.request import LiveRequest
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.times import TIMER_NS, TOLERANCE_NS

WINDOW_AGE = 0.45
"""The wait for a larger batch ends when the first request could just be done at this age, in targets."""


class Waiting:
    """Decides how long to wait. Its state is when the current wait began."""

    __slots__ = ("_max_rows", "_target_ns", "_utilization", "began_ns")

    def __init__(self, max_rows: int, target_ns: int, utilization_target: float) -> None:
        self._max_rows = max_rows
        self._target_ns = target_ns
        self._utilization = utilization_target
        self.began_ns: int | None = None
        """When the current wait began; None while there is none."""

    def until_ns(
        self,
        requests: Sequence[LiveRequest],
        rows: int,
        given: PolicyInput,
        arrivals: ArrivalStats,
        rates: BatchRates,
    ) -> int | None:
        """When to ask again about requests that fit one batch; None if they go at once.

        `rows` are all the rows of `requests`, which is not empty; `rates` follow the curve in `given`.
        """
        most = min(self._max_rows, given.times.max_rows)
        if rows >= most or given.batch_capped or given.many_groups:
            self.began_ns = None
            return None
        now_ns = given.now_ns
        first = requests[0]
        times = given.times
        curve = times.curve
        grown_ns = times.p95[rows + 1]
        instances = len(given.free_ns)
        began_ns = now_ns if self.began_ns is None else self.began_ns
        merge_ns = curve[1] + curve[rows] - curve[rows + 1]
        until_ns = 0.0
        since_ns = first.arrived.arrival_ns
        behind = len(requests) if since_ns < began_ns else 0
        merges = times.batch_sizes is None or _merges(rows, merge_ns, times)
        if merges:
            gap_ns = arrivals.gap(requests[-1].arrived.arrival_ns, now_ns, merge_ns, behind)
            if gap_ns is not None:
                until_ns = min(gap_ns, since_ns + GAPS[-1] * merge_ns)
        if merges and behind and given.exclusive_device:
            gap_ns = arrivals.gap_behind()
            if gap_ns is not None and self._all_fit(requests, began_ns, given, arrivals):
                until_ns = max(until_ns, min(gap_ns, began_ns + GAPS[-1] * merge_ns))
        rate = arrivals.steady_rate / instances
        if rate > 0.0:
            wanted = rates.smallest_batch(rate / self._utilization)
            if rows < min(wanted, most):
                age_ns = since_ns + WINDOW_AGE * self._target_ns - grown_ns
                until_ns = max(until_ns, age_ns)
        until_ns = min(until_ns, first.finish_by_ns - grown_ns - TOLERANCE_NS)
        if until_ns > now_ns + TOLERANCE_NS:
            for request in requests:
                if request.expires_ns is not None:
                    until_ns = min(until_ns, request.expires_ns - TIMER_NS)
        if until_ns <= now_ns + TOLERANCE_NS:
            self.began_ns = None
            return None
        self.began_ns = began_ns
        return int(until_ns)

    def _all_fit(
        self,
        requests: Sequence[LiveRequest],
        since_ns: int,
        given: PolicyInput,
        arrivals: ArrivalStats,
    ) -> bool:
        """Whether all that waited at a moment, and as many rows as ended then, are done in time."""
        waited = [request.rows for request in requests if request.arrived.arrival_ns <= since_ns]
        rows = sum(waited) + arrivals.ended_rows
        if rows > min(self._max_rows, given.times.max_rows):
            return False
        done_ns = since_ns + given.times.p95[rows]
        return done_ns <= requests[0].finish_by_ns + TOLERANCE_NS


def _merges(rows: int, merge_ns: float, times: ServiceTimes) -> bool:
    """Whether one more row would join the batch where only certain sizes can run.

    It would not in a full one, or in one that is cut back to a size.
    """
    sizes = times.batch_sizes
    if sizes is None or merge_ns <= 0.0:
        return False
    size = sizes.below(rows)
    return not size or not sizes.apart(size, rows, times.curve)
