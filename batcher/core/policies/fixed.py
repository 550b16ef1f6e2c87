"""The policy `fixed`: a delay, a maximum and preferred sizes, with the rules that Triton users know.

- Requests are taken in order, as long as their rows fit the maximum.
- If some prefix of the group has exactly a preferred number of rows, the longest such prefix is a
  batch at once. Where the rows jump over the largest preferred size without reaching it, the prefix
  before the jump counts as preferred. Without preferred sizes, the maximum is the only one.
- Otherwise the window stays open until the oldest request is `max_delay_ns` old, or until the batch
  cannot grow; then all that fits goes. It closes earlier where a request would otherwise expire, or be
  answered after its deadline; a deadline that could not be met at once closes nothing.

Priority classes are served in order. Each batch group has a window of its own; requests of another group
do not close it. One difference to Triton: a batch is formed when an instance is free, so while all are
busy it grows up to the maximum.

With a delay of zero this is greedy formation: at once, the largest batch of what waits.
"""

from __future__ import annotations

from batcher.core.policies.interface import BatchPolicy, Decision, PolicyInput, Take, Wait
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.settings import FixedWindow
from batcher.core.times import NEVER_NS, TIMER_NS


class FixedWindowPolicy(BatchPolicy):
    """Stateless: all it needs is in the group and the settings."""

    __slots__ = ("_delay_ns", "_largest", "_max_rows", "_preferred", "_smallest", "fill_sizes")

    def __init__(self, window: FixedWindow, max_batch_size: int) -> None:
        self._delay_ns = window.max_delay_ns
        self._max_rows = max_batch_size
        self.fill_sizes = window.preferred_sizes
        self._preferred = frozenset(window.preferred_sizes or (max_batch_size,))
        self._smallest = min(self._preferred)
        self._largest = max(self._preferred)

    def decide(self, group: BatchGroup, given: PolicyInput) -> Decision:
        """Take a preferred prefix, or all that fits once the window has closed."""
        now_ns = given.now_ns
        closes_ns = group.oldest_arrival_ns + self._delay_ns
        if group.expires_ns < NEVER_NS and now_ns < closes_ns:
            closes_ns = self._in_time(group, given, closes_ns)
        open_ = now_ns < closes_ns and not given.many_groups
        most = min(self._max_rows, given.times.max_rows)
        if open_ and group.rows < min(self._smallest, most):
            return Wait(closes_ns)
        count, rows, preferred, full = self._prefix(group, most)
        if preferred and (open_ or not self._delay_ns):
            return Take(preferred)
        if open_ and not full and rows < self._largest:
            return Wait(closes_ns)
        return Take(count)

    def _in_time(self, group: BatchGroup, given: PolicyInput, closes_ns: int) -> int:
        """When a window must close at the latest for the deadlines of the requests in it."""
        times = given.times
        takes_ns = times.p95[min(group.rows, self._max_rows, times.max_rows)] if times else 0.0
        spare_ns = takes_ns + TIMER_NS
        # Cheap bounds first: most often no deadline matters.
        if group.expires_ns - spare_ns >= closes_ns:
            return closes_ns
        if group.first_expiry_ns() - spare_ns >= closes_ns:
            return closes_ns
        for request in group:
            expires_ns, deadline_ns = request.expires_ns, request.deadline_ns
            if expires_ns is None:
                continue
            start_ns = expires_ns - TIMER_NS
            if deadline_ns is not None:
                if times and given.now_ns + times.expected[request.rows] > deadline_ns:
                    continue  # It would be too late even alone.
                start_ns = min(start_ns, int(deadline_ns - spare_ns))
            closes_ns = min(closes_ns, start_ns)
        return closes_ns

    def _prefix(self, group: BatchGroup, most: int) -> tuple[int, int, int, bool]:
        """How much of the group fits one batch of at most `most` rows.

        Returns how many requests fit, their rows, how many of them make a preferred batch (0 if none),
        and whether the next request does not fit.
        """
        count = rows = preferred = 0
        for request in group:
            grown = rows + request.rows
            if count and not preferred and grown > self._largest:
                preferred = count
            if grown > most:
                return count, rows, preferred, True
            rows = grown
            count += 1
            if rows in self._preferred:
                preferred = count
        return count, rows, preferred, rows == most < self._smallest
