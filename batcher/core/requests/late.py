"""Late requests: those that cannot be answered by their due times, but within their limits.

A request is late from its arrival on, or becomes late when a policy gives it up so that more others are
in time. Late requests wait in one class, in the order in which they arrived, and are refused as soon as
their share of the device (`core/late.py`) would serve them after their limits.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.devices.fleet import Fleet
from batcher.core.model import Model
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.ranks import LATE, late_turn_ns
from batcher.core.queueing.request import LiveRequest
from batcher.core.times import NEVER_NS


def make_late(request: LiveRequest, model: Model) -> None:
    """Make a request late; the caller puts it into the queue."""
    request.finish_by_ns = late_turn_ns(
        request.rank, request.arrived.arrival_ns, model.settings.queue
    )
    request.rank = LATE
    request.promote_at_ns = NEVER_NS
    model.late.waiting = True
    model.late.became_late += request.rows


class LateQueue:
    """A model's late requests at one moment, and how long another one would wait behind them."""

    __slots__ = (
        "_behind_all_ns",
        "_behind_late_ns",
        "_each_ns",
        "_fleet",
        "_model",
        "_now_ns",
        "_overload",
        "_stretch",
        "_wait_ns",
        "soonest_ns",
    )

    def __init__(self, model: Model, fleet: Fleet, now_ns: int) -> None:
        queue, slots = model.queue, fleet.slots(model.name)
        rows = queue.all_rows
        each_ns = model.times.backlog_ns(queue, rows or 1) / slots / (rows or 1)
        behind_all, behind_late = 1.0, 0.0
        if model.reachable:
            # Else none can be in time: late requests have the whole device, and no share of it.
            rate = model.capacity(slots)
            behind_all, behind_late = model.late.waits_behind(rate)
        self._model, self._fleet, self._now_ns = model, fleet, now_ns
        self._overload = behind_late > 0.0
        self._each_ns, self._stretch = each_ns, behind_all + behind_late
        # How much longer a late request waits for each row that waits, and for each late one of them.
        self._behind_all_ns, self._behind_late_ns = each_ns * behind_all, each_ns * behind_late
        self._wait_ns = rows * self._behind_all_ns + _late_rows(queue) * self._behind_late_ns
        most = model.largest_rows
        if rows >= most and not model.reachable:
            # A full batch runs with each: else those at their limits would make batches small.
            self._wait_ns += most * each_ns * slots
        self.soonest_ns = fleet.next_free_ns(model.name, now_ns)
        """When an instance is free."""

    def wait_ns(self, rows: int = 0, alone_ns: float = 0.0) -> float:
        """Nanoseconds from `soonest_ns` until a late request of so many rows is done, behind all others.

        `alone_ns`: what it takes alone. In batches with others it takes no longer.
        """
        own_ns = min(rows * self._each_ns, alone_ns)
        return self._wait_ns + own_ns * self._stretch

    def give_up(
        self, requests: Sequence[LiveRequest], next_up: Sequence[LiveRequest]
    ) -> list[LiveRequest]:
        """Make waiting requests late that a policy gave up. Returns those that are to be refused instead.

        Each is placed behind those given up before it, not behind the others. What has begun to run is not
        refused for its target, only for its limit; no prediction refuses what is `next_up` beside idle
        instances.
        """
        model, refused = self._model, []
        each_ns = self._behind_all_ns + self._behind_late_ns
        in_time = [request.rows for request in requests if request.rank != LATE]
        self._wait_ns -= sum(in_time) * self._behind_all_ns
        served = model.serves_late
        for request in requests:
            limit_ns, expires_ns, may_wait = request.limit_ns, request.expires_ns, False
            if request.rank != LATE and (request in next_up or limit_ns > request.finish_by_ns):
                done_ns = self.soonest_ns + self._wait_ns + request.rows * each_ns
                reached = done_ns <= limit_ns and (expires_ns is None or done_ns <= expires_ns)
                times = model.times.get(request.bucket)
                reached = reached or times is None or not times.steady
                may_wait = (served and reached) or request in next_up or request.begun
            if not may_wait:
                refused.append(request)
                continue
            model.queue.discard(request)
            make_late(request, model)
            model.queue.add(request)
            self._wait_ns += request.rows * each_ns
        return refused

    def beyond_reach(self) -> list[LiveRequest]:
        """Those that their share of the device would serve after their limits, the last ones first."""
        found: list[LiveRequest] = []
        if not self._overload:
            return found
        each_ns = self._behind_all_ns + self._behind_late_ns
        for group in self._model.queue.groups.values():
            last = group.classes[-1]
            if last.rank != LATE:
                continue
            for request in reversed(last.requests):
                if self.soonest_ns + self._wait_ns <= request.limit_ns:
                    break
                if not request.begun:
                    found.append(request)
                    self._wait_ns -= request.rows * each_ns
        if found and (spare := self.spare_instances(len(found))):
            # Beside an idle instance, no prediction refuses a request before which nothing goes.
            del found[-spare:]
        return found

    def spare_instances(self, requests: int) -> int:
        """Idle instances for so many of those that wait: beside one for each of the others."""
        if self.soonest_ns > self._now_ns:
            return 0
        idle = [
            at_ns <= self._now_ns for at_ns in self._fleet.free_ns(self._model.name, self._now_ns)
        ]
        return max(0, sum(idle) - (self._model.queue.requests - requests))


def _late_rows(queue: ModelQueue) -> int:
    lasts = [group.classes[-1] for group in queue.groups.values()]
    return sum([last.rows for last in lasts if last.rank == LATE])
