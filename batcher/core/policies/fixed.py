"""The policy `fixed`: a delay, a maximum and preferred sizes.

The rules are those that Triton users know:

- Requests are taken from the head, in order, as long as their rows fit the maximum.
- If some prefix of the lane has exactly a preferred number of rows, the longest such prefix is a
  batch at once. Where the lane jumps over the largest preferred size without hitting one, the
  prefix before the jump counts as preferred.
- Otherwise the window stays open until the oldest request is `max_delay_ns` old, or until the
  batch cannot grow; then all that fits goes. It closes earlier where a request that could still be
  answered would expire otherwise, or would be answered after its caller's deadline.

Priority classes are served in order, so the head is the most urgent request. Each lane has a window
of its own: requests of another lane do not close it. Without preferred sizes the maximum is the only one. The one difference: a batch is formed when an
instance is free, so while all are busy it goes on growing up to the maximum.
"""

from __future__ import annotations

from batcher.core.policies.verdict import Situation, Take, Verdict, Wait
from batcher.core.queue import Lane
from batcher.core.request import NEVER_NS
from batcher.core.settings import FixedWindow

TIMER_NS = 1_000_000
"""A batch that a deadline asks for begins so much earlier: the timer that wakes for it may be late."""


class FixedWindowPolicy:
    """Stateless: everything it needs is in the lane and the settings."""

    __slots__ = ("_delay_ns", "_largest", "_max_rows", "_preferred", "_smallest")

    def __init__(self, window: FixedWindow, max_batch_size: int) -> None:
        self._delay_ns = window.max_delay_ns
        self._max_rows = max_batch_size
        self._preferred = frozenset(window.preferred_sizes or (max_batch_size,))
        self._smallest = min(self._preferred)
        self._largest = max(self._preferred)

    def decide(self, lane: Lane, situation: Situation) -> Verdict:
        """Take a preferred prefix, or all that fits once the window has closed."""
        now_ns = situation.now_ns
        closes_ns = lane.oldest_arrival_ns + self._delay_ns
        if lane.expires_ns < NEVER_NS and now_ns < closes_ns:
            closes_ns = self._in_time(lane, situation, closes_ns)
        open_ = now_ns < closes_ns and not situation.crowded
        if open_ and lane.rows < self._smallest:
            return Wait(closes_ns)
        count, rows, preferred, full = self._prefix(lane)
        if preferred and (open_ or not self._delay_ns):
            return Take(preferred)
        if open_ and not full and rows < self._largest:
            return Wait(closes_ns)
        return Take(count)

    def _in_time(self, lane: Lane, situation: Situation, closes_ns: int) -> int:
        """When a window must close at the latest for the deadlines of those that wait in it."""
        times = situation.times
        takes_ns = times.answered[min(lane.rows, self._max_rows)] if times else 0.0
        spare_ns = takes_ns + TIMER_NS
        # A bound first: all are looked at only where some deadline may matter.
        if lane.expires_ns - spare_ns >= closes_ns:
            return closes_ns
        if lane.first_expiry_ns() - spare_ns >= closes_ns:
            return closes_ns
        for request in lane:
            expires_ns, leaves_ns = request.expires_ns, request.leaves_ns
            if expires_ns is None:
                continue
            start_ns = expires_ns - TIMER_NS
            if leaves_ns is not None:
                if times and situation.now_ns + times.typical[request.rows] > leaves_ns:
                    continue  # Even alone it would be too late.
                start_ns = min(start_ns, int(leaves_ns - spare_ns))
            closes_ns = min(closes_ns, start_ns)
        return closes_ns

    def _prefix(self, lane: Lane) -> tuple[int, int, int, bool]:
        """How many requests fit, their rows, how many make a preferred batch, and fullness."""
        count = rows = preferred = 0
        for request in lane:
            grown = rows + request.rows
            if count and not preferred and grown > self._largest:
                preferred = count
            if grown > self._max_rows:
                return count, rows, preferred, True
            rows = grown
            count += 1
            if rows in self._preferred:
                preferred = count
        return count, rows, preferred, False
