"""Admission: which requests may enter a queue.

Predictions decide here: a request that cannot meet its target, whatever happens, is refused at once,
while a retry elsewhere still helps. The bounds of the queue are checked after it (`bounds.py`).
"""

from __future__ import annotations

from batcher.core.commands import Outcome, Reason
from batcher.core.devices.fleet import Fleet
from batcher.core.events import RequestArrived
from batcher.core.model import Model
from batcher.core.queueing.ranks import promotion_ns_of, rank_of
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.blame import blame_of
from batcher.core.requests.promotion import make_best_effort
from batcher.core.requests.refusals import (
    NO_INSTANCE,
    TOO_MANY_BYTES,
    TOO_MANY_ROWS,
    Refusal,
    busy_ns,
    expiry_reason,
)
from batcher.core.requests.splitting import later_pieces_ns, leave_time_for_rest, split
from batcher.core.service_time.canary import CANARY_INTERVAL_NS
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.times import NEVER_NS, TOLERANCE_NS


def admit(
    arrived: RequestArrived, model: Model, fleet: Fleet, now_ns: int
) -> LiveRequest | Refusal:
    """Returns the request with its times and rank if it may wait, or why it is refused.

    The bounds of the queue are not checked here.
    """
    if not fleet.serves(model.name):
        return NO_INSTANCE
    due_ns, expires_ns = arrived.due_ns, arrived.deadline_ns
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
    if not model.deadline_aware or (due_ns is None and request.deadline_ns is None):
        # In the order of these calls, which is not always that of `arrival_ns`.
        request.finish_by_ns = NEVER_NS + now_ns
    if arrived.priority or model.shares.several:
        request.rank = _rank(request, model, fleet, now_ns)
        request.promote_at_ns = promotion_ns_of(request, arrived.arrival_ns, model.settings.queue)
    else:
        # The same as `_rank`, but without a call: this is the path of most requests.
        request.rank = rank = model.default_rank
        if rank != model.best_rank:
            request.promote_at_ns = arrived.arrival_ns + model.promote_after_ns
    told = model.deadline_aware or model.learns_arrivals
    return _tell_policy(request, model, fleet, now_ns) if told else request


def _tell_policy(
    request: LiveRequest, model: Model, fleet: Fleet, now_ns: int
) -> LiveRequest | Refusal:
    """Tell the policy of an arrival; refuse it or make it best-effort if it cannot meet its target."""
    if model.learns_arrivals:
        active = model.running > 0 or model.queue.requests > 0
        try:
            model.policy.on_arrival(request.arrived.rows, request.rank, now_ns, active)
        except Exception as exc:  # noqa: BLE001 - a policy's own code; the model goes on without it
            model.policy_raised(exc)
    if not model.deadline_aware:
        return request
    times = model.times.get(request.bucket)
    if times is None or not times.curve:
        return request
    soonest_ns = fleet.next_free_ns(model.name, now_ns)
    done_ns = soonest_ns + times.expected[request.rows] - TOLERANCE_NS
    after_ns = 0.0
    if request.split is not None:
        after_ns = later_pieces_ns(request, model, times, fleet.slots(model.name))
        leave_time_for_rest(request, after_ns)
    if done_ns <= request.finish_by_ns:
        return request
    deadline_ns = (NEVER_NS if request.deadline_ns is None else request.deadline_ns) - after_ns
    if not model.reachable and done_ns <= deadline_ns:
        return request
    if model.serves_late and done_ns <= deadline_ns:
        make_best_effort(request, model)
        return request
    return _refuse_or_canary(request, model, times, fleet, now_ns, after_ns)


def _refuse_or_canary(
    request: LiveRequest,
    model: Model,
    times: ServiceTimes,
    fleet: Fleet,
    now_ns: int,
    after_ns: float,
) -> LiveRequest | Refusal:
    """Refuse a request that cannot meet its target, but admit a canary now and then.

    `after_ns`: what its later batches take, where it is split.
    """
    retry_ns = busy_ns(model, fleet, now_ns)
    deadline_ns = (NEVER_NS if request.deadline_ns is None else request.deadline_ns) - after_ns
    until_ns = request.finish_by_ns + int(after_ns)
    if request.deadline_ns is not None and (model.serves_late or not model.reachable):
        until_ns = request.deadline_ns
    soonest_ns = fleet.next_free_ns(model.name, now_ns)
    blame = blame_of(request, times, soonest_ns, until_ns, after_ns)
    idle = not model.running and not model.queue.requests
    takes_ns = times.expected[request.rows] - TOLERANCE_NS
    if not idle and now_ns + takes_ns <= request.finish_by_ns:
        return Refusal(Outcome.REJECTED, Reason.PREDICTED_LATE, retry_ns, blame)
    # A prediction is what refuses it, not the load; and the prediction may be wrong.
    canaries, costs_ns = times.canaries, times.curve[request.rows]
    no_other_traffic = _no_other_traffic(model, times, fleet, now_ns)
    if not times.reachable and soonest_ns + takes_ns <= deadline_ns:
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
        # The deadline is shorter than the fastest batch: no retry with the same deadline helps.
        return Refusal(Outcome.EXPIRED, Reason.DEADLINE_TOO_SHORT, None, blame)
    retry_ns = max(retry_ns, from_ns - now_ns)
    return Refusal(Outcome.REJECTED, Reason.PREDICTED_LATE, retry_ns, blame)


def _rank(request: LiveRequest, model: Model, fleet: Fleet, now_ns: int) -> int:
    """The request's rank: from its priority level, and whether its tenant is over its share."""
    over_share = False
    if model.shares.several:
        capacity = model.times.best_rate() * fleet.slots(model.name) * model.device_use.share
        over_share = model.shares.over(
            request.arrived.tenant, request.arrived.rows, capacity, now_ns
        )
    return rank_of(model.level(request.arrived.priority), over_share=over_share)


def _no_other_traffic(model: Model, times: ServiceTimes, fleet: Fleet, now_ns: int) -> bool:
    """Whether no other requests were served lately, which a long batch would delay."""
    return not fleet.shares_device(model.name) and all(
        each.canaries.no_batch_since(now_ns - CANARY_INTERVAL_NS)
        for each in model.times.values()
        if each is not times or not times.canaries.last_was_canary
    )
