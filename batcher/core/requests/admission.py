"""Admission: which requests may enter a queue.

Predictions decide here: a request that cannot be answered within its limit is refused at once, while a
retry elsewhere still helps; one that can, but not by its due time, is late. The bounds of the queue are checked after it (`bounds.py`).
"""

from __future__ import annotations

from batcher.core.commands import Outcome, Reason
from batcher.core.devices.fleet import Fleet
from batcher.core.events import RequestArrived
from batcher.core.model import Model
from batcher.core.queueing.ranks import promotion_ns_of, rank_of
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.blame import blame_of
from batcher.core.requests.late import LateQueue, make_late
from batcher.core.requests.refusals import (
    NO_INSTANCE,
    TOO_MANY_BYTES,
    TOO_MANY_ROWS,
    Refusal,
    busy_ns,
    expiry_reason,
)
from batcher.core.requests.splitting import later_pieces_ns, leave_time_for_rest, split
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.times import NEVER_NS, TOLERANCE_NS


def admit(  # noqa: C901, PLR0911, PLR0912 - calls would cost a tenth of what each request costs here
    arrived: RequestArrived, model: Model, fleet: Fleet, now_ns: int
) -> LiveRequest | Refusal:
    """Returns the request with its times and rank if it may wait, or why it is refused.

    The bounds of the queue are not checked here.
    """
    if model.name not in fleet.serving:
        return NO_INSTANCE
    arrival_ns, rows, due_ns = arrived.arrival_ns, arrived.rows, arrived.due_ns
    if due_ns is None and model.target_ns is not None:
        due_ns = arrival_ns + model.target_ns
    expires_ns = deadline_ns = arrived.deadline_ns
    if model.timeout_ns is not None or arrived.queue_until_ns is not None:
        expires_ns = _expires_ns(arrived, model)
    if expires_ns is not None and expires_ns <= now_ns:
        return Refusal(Outcome.EXPIRED, expiry_reason(arrived, expires_ns))
    if rows > model.max_request_rows or arrived.nbytes > model.max_request_bytes:
        return TOO_MANY_ROWS if rows > model.max_request_rows else TOO_MANY_BYTES
    limit_ns = NEVER_NS if model.limit_ns is None else arrival_ns + model.limit_ns
    if deadline_ns is not None and deadline_ns < limit_ns:
        limit_ns = deadline_ns
    if limit_ns <= now_ns:
        # The model's own limit, that is: a deadline would have ended it above.
        return Refusal(Outcome.REJECTED, Reason.PREDICTED_LATE, busy_ns(model, fleet, now_ns))
    request = LiveRequest(arrived, due_ns, expires_ns, limit_ns)
    if model.buckets is not None:
        request.bucket = model.buckets.of(arrived.shapes)
    if rows > 1 and rows > model.most_rows(request.bucket):
        split(request, model)
    deadline_aware = model.deadline_aware
    if not deadline_aware or (due_ns is None and limit_ns == NEVER_NS):
        # In the order of these calls, which is not always that of `arrival_ns`.
        request.finish_by_ns = NEVER_NS + now_ns
    if arrived.priority or model.shares.several:
        request.rank = _rank(request, model, fleet, now_ns)
        request.promote_at_ns = promotion_ns_of(request, arrival_ns, model.settings.queue)
    else:
        request.rank = rank = model.default_rank
        if rank != model.best_rank:
            request.promote_at_ns = arrival_ns + model.promote_after_ns
    if not (deadline_aware or model.learns_arrivals):
        return request
    soonest_ns = fleet.next_free_ns(model.name, now_ns)
    # The arrival counts, whatever becomes of it.
    late, waiting = model.late, model.queue.requests
    if soonest_ns <= now_ns and not waiting:
        late.idle()
    elif now_ns >= late.window_ends_ns:
        late.next_window(now_ns, model.capacity(fleet.slots(model.name)))
    late.offered += rows
    late.since_answers += rows
    if model.learns_arrivals:
        try:
            model.policy.on_arrival(rows, request.rank, now_ns, waiting > 0 or model.running > 0)
        except Exception as exc:  # noqa: BLE001 - a policy's own code; the model goes on without it
            model.policy_raised(exc)
    times = model.times.get(request.bucket)
    if not model.deadline_aware or times is None or not times.curve:
        return request
    done_ns = soonest_ns + times.expected[request.rows] - TOLERANCE_NS
    if done_ns <= request.finish_by_ns and request.split is None:
        return request
    return _admit_late(request, model, times, fleet, soonest_ns, now_ns)


def _expires_ns(arrived: RequestArrived, model: Model) -> int | None:
    """When a request ends if it has not begun: at its deadline, or what limits its wait in the queue."""
    ends_ns = [] if arrived.deadline_ns is None else [arrived.deadline_ns]
    if model.timeout_ns is not None:
        ends_ns.append(arrived.arrival_ns + model.timeout_ns)
    if arrived.queue_until_ns is not None and model.settings.queue.allow_timeout_override:
        ends_ns.append(arrived.queue_until_ns)
    return min(ends_ns, default=None)


def _admit_late(
    request: LiveRequest,
    model: Model,
    times: ServiceTimes,
    fleet: Fleet,
    soonest_ns: float,
    now_ns: int,
) -> LiveRequest | Refusal:
    """Make a request late that cannot be answered by its due time, or refuse it.

    It is refused where it cannot be answered within its limit either. Beside an idle instance, or in a
    bucket that has not run for long, a prediction alone refuses nothing: it could not be corrected.
    """
    after_ns = 0.0
    if request.split is not None:
        after_ns = later_pieces_ns(request, times, fleet.slots(model.name))
        leave_time_for_rest(request, after_ns)
    takes_ns = times.expected[request.rows] - TOLERANCE_NS
    if soonest_ns + takes_ns <= request.finish_by_ns:
        return request
    limit_ns, deadline_ns = request.limit_ns, request.deadline_ns
    if (
        deadline_ns is not None
        and now_ns + _shortest_ns(request, times, after_ns, now_ns) > deadline_ns
    ):
        # No retry with the same deadline helps, whatever the load.
        blame = blame_of(request, times, soonest_ns, deadline_ns, after_ns)
        return Refusal(Outcome.EXPIRED, Reason.DEADLINE_TOO_SHORT, None, blame)
    measured = not times.is_stale(now_ns) or request.group_key in model.queue.groups
    # Before any batch was as predicted, predictions are no reason to refuse.
    measured = measured and times.steady > 0
    # Beside one idle instance for each request that waits, and one more.
    idle = [at_ns <= now_ns for at_ns in fleet.free_ns(model.name, now_ns)]
    if measured and sum(idle) <= model.queue.requests:
        begins_ns, until_ns = soonest_ns, request.finish_by_ns + after_ns
        if model.serves_late:
            until_ns = limit_ns
            own_ns = takes_ns + after_ns
            wait_ns = LateQueue(model, fleet, now_ns).wait_ns(request.arrived.rows, own_ns)
            begins_ns = max(soonest_ns, soonest_ns + wait_ns - own_ns)
        missed_ns: float | None = None
        if begins_ns + takes_ns + after_ns > until_ns:
            missed_ns = until_ns
        elif request.expires_ns is not None and begins_ns >= request.expires_ns:
            missed_ns = request.expires_ns
        if missed_ns is not None:
            blame = blame_of(request, times, begins_ns, missed_ns, after_ns)
            retry_ns = busy_ns(model, fleet, now_ns)
            return Refusal(Outcome.REJECTED, Reason.PREDICTED_LATE, retry_ns, blame)
    make_late(request, model)
    return request


def _shortest_ns(request: LiveRequest, times: ServiceTimes, after_ns: float, now_ns: int) -> float:
    """The least that a batch took lately, or all batches of a split request would have."""
    least_ns = times.least_ns(now_ns)
    if request.split is None:
        return least_ns
    curve = times.curve
    return least_ns * (curve[request.rows] + after_ns) / max(1.0, curve[1])


def _rank(request: LiveRequest, model: Model, fleet: Fleet, now_ns: int) -> int:
    """The request's rank: from its priority level, and whether its tenant is over its share."""
    over_share = False
    if model.shares.several:
        capacity = model.capacity(fleet.slots(model.name))
        over_share = model.shares.over(
            request.arrived.tenant, request.arrived.rows, capacity, now_ns
        )
    return rank_of(model.level(request.arrived.priority), over_share=over_share)
