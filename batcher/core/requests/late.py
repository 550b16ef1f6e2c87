"""Late requests: those that cannot be answered by their due times, but within their limits.

A request is late from its arrival on, or becomes late when a policy gives it up so that more others are
in time. Late requests wait in one class, in the order in which they arrived, and are refused as soon as
their share of the device (`core/late.py`) would serve them after their limits.
"""

from __future__ import annotations

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


def late_wait_ns(model: Model, fleet: Fleet, rows: int) -> float:
    """Nanoseconds until a late request of so many rows is served behind all that are late now."""
    queue, slots = model.queue, fleet.slots(model.name)
    all_ns = model.times.backlog_ns(queue, queue.all_rows + rows) / slots
    late_rows = rows + _late_rows(queue)
    late_ns = all_ns * late_rows / (queue.all_rows + rows)
    return model.late.wait_ns(all_ns, late_ns, model.times.best_rate() * slots)


def beyond_reach(model: Model, fleet: Fleet, now_ns: int) -> list[LiveRequest]:
    """Late requests that their share of the device would serve after their limits, the last ones first."""
    queue, slots = model.queue, fleet.slots(model.name)
    best_rate = model.times.best_rate() * slots
    if not best_rate or not model.late.overload(best_rate):
        return []
    late_rows = _late_rows(queue)
    all_rows = queue.all_rows
    soonest_ns = fleet.next_free_ns(model.name, now_ns)
    found: list[LiveRequest] = []
    if not late_rows:
        return found
    each_ns = model.times.backlog_ns(queue, all_rows) / slots / all_rows
    for group in queue.groups.values():
        last = group.classes[-1]
        if last.rank != LATE:
            continue
        for request in reversed(last.requests):
            wait_ns = model.late.wait_ns(all_rows * each_ns, late_rows * each_ns, best_rate)
            if soonest_ns + wait_ns <= request.limit_ns:
                break
            if not request.begun:
                found.append(request)
                late_rows -= request.rows
                all_rows -= request.rows
    if len(found) == queue.requests and soonest_ns <= now_ns:
        # Beside an idle instance, no prediction refuses a request before which nothing goes.
        found.pop()
    return found


def _late_rows(queue: ModelQueue) -> int:
    lasts = [group.classes[-1] for group in queue.groups.values()]
    return sum([last.rows for last in lasts if last.rank == LATE])
