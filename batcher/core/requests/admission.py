"""Who may enter a queue.

Bounds: the requests, rows and bytes that may wait; a full queue makes room for what is worth more
than the least valuable request in it. And predictions: who can only be late, whatever happens, is
told so at once, while a retry elsewhere still helps. A refusal happens in the same step as
enqueueing would, so no bound can be overrun between a check and its use.
"""

from __future__ import annotations

from typing import Final, final

from batcher.core.commands import Outcome, Reason
from batcher.core.devices.fleet import Fleet
from batcher.core.events import RequestArrived
from batcher.core.model import Model
from batcher.core.queueing.queue import ModelQueue, promotion_ns_of, rank_of
from batcher.core.queueing.request import LiveRequest
from batcher.core.record import record
from batcher.core.requests.promotion import make_best_effort, rank_before_promotion
from batcher.core.requests.splitting import rest_ns, split, start_by
from batcher.core.service_time.canary import CANARY_INTERVAL_NS
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import QueueLimits
from batcher.core.times import NEVER_NS, TOLERANCE_NS

QUEUE_FULL_RETRY_NS = 100_000_000
"""What a caller is told to wait when a queue is full: long against a window, short for a person."""

UNAVAILABLE_RETRY_NS = 1_000_000_000
"""What a caller is told to wait when no instance is up: about the time a small model loads in."""

SHORTEST_RETRY_NS = 1_000_000
"""Nobody is told to come back sooner."""


@final
@record
class Refusal:
    """A request that does not enter, and why."""

    outcome: Outcome
    reason: Reason
    retry_ns: int | None = None


UNKNOWN_MODEL: Final = Refusal(Outcome.REJECTED, Reason.UNKNOWN_MODEL)
NO_INSTANCE: Final = Refusal(Outcome.REJECTED, Reason.NO_INSTANCE, UNAVAILABLE_RETRY_NS)
TOO_MANY_ROWS: Final = Refusal(Outcome.REJECTED, Reason.TOO_MANY_ROWS)
TOO_MANY_BYTES: Final = Refusal(Outcome.REJECTED, Reason.TOO_MANY_BYTES)
DEADLINE_TOO_SHORT: Final = Refusal(Outcome.EXPIRED, Reason.DEADLINE_TOO_SHORT)


def admit(
    arrived: RequestArrived, model: Model, fleet: Fleet, now_ns: int
) -> LiveRequest | Refusal:
    """The request with its times and its line if it may wait, bounds aside; else why not."""
    if not fleet.serves(model.name):
        return NO_INSTANCE
    due_ns, expires_ns = arrived.due_ns, arrived.expires_ns
    if due_ns is None and model.target_ns is not None:
        due_ns = arrived.arrival_ns + model.target_ns
    if model.timeout_ns is not None:
        timeout_ns = arrived.arrival_ns + model.timeout_ns
        expires_ns = timeout_ns if expires_ns is None else min(expires_ns, timeout_ns)
    if arrived.queue_until_ns is not None and model.settings.queue.allow_timeout_override:
        until_ns = arrived.queue_until_ns
        expires_ns = until_ns if expires_ns is None else min(expires_ns, until_ns)
    if expires_ns is not None and expires_ns <= now_ns:
        return Refusal(Outcome.EXPIRED, expiry_reason(arrived, expires_ns))
    if arrived.rows > model.max_request_rows or arrived.nbytes > model.max_request_bytes:
        return TOO_MANY_ROWS if arrived.rows > model.max_request_rows else TOO_MANY_BYTES
    request = LiveRequest(arrived, due_ns, expires_ns)
    if model.buckets is not None:
        request.bucket = model.buckets.of(arrived.shapes)
    if arrived.rows > model.settings.max_batch_size:
        split(request, model)
    if model.adaptive is None or (due_ns is None and request.deadline_ns is None):
        # In the order in which they came, which is not always that of their stamps.
        request.finish_by_ns = NEVER_NS + now_ns
    if arrived.priority or model.shares.several:
        request.rank = _rank(request, model, fleet, now_ns)
        request.promote_at_ns = promotion_ns_of(request, arrived.arrival_ns, model.settings.queue)
    else:
        # The same without a call, for each request.
        request.rank = rank = model.default_rank
        if rank != model.best_rank:
            request.promote_at_ns = arrived.arrival_ns + model.promote_after_ns
    return request if model.adaptive is None else _foresee(request, model, fleet, now_ns)


def _foresee(
    request: LiveRequest, model: Model, fleet: Fleet, now_ns: int
) -> LiveRequest | Refusal:
    """Count an arrival; refuse it if it can only be late."""
    rows = request.arrived.rows
    arrivals = model.arrivals
    if arrivals is not None:
        arrivals.arrived(rows, now_ns, model.running > 0 or model.queue.requests > 0)
    if arrivals is not None and (arrivals.ranks or request.rank != model.default_rank):
        arrivals.count_rank(request.rank, rows)
    times = model.times.get(request.bucket)
    if times is None or not times.curve:
        return request
    soonest_ns = fleet.soonest_ns(model.name, now_ns)
    done_ns = soonest_ns + times.expected[request.rows] - TOLERANCE_NS
    after_ns = 0.0
    if request.split is not None:
        after_ns = rest_ns(request, model, times, fleet.slots(model.name))
        start_by(request, after_ns)
    if done_ns <= request.finish_by_ns:
        return request
    deadline_ns = (NEVER_NS if request.deadline_ns is None else request.deadline_ns) - after_ns
    if not model.reachable and done_ns <= deadline_ns:
        return request
    if model.serves_late and done_ns <= deadline_ns:
        make_best_effort(request, model)
        return request
    return _late(request, model, times, fleet, now_ns, deadline_ns)


def _late(
    request: LiveRequest,
    model: Model,
    times: ServiceTimes,
    fleet: Fleet,
    now_ns: int,
    deadline_ns: float,
) -> LiveRequest | Refusal:
    """A request that can only be late, where such are refused: but for one now and then.

    `deadline_ns`: when its first batch must be done, or its caller has left.
    """
    retry_ns = until_clear_ns(model, fleet, now_ns)
    idle = not model.running and not model.queue.requests
    takes_ns = times.expected[request.rows] - TOLERANCE_NS
    if not idle and now_ns + takes_ns <= request.finish_by_ns:
        return Refusal(Outcome.REJECTED, Reason.PREDICTED_LATE, retry_ns)
    # It is not for others that it must be refused, but for a prediction, which may be wrong.
    canaries, costs_ns = times.canaries, times.curve[request.rows]
    no_other_traffic = _no_other_traffic(model, times, fleet, now_ns)
    if not times.reachable and fleet.soonest_ns(model.name, now_ns) + takes_ns <= deadline_ns:
        from_ns = canaries.admit_unreachable(costs_ns, now_ns, no_other_traffic=no_other_traffic)
        if from_ns <= now_ns:
            make_best_effort(request, model)
            return request
    else:
        from_ns = canaries.admit_canary(costs_ns, now_ns, no_other_traffic=no_other_traffic)
        if from_ns <= now_ns:
            request.canary = True
            return request
        canaries.refused_rows = request.rows
    if now_ns + takes_ns > deadline_ns:
        # Neither load nor a target is in its way: no retry with the same deadline helps.
        return DEADLINE_TOO_SHORT
    return Refusal(Outcome.REJECTED, Reason.PREDICTED_LATE, max(retry_ns, from_ns - now_ns))


def _rank(request: LiveRequest, model: Model, fleet: Fleet, now_ns: int) -> int:
    """The request's line: its priority level, and whether its tenant is over its share."""
    over_share = False
    if model.shares.several:
        capacity = model.best_rate() * fleet.slots(model.name) * model.part
        over_share = model.shares.over(
            request.arrived.tenant, request.arrived.rows, capacity, now_ns
        )
    return rank_of(model.level(request.arrived.priority), over_share=over_share)


def _no_other_traffic(model: Model, times: ServiceTimes, fleet: Fleet, now_ns: int) -> bool:
    """Whether nobody else was served lately who would have to wait for a batch that is long."""
    return not fleet.shares(model.name) and all(
        each.canaries.no_batch_since(now_ns - CANARY_INTERVAL_NS)
        for each in model.times.values()
        if each is not times or not times.canaries.last_was_canary
    )


def until_clear_ns(model: Model, fleet: Fleet, now_ns: int) -> int:
    """How long what waits and runs now keeps the model busy: when a retry makes sense."""
    waiting_ns = model.work_ns(model.queue.all_rows) / fleet.slots(model.name)
    return max(SHORTEST_RETRY_NS, int(fleet.soonest_ns(model.name, now_ns) - now_ns + waiting_ns))


def expiry_reason(arrived: RequestArrived, expires_ns: int | None) -> Reason:
    """Whose clock ran out: the caller's, or the queue's."""
    return Reason.CALLER_DEADLINE if expires_ns == arrived.expires_ns else Reason.QUEUE_TIMEOUT


def broken_bound(request: LiveRequest, model: Model) -> Reason | None:
    """The bound that this request would break, or None when there is room for it."""
    limits, queue = model.settings.queue, model.queue
    if queue.requests >= limits.max_requests:
        return Reason.QUEUE_REQUESTS
    if limits.max_rows is not None and queue.all_rows + request.arrived.rows > limits.max_rows:
        return Reason.QUEUE_ROWS
    if limits.max_bytes is not None and queue.nbytes + request.nbytes > limits.max_bytes:
        return Reason.QUEUE_BYTES
    if len(queue.groups) >= limits.max_groups and request.group_key not in queue.groups:
        return Reason.QUEUE_GROUPS
    return None


def room_for(request: LiveRequest, model: Model) -> list[LiveRequest]:
    """Waiting requests that are worth less than this one, and whose room it needs.

    Empty when they would not make enough room; then the newcomer is the one to be refused. So it is
    while more waits than a bound that was lowered allows: what waits is not refused for a change.
    """
    limits, queue = model.settings.queue, model.queue
    if _over_a_bound(queue, limits):
        return []
    requests = queue.requests + 1 - limits.max_requests
    rows = 0
    if limits.max_rows is not None:
        rows = queue.all_rows + request.arrived.rows - limits.max_rows
    nbytes = 0 if limits.max_bytes is None else queue.nbytes + request.nbytes - limits.max_bytes
    if queue.worst <= (request.rank, request.finish_by_ns):
        return []
    victims: list[LiveRequest] = []
    for victim in queue.worst_first():
        if requests <= 0 and rows <= 0 and nbytes <= 0:
            return victims
        if (victim.rank, victim.finish_by_ns) <= (request.rank, request.finish_by_ns):
            return []
        if victim.begun:
            # Some of its rows have run already, or run now.
            continue
        victims.append(victim)
        requests -= 1
        rows -= victim.arrived.rows
        nbytes -= victim.nbytes
    return victims if requests <= 0 and rows <= 0 and nbytes <= 0 else []


def group_for(request: LiveRequest, model: Model) -> list[LiveRequest]:
    """The request whose group makes room for one more: the only one in it, that waits longest.

    What has a group of its own is what the bound is for, and a newcomer to a group that is served
    again and again has none at times. Empty where all of that are worth more than the newcomer.
    """
    if len(model.queue.groups) > model.settings.queue.max_groups:
        return []
    own = rank_before_promotion(request, model)
    for group in model.queue.groups.values():
        other = group.head
        if len(group) == 1 and not other.begun and rank_before_promotion(other, model) >= own:
            return [other]
    return []


def _over_a_bound(queue: ModelQueue, limits: QueueLimits) -> bool:
    """Whether more waits than may: only a changed bound makes that so."""
    return (
        queue.requests > limits.max_requests
        or (limits.max_rows is not None and queue.all_rows > limits.max_rows)
        or (limits.max_bytes is not None and queue.nbytes > limits.max_bytes)
    )
